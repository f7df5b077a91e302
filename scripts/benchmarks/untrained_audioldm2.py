"""An AudioLDM 2 with random weights, saved as the published ones are: tiny, or of the size of cvssp/audioldm2."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

SAMPLE_RATE = 16_000
CLAP_TOKENS, T5_TOKENS = 60, 48  # the longest prompts
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZé.,!'-0123456789"


def write_tiny(folder: Path, language_model: str = "GPT2Model") -> Path:
    """Save a pipeline to `folder`; the same `language_model` in either class has the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {**_text_encoders(), **_diffusion()}
        for part in parts.values():
            if isinstance(part, torch.nn.Module):
                _spread(part)
    return _save(folder, parts, language_model)


def write_base(folder: Path) -> Path:
    """The same with the sizes of cvssp/audioldm2, whose vocabularies are not needed to measure it."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = {**_text_encoders(), **_base_text_encoders(), **_base_diffusion()}
    return _save(folder, parts, "GPT2Model")


def _save(folder: Path, parts: dict[str, Any], language_model: str) -> Path:
    parts["language_model"].config.max_new_tokens = 8
    diffusers.AudioLDM2Pipeline(**parts).save_pretrained(folder)
    if language_model == "GPT2Model":  # as cvssp/audioldm2 is
        shutil.rmtree(folder / "language_model")
        parts["language_model"].transformer.save_pretrained(folder / "language_model")
        edit(folder / "model_index.json", language_model=["transformers", "GPT2Model"])
    return folder


def variant(folder: Path, of: Path) -> Path:
    """A copy of a saved pipeline, for a test to change."""
    shutil.copytree(of, folder)
    return folder


def edit(path: Path, **values: Any) -> None:
    """Set `values` in a JSON file; None removes one."""
    content = json.loads(path.read_text(encoding="utf-8")) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}), encoding="utf-8")


def _spread(module: torch.nn.Module) -> None:
    """Make the weights large enough that the prompt and each layer are heard: initial ones are near 0."""
    for parameter in module.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 1.2 / parameter[0].numel() ** 0.5)


def _text_encoders() -> dict[str, Any]:
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "projection_dim": 16}
    text = transformers.ClapTextConfig(
        **size, num_attention_heads=2, vocab_size=400, pad_token_id=1, max_position_embeddings=CLAP_TOKENS + 2
    )
    audio = transformers.ClapAudioConfig(
        **{**size, "hidden_size": 32},
        spec_size=64,
        window_size=4,
        num_mel_bins=64,
        depths=[1, 1],
        num_attention_heads=[2, 2],
        patch_size=4,
        patch_stride=[4, 4],
        patch_embeds_hidden_size=16,
    )
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    letters = [chr(k) for k in range(0x21, 0x143)]  # which stand for bytes, see GPT-2
    pieces = ["▁", *LETTERS]
    return {
        "text_encoder": transformers.ClapModel(
            transformers.ClapConfig(text_config=text, audio_config=audio, projection_dim=16)
        ),
        "tokenizer": transformers.RobertaTokenizerFast(
            vocab={token: k for k, token in enumerate([*special, *letters])}, merges=[], model_max_length=CLAP_TOKENS
        ),
        "feature_extractor": transformers.ClapFeatureExtractor(max_length_s=1, hop_length=800, truncation="rand_trunc"),
        "text_encoder_2": transformers.T5EncoderModel(
            transformers.T5Config(vocab_size=200, d_model=16, d_ff=32, d_kv=8, num_heads=2, num_layers=1)
        ),
        "tokenizer_2": transformers.T5TokenizerFast(
            vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((piece, -2.0) for piece in pieces)],
            model_max_length=T5_TOKENS,
        ),
        "projection_model": diffusers.AudioLDM2ProjectionModel(16, 16, 16),
        "language_model": transformers.GPT2LMHeadModel(
            transformers.GPT2Config(
                n_embd=16, n_head=2, n_layer=1, vocab_size=50, n_positions=99, bos_token_id=0, eos_token_id=0
            )
        ),
    }


def _diffusion() -> dict[str, Any]:
    return {
        "unet": diffusers.AudioLDM2UNet2DConditionModel(
            block_out_channels=(8, 16),
            layers_per_block=1,
            sample_size=8,
            in_channels=4,
            out_channels=4,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            cross_attention_dim=([None, 16, 16], [None, 16, 16]),
            attention_head_dim=2,
            norm_num_groups=4,
        ),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=[8, 8],
            in_channels=1,
            out_channels=1,
            down_block_types=["DownEncoderBlock2D"] * 2,
            up_block_types=["UpDecoderBlock2D"] * 2,
            latent_channels=4,
            norm_num_groups=4,
        ),
        "vocoder": transformers.SpeechT5HifiGan(
            transformers.SpeechT5HifiGanConfig(
                model_in_dim=8,
                sampling_rate=SAMPLE_RATE,
                upsample_initial_channel=8,
                upsample_rates=[8, 8],
                upsample_kernel_sizes=[16, 16],
                resblock_kernel_sizes=[3],
                resblock_dilation_sizes=[[1, 3]],
                normalize_before=False,
            )
        ),
        "scheduler": _scheduler(),
    }


def _scheduler() -> diffusers.DDIMScheduler:
    return diffusers.DDIMScheduler(
        beta_start=0.0015,
        beta_end=0.0195,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _base_text_encoders() -> dict[str, Any]:
    clap = transformers.ClapConfig()
    t5 = transformers.T5Config(
        d_model=1024, d_ff=2816, d_kv=64, num_heads=16, num_layers=24, feed_forward_proj="gated-gelu"
    )
    gpt2 = transformers.GPT2Config()
    return {
        "text_encoder": transformers.ClapModel(clap),
        "feature_extractor": transformers.ClapFeatureExtractor(truncation="rand_trunc"),
        "text_encoder_2": transformers.T5EncoderModel(t5),
        "projection_model": diffusers.AudioLDM2ProjectionModel(clap.projection_dim, t5.d_model, gpt2.n_embd),
        "language_model": transformers.GPT2LMHeadModel(gpt2),
    }


def _base_diffusion() -> dict[str, Any]:
    widths = (128, 256, 384, 640)
    return {
        "unet": diffusers.AudioLDM2UNet2DConditionModel(
            block_out_channels=widths,
            layers_per_block=2,
            in_channels=8,
            out_channels=8,
            down_block_types=("DownBlock2D", *["CrossAttnDownBlock2D"] * 3),
            up_block_types=(*["CrossAttnUpBlock2D"] * 3, "UpBlock2D"),
            cross_attention_dim=([None, 768, 1024],) * len(widths),
        ),
        "vae": diffusers.AutoencoderKL(
            block_out_channels=[128, 256, 512],
            layers_per_block=2,
            in_channels=1,
            out_channels=1,
            down_block_types=["DownEncoderBlock2D"] * 3,
            up_block_types=["UpDecoderBlock2D"] * 3,
            latent_channels=8,
        ),
        "vocoder": transformers.SpeechT5HifiGan(
            transformers.SpeechT5HifiGanConfig(
                model_in_dim=64,
                sampling_rate=SAMPLE_RATE,
                upsample_initial_channel=1024,
                upsample_rates=[5, 4, 2, 2, 2],
                upsample_kernel_sizes=[16, 16, 8, 4, 4],
                normalize_before=False,
            )
        ),
        "scheduler": _scheduler(),
    }
