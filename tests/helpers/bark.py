"""A tiny Bark with random weights, saved as the published ones are. For tests that need transformers: it imports it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    BarkCoarseConfig,
    BarkConfig,
    BarkFineConfig,
    BarkModel,
    BarkSemanticConfig,
    BertTokenizerFast,
    EncodecConfig,
)
from transformers.models.bark.generation_configuration_bark import (
    BarkCoarseGenerationConfig,
    BarkFineGenerationConfig,
    BarkGenerationConfig,
    BarkSemanticGenerationConfig,
)

MAX_TEXT_TOKENS = 64
SEMANTIC_VOCABULARY, CODEBOOK, TEXT_OFFSET = 16, 32, 20
PRESETS = ("v2/en_speaker_1", "v2/de_speaker_3")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def write_bark(folder: Path) -> Path:
    """Save the model, its tokenizer and two presets in `folder`. About 1 in 17 semantic tokens ends a piece."""
    vocabulary = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        *LETTERS,
        *(f"##{c}" for c in LETTERS),
        *".,!?'0123456789",
    ]
    end = SEMANTIC_VOCABULARY
    num_text_ids = TEXT_OFFSET + len(vocabulary)
    sizes = {"hidden_size": 32, "num_layers": 1, "num_heads": 2, "initializer_range": 0.3}
    codec = EncodecConfig(
        target_bandwidths=[6.0],
        codebook_size=CODEBOOK,
        codebook_dim=16,
        hidden_size=16,
        num_filters=2,
        num_lstm_layers=1,
        upsampling_ratios=[20, 16],
    )
    coarse_ids = end + 2 * CODEBOOK
    config = BarkConfig(
        semantic_config=BarkSemanticConfig(
            block_size=128, input_vocab_size=num_text_ids + 2, output_vocab_size=end + 4, **sizes
        ).to_dict(),
        coarse_acoustics_config=BarkCoarseConfig(
            block_size=128, input_vocab_size=coarse_ids + 2, output_vocab_size=coarse_ids + 2, **sizes
        ).to_dict(),
        fine_acoustics_config=BarkFineConfig(
            block_size=64, input_vocab_size=CODEBOOK + 1, output_vocab_size=CODEBOOK + 1, **sizes
        ).to_dict(),
        codec_config=codec.to_dict(),
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = BarkModel(config)
        for layer in model.codec_model.quantizer.layers:
            layer.codebook.embed.normal_()  # else zeros
        model.semantic.lm_head.weight.data.mul_(0.3)  # so that all tokens are likely, also the end
    model.save_pretrained(folder)
    generation = BarkGenerationConfig.from_sub_model_configs(
        BarkSemanticGenerationConfig(
            do_sample=True,
            temperature=0.7,
            eos_token_id=end,
            pad_token_id=end,
            max_new_tokens=12,
            text_encoding_offset=TEXT_OFFSET,
            text_pad_token=num_text_ids,
            semantic_infer_token=num_text_ids + 1,
            semantic_vocab_size=end,
            max_input_semantic_length=MAX_TEXT_TOKENS,
        ),
        BarkCoarseGenerationConfig(
            do_sample=True,
            temperature=0.7,
            coarse_semantic_pad_token=coarse_ids,
            coarse_infer_token=coarse_ids + 1,
            max_coarse_input_length=32,
            max_coarse_history=40,
            sliding_window_len=24,
        ),
        BarkFineGenerationConfig(temperature=0.5, max_fine_history_length=16, max_fine_input_length=32),
        codebook_size=CODEBOOK,
    )
    (folder / "generation_config.json").write_text(json.dumps(generation.to_dict()))  # it cannot save itself
    BertTokenizerFast(vocab={word: k for k, word in enumerate(vocabulary)}, do_lower_case=False).save_pretrained(folder)
    _write_presets(folder)
    return folder


def voice_prompt(seed: int) -> dict[str, np.ndarray]:
    """Half a second of random tokens."""
    random = np.random.default_rng(seed)
    return {
        "semantic_prompt": random.integers(0, SEMANTIC_VOCABULARY, 25),
        "coarse_prompt": random.integers(0, CODEBOOK, (2, 37)),
        "fine_prompt": random.integers(0, CODEBOOK, (8, 37)),
    }


def _write_presets(folder: Path) -> None:
    paths: dict[str, Any] = {"repo_or_path": "someone/bark"}
    for seed, name in enumerate(PRESETS):
        for key, tokens in voice_prompt(seed).items():
            path = folder / "speaker_embeddings" / f"{name}_{key}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, tokens)
            paths[name] = {**paths.get(name, {}), key: str(path.relative_to(folder))}
    (folder / "speaker_embeddings_path.json").write_text(json.dumps(paths))
