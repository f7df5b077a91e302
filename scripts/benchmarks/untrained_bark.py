"""A Bark with random weights, saved as the published ones are: tiny, or of the size of bark-small."""

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

MAX_TEXT_TOKENS = 64  # of the tiny one, as are those of the next line
SEMANTIC_VOCABULARY, CODEBOOK, TEXT_OFFSET = 16, 32, 20
PRESETS = ("v2/en_speaker_1", "v2/de_speaker_3")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{c}" for c in LETTERS), *".,!?'0123456789"]
TEXT_IDS = TEXT_OFFSET + len(WORDS)


def write_tiny(folder: Path) -> Path:
    """Save the model, its tokenizer and two presets in `folder`. About 1 in 17 semantic tokens ends a piece."""
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = BarkModel(_tiny_config())
        for layer in model.codec_model.quantizer.layers:
            layer.codebook.embed.normal_()  # else zeros
        model.semantic.lm_head.weight.data.mul_(0.3)  # so that all tokens are likely, also the end
    return _save(folder, model, _tiny_generation(), SEMANTIC_VOCABULARY, CODEBOOK)


def write_small(folder: Path) -> Path:
    """The same with the sizes of suno/bark-small, whose vocabulary of words is not needed to measure it."""
    small = {"hidden_size": 768, "num_layers": 12, "num_heads": 12, "block_size": 1024}
    config = BarkConfig(
        semantic_config=BarkSemanticConfig(input_vocab_size=129_600, output_vocab_size=10_048, **small).to_dict(),
        coarse_acoustics_config=BarkCoarseConfig(input_vocab_size=12_096, output_vocab_size=12_096, **small).to_dict(),
        fine_acoustics_config=BarkFineConfig(input_vocab_size=1056, output_vocab_size=1056, **small).to_dict(),
        codec_config=EncodecConfig().to_dict(),  # by default that of 24 kHz
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = BarkModel(config)
    generation = BarkGenerationConfig.from_sub_model_configs(
        BarkSemanticGenerationConfig(do_sample=True, temperature=0.7),
        BarkCoarseGenerationConfig(do_sample=True, temperature=0.7),
        BarkFineGenerationConfig(temperature=0.5),
    )
    return _save(folder, model, generation, 10_000, 1024)


def _tiny_config() -> BarkConfig:
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
    coarse_ids = SEMANTIC_VOCABULARY + 2 * CODEBOOK
    return BarkConfig(
        semantic_config=BarkSemanticConfig(
            block_size=128, input_vocab_size=TEXT_IDS + 2, output_vocab_size=SEMANTIC_VOCABULARY + 4, **sizes
        ).to_dict(),
        coarse_acoustics_config=BarkCoarseConfig(
            block_size=128, input_vocab_size=coarse_ids + 2, output_vocab_size=coarse_ids + 2, **sizes
        ).to_dict(),
        fine_acoustics_config=BarkFineConfig(
            block_size=64, input_vocab_size=CODEBOOK + 1, output_vocab_size=CODEBOOK + 1, **sizes
        ).to_dict(),
        codec_config=codec.to_dict(),
    )


def _tiny_generation() -> BarkGenerationConfig:
    coarse_ids = SEMANTIC_VOCABULARY + 2 * CODEBOOK
    return BarkGenerationConfig.from_sub_model_configs(
        BarkSemanticGenerationConfig(
            do_sample=True,
            temperature=0.7,
            eos_token_id=SEMANTIC_VOCABULARY,
            pad_token_id=SEMANTIC_VOCABULARY,
            max_new_tokens=12,
            text_encoding_offset=TEXT_OFFSET,
            text_pad_token=TEXT_IDS,
            semantic_infer_token=TEXT_IDS + 1,
            semantic_vocab_size=SEMANTIC_VOCABULARY,
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


def _save(folder: Path, model: BarkModel, generation: BarkGenerationConfig, semantic: int, codebook: int) -> Path:
    model.save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps(generation.to_dict()))  # it cannot save itself
    BertTokenizerFast(vocab={word: k for k, word in enumerate(WORDS)}, do_lower_case=False).save_pretrained(folder)
    paths: dict[str, Any] = {"repo_or_path": "someone/bark"}
    for seed, name in enumerate(PRESETS):
        for key, tokens in voice_prompt(seed, semantic, codebook).items():
            path = folder / "speaker_embeddings" / f"{name}_{key}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, tokens)
            paths[name] = {**paths.get(name, {}), key: str(path.relative_to(folder))}
    (folder / "speaker_embeddings_path.json").write_text(json.dumps(paths))
    return folder


def voice_prompt(seed: int, semantic: int = SEMANTIC_VOCABULARY, codebook: int = CODEBOOK) -> dict[str, np.ndarray]:
    """Half a second of random tokens."""
    random = np.random.default_rng(seed)
    return {
        "semantic_prompt": random.integers(0, semantic, 25),
        "coarse_prompt": random.integers(0, codebook, (2, 37)),
        "fine_prompt": random.integers(0, codebook, (8, 37)),
    }
