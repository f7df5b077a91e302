"""Bark's sub-models, as transformers has them: loading, fused attention, offload, and a text's way through them.

Shapes: B texts, L text tokens, S semantic tokens (about 50 per second), T codec frames (75 per second), N samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import UserError, first_line
from common.ops.precision import Precision
from synthesis.engines.options import BarkOptions, missing

History = dict[str, Tensor]  # semantic_prompt (S), coarse_prompt (2, T), fine_prompt (8, T), on the model's device
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PARTS = ("semantic", "coarse_acoustics", "fine_acoustics")
LOWEST_TEMPERATURE = 0.01  # half precision cannot hold what a lower one makes of the logits
JUST_ABOVE_1 = math.nextafter(1.0, 2.0)
"""transformers takes the most likely fine code if the temperature is None or exactly 1; this one samples."""


@dataclass(frozen=True)
class Sampling:
    """How each sub-model generates: the configs of transformers, with the options of the engine in them."""

    semantic: Any
    coarse: Any
    fine: Any
    codebook_size: int

    @property
    def max_text_tokens(self) -> int:
        return int(self.semantic.max_input_semantic_length)


@dataclass(frozen=True)
class Made:
    """What the model made of one text."""

    audio: Tensor  # (N) on the model's device; empty if the model ended before its first token
    is_truncated: bool  # the semantic model came to its limit
    tokens: History = field(repr=False)  # to go on in this voice; without keys if there is no audio


def load_sampling(options: BarkOptions, configs: dict[str, Any], semantic_block: int) -> Sampling:
    """The model's own generation configs (`generation_config.json`) with `options`. `semantic_block` is the most
    positions of its semantic model."""
    from transformers.models.bark import generation_configuration_bark as bark

    try:
        own = [dict(configs[f"{part}_config"]) for part in PARTS]
    except (KeyError, TypeError) as error:
        raise UserError(
            f"engine.model={options.model}: its generation_config.json has no {error}; download the model again"
        ) from error
    for name in ("semantic", "coarse", "fine"):
        temperature = getattr(options, f"{name}_temperature")
        if temperature is not None and 0 < temperature < LOWEST_TEMPERATURE:
            raise UserError(
                f"engine.{name}_temperature={temperature}: the least is {LOWEST_TEMPERATURE}; 0 takes the most likely"
            )
    own[0].update(_sampled(options.semantic_temperature))
    own[1].update(_sampled(options.coarse_temperature))
    if options.fine_temperature is not None:
        chosen = JUST_ABOVE_1 if options.fine_temperature == 1 else options.fine_temperature
        own[2]["temperature"] = chosen or None
    if options.min_eos_p is not None:
        own[0]["min_eos_p"] = options.min_eos_p or None
    if options.max_semantic_tokens is not None:
        own[0]["max_new_tokens"] = options.max_semantic_tokens
    semantic = bark.BarkSemanticGenerationConfig(**own[0])
    most = semantic_block - semantic.max_input_semantic_length  # behind it and one token more; the last is not read
    if semantic.max_new_tokens > most:
        raise UserError(f"engine.max_semantic_tokens={semantic.max_new_tokens}: this model has room for {most}")
    coarse, fine = bark.BarkCoarseGenerationConfig(**own[1]), bark.BarkFineGenerationConfig(**own[2])
    return Sampling(semantic, coarse, fine, int(configs.get("codebook_size", 1024)))


def _sampled(temperature: float | None) -> dict[str, Any]:
    if temperature is None:
        return {}
    return {"do_sample": temperature > 0, "temperature": temperature or 1.0}


def read_configs(model: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """config.json and generation_config.json of a model. Raises UserError if it is not a Bark."""
    with cures(model):
        from transformers import GenerationConfig, PreTrainedConfig

        if Path(model).expanduser().is_dir():
            if not (Path(model) / "config.json").exists():
                raise UserError(f"engine.model={model}: this folder has no config.json; set the folder of a model")
        elif Path(model).is_absolute() or model.startswith((".", "~")) or model.count("/") > 1:
            raise UserError(f"engine.model={model}: there is no such folder; set the folder of a model, or its name")
        config = PreTrainedConfig.get_config_dict(model)[0]
        if config.get("model_type") != "bark":
            kind = " ".join(config.get("architectures") or [f"of type {config.get('model_type')}"])
            raise UserError(f"engine.model={model} is {kind}, no BarkModel; set a Bark, such as suno/bark-small")
        generation = GenerationConfig.from_pretrained(model).to_dict()
    return config, generation


def load_processor(model: str) -> Any:
    """The BarkProcessor: tokens of texts, and presets."""
    with cures(model):
        from transformers import BarkProcessor

        processor = BarkProcessor.from_pretrained(model)
    if len(processor.tokenizer) <= len(processor.tokenizer.all_special_tokens):  # what it makes up without its file
        raise UserError(f"engine.model={model}: the tokenizer has no words, its file is missing; download it again")
    return processor


def load_model(options: BarkOptions, device: torch.device, precision: Precision) -> Any:
    """The BarkModel on `device`, or in the memory of the CPU, from where its parts go to `device`."""
    with cures(options.model):
        from transformers import BarkModel

        model, found = BarkModel.from_pretrained(
            options.model, attn_implementation="eager", dtype=DTYPES[precision], output_loading_info=True
        )
    if found["missing_keys"]:
        raise UserError(
            f"engine.model={options.model}: {len(found['missing_keys'])} of its weights are missing, such as "
            f"{min(found['missing_keys'])}; download it again"
        )
    if options.attention == "sdpa":
        fuse_attention(model)
    if options.offload:
        offload(model, device)
    else:
        model.to(device)
    return model.eval()


@contextmanager
def cures(model: str) -> Iterator[None]:
    """Raise what goes wrong with loading `model` as a UserError with its cure."""
    try:
        yield
    except UserError:
        raise
    except ModuleNotFoundError as error:
        raise missing(error.name or "transformers") from error
    except Exception as error:  # of the hub, of the network, of safetensors, of tokenizers
        if Path(model).is_dir():
            cure = "a file of it is missing or damaged: download it again"
        else:
            cure = (
                f"it is no folder, and cannot be downloaded; where there is a network, run hf download {model} "
                "--local-dir DIR, and set engine.model=DIR"
            )
        raise UserError(f"engine.model={model}: {cure} ({type(error).__name__}: {first_line(error)})") from error


def fuse_attention(model: nn.Module) -> None:
    """Compute the attention of all sub-models with PyTorch's fused kernels; transformers has none for Bark."""
    from transformers.models.bark.modeling_bark import BarkSelfAttention

    for module in model.modules():
        if isinstance(module, BarkSelfAttention):
            module._attn = partial(_fused_attention, module)


def _fused_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None = None
) -> tuple[Tensor, None]:
    """BarkSelfAttention._attn without the weights: query (B, heads, Q, D), key and value (B, heads, K, D), and what is
    added to the scores, (B, 1, Q, K). The queries are the last Q of the K positions."""
    num_queries, num_keys = query.shape[-2], key.shape[-2]
    is_causal = module.is_causal and num_queries > 1  # one query may look at all keys
    mask = attention_mask
    if is_causal and (mask is not None or num_queries < num_keys):
        is_causal = False
        visible = module.bias[:, :, num_keys - num_queries : num_keys, :num_keys]
        mask = visible if mask is None else mask.masked_fill(~visible, torch.finfo(mask.dtype).min)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=is_causal), None


def offload(model: Any, device: torch.device) -> None:
    """`enable_cpu_offload` of BarkModel for any device: a sub-model is on `device` while it runs, else on the CPU."""
    try:
        from accelerate import cpu_offload_with_hook
    except ModuleNotFoundError as error:
        raise missing("accelerate") from error
    # It also runs before the rest of the semantic model.
    model.semantic.input_embeds_layer, _ = cpu_offload_with_hook(model.semantic.input_embeds_layer, device)
    hook = None
    for part in PARTS:
        _, hook = cpu_offload_with_hook(getattr(model, part), device, prev_module_hook=hook)
    model.fine_acoustics_hook = hook  # by these names BarkModel.generate finds them too
    _, model.codec_model_hook = cpu_offload_with_hook(model.codec_model, device, prev_module_hook=hook)


@torch.no_grad()
def generate(model: Any, text: dict[str, Tensor], history: History | None, sampling: Sampling) -> list[Made]:
    """BarkModel.generate with return_output_lengths, which gives the tokens too, and takes texts without any.

    text: input_ids and attention_mask (B, L) of the processor, on the device.
    """
    configs = {"history_prompt": history, "semantic_generation_config": sampling.semantic}
    tokens = model.semantic.generate(text["input_ids"], attention_mask=text["attention_mask"], **configs)  # (B, S)
    lengths, size = (tokens != sampling.semantic.semantic_pad_token).sum(1), tokens.shape[1]
    empty = Made(torch.empty(0, device=tokens.device), False, {})
    if not (rows := lengths.nonzero()[:, 0]).numel():
        return [empty] * len(lengths)
    semantic = tokens[rows]
    configs |= {"coarse_generation_config": sampling.coarse, "codebook_size": sampling.codebook_size}
    coarse, num_codes = model.coarse_acoustics.generate(semantic, return_output_lengths=True, **configs)  # changes pads
    fine = model.fine_acoustics.generate(coarse, fine_generation_config=sampling.fine, **configs)  # (B, 8, T)
    frames = (num_codes // sampling.coarse.n_coarse_codebooks).tolist()
    audio = _decode(model, fine, frames)
    made = [empty] * len(lengths)
    for i, row in enumerate(rows.tolist()):
        codes = fine[i, :, : frames[i]]
        spoken = {
            "semantic_prompt": semantic[i, : lengths[row]],
            "coarse_prompt": codes[: sampling.coarse.n_coarse_codebooks],
            "fine_prompt": codes,
        }
        made[row] = Made(audio[i].reshape(-1), bool(lengths[row] == size), spoken)
    return made


def _decode(model: Any, codes: Tensor, frames: list[int]) -> list[Tensor]:
    """The audio (N) of codes (B, 8, T), each up to its own end. Hooks only see calls of forward, which EnCodec's
    decoder is not."""
    hook = getattr(model, "codec_model_hook", None)
    if hook is not None:
        model.fine_acoustics_hook.offload()
        model.codec_model.to(codes.device)
    audio: list[Tensor] = model.codec_decode(codes, frames)
    if hook is not None:
        hook.offload()
    return audio
