"""Load diffusers' AudioLDM2Pipeline as the options say."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from common.errors import UserError, first_line
from synthesis.engines.options import AudioLDM2Options, missing

Precision = Literal["fp32", "bf16", "fp16"]

INDEX = "model_index.json"
EXAMPLE = "such as cvssp/audioldm2"
HUB_NAME = r"[\w-][\w.-]*/[\w-][\w.-]*"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
NEW_TOKENS = 8  # of the language model, if its config does not say so
SPECIAL_STATES = 5  # of its input: CLAP's state and the two ends of each encoder's states
UNSUITABLE = (ValueError, ArithmeticError, IndexError, AssertionError, NotImplementedError, RuntimeError)


def load_pipeline(options: AudioLDM2Options, device: torch.device, precision: Precision) -> Any:
    """The pipeline on `device`, ready to run; only its own objects are changed.

    Raises UserError for packages that are missing, a model that cannot be loaded or is another, and options that do
    not suit it.
    """
    try:
        import accelerate  # noqa: F401 (diffusers offloads with it)
        import diffusers
        from transformers import GPT2LMHeadModel
    except ModuleNotFoundError as error:
        raise missing(error.name or "diffusers") from error
    cls: Any = diffusers.AudioLDM2Pipeline
    _check_class(options.model, cls)
    dtype = DTYPES[precision]
    try:
        # The published models name GPT2Model, which lacks what the pipeline needs: diffusers' issue 12630.
        language_model = GPT2LMHeadModel.from_pretrained(options.model, subfolder="language_model", dtype=dtype)
        pipe = cls.from_pretrained(options.model, language_model=language_model, dtype=dtype)
    except (OSError, SafetensorError, UnpicklingError, *UNSUITABLE) as error:
        raise UserError(
            f"engine.model={options.model}: not all of it can be loaded: {first_line(error)}; download it again: "
            f"{_download(options.model)}"
        ) from error
    pipe.set_progress_bar_config(disable=True)
    pipe.generate_language_model = _Generator(language_model)
    _limit_prompts(pipe)
    _choose_scheduler(pipe, options)
    _choose_attention(pipe, options)
    if options.compile:
        _check_compiler()
        pipe.unet.compile()
    if options.offload:
        pipe.enable_model_cpu_offload(device=device)
    elif device.type != "cpu":  # where it is already; diffusers would warn of fp16 there, which works
        pipe.to(device)
    return pipe


class _Generator:
    """The pipeline's generation of hidden states, each from all before it, without a cache of keys and values.

    The pipeline's own hands over the cache under a name that transformers no longer uses, so it has none either, and
    warns.
    """

    def __init__(self, language_model: Any) -> None:
        self.language_model = language_model
        self.num_tokens: int = getattr(language_model.config, "max_new_tokens", None) or NEW_TOKENS

    def __call__(self, inputs_embeds: Tensor, attention_mask: Tensor, max_new_tokens: int | None = None) -> Tensor:
        """Continue states (B, S, D), of which the mask (B, S) is 1, by (B, num_tokens, D)."""
        assert max_new_tokens is None, "the number is the model's own"
        for _ in range(self.num_tokens):
            output = self.language_model(
                inputs_embeds=inputs_embeds, attention_mask=attention_mask, output_hidden_states=True, use_cache=False
            )
            inputs_embeds = torch.cat([inputs_embeds, output.hidden_states[-1][:, -1:]], 1)
            attention_mask = torch.cat([attention_mask, attention_mask.new_ones(len(attention_mask), 1)], 1)
        return inputs_embeds[:, -self.num_tokens :]


# ---- where the model is, and what ----


def _check_class(model: str, cls: Any) -> None:
    """Raise a UserError unless there is a pipeline of the right class."""
    index = _index_of_folder(Path(model)) if os.path.exists(model) else _index_from_hub(model)
    found = index.get("_class_name")
    if found != cls.__name__:
        raise UserError(f"engine.model={model}: it is a {found}; engine=audioldm2 runs {cls.__name__}, {EXAMPLE}")
    encoder = index.get("text_encoder_2")
    if isinstance(encoder, list) and encoder[-1] == "VitsModel":
        raise UserError(
            f"engine.model={model}: it reads a transcription aloud (its text_encoder_2 is VitsModel); engine=audioldm2 "
            f"runs models of sounds, with a T5EncoderModel, {EXAMPLE}"
        )


def _index_of_folder(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    where = f"engine.model={folder}"
    if path.is_file():
        return _json(path)
    if folder.is_file():
        raise UserError(f"{where}: a file; give the folder that has {INDEX}")
    if (folder / "config.json").is_file():
        config = _json(folder / "config.json")
        found = config.get("architectures") or config.get("_class_name") or config.get("model_type") or "unknown class"
        name = ", ".join(found) if isinstance(found, list) else found
        cure = "use engine=bark for it" if "Bark" in name else f"give the folder of an AudioLDM2Pipeline, {EXAMPLE}"
        raise UserError(f"{where}: one model ({name}), not a pipeline: it has config.json but no {INDEX}; {cure}")
    raise UserError(f"{where}: no model is in it, since it has no {INDEX}; {_download(str(folder))}")


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {first_line(error)}; download the model again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path}: damaged, it holds no settings; download the model again")
    return content


def _index_from_hub(model: str) -> dict[str, Any]:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HfHubHTTPError

    if not re.fullmatch(HUB_NAME, model):
        raise UserError(f"engine.model={model}: no such folder, and no name on the hub, {EXAMPLE}")
    try:
        path = hf_hub_download(model, INDEX)
    except (OSError, ValueError, HfHubHTTPError) as error:
        raise UserError(
            f"engine.model={model}: no such folder, and not to be had from the Hugging Face Hub: {first_line(error)}; "
            f"correct the name, or download the model where there is a network: {_download(model)}"
        ) from error
    return _json(Path(path))


def _download(model: str) -> str:
    name = model if re.fullmatch(HUB_NAME, model) and not os.path.exists(model) else "cvssp/audioldm2"
    return f"hf download {name} --local-dir DIR, and set engine.model=DIR"


# ---- options ----


def _limit_prompts(pipe: Any) -> None:
    """Let the tokenizers know how many tokens the models can take: some tokenizers allow more, or any number."""
    text = pipe.text_encoder.config.text_config
    clap = text.max_position_embeddings - text.pad_token_id - 1  # RoBERTa counts positions from there
    t5 = pipe.language_model.config.n_positions - SPECIAL_STATES - pipe.generate_language_model.num_tokens
    pipe.tokenizer.model_max_length = min(pipe.tokenizer.model_max_length, clap)
    pipe.tokenizer_2.model_max_length = min(pipe.tokenizer_2.model_max_length, t5)


def _choose_scheduler(pipe: Any, options: AudioLDM2Options) -> None:
    if options.scheduler is not None:
        compatible = {_short(cls.__name__).lower(): cls for cls in pipe.scheduler.compatibles}
        chosen = compatible.get(_short(options.scheduler).lower())
        if chosen is None:
            names = ", ".join(sorted(_short(cls.__name__) for cls in compatible.values()))
            raise UserError(f"engine.scheduler={options.scheduler}: compatible with this model are: {names}")
        try:
            pipe.scheduler = chosen.from_config(pipe.scheduler.config)
        except (ImportError, *UNSUITABLE) as error:
            reason = str(error).strip().split("\n", 1)[0]
            raise UserError(f"engine.scheduler={options.scheduler}: {reason}; choose another") from error
    try:
        pipe.scheduler.set_timesteps(options.num_inference_steps)
    except UNSUITABLE as error:
        raise UserError(
            f"engine.num_inference_steps={options.num_inference_steps}: not with the scheduler "
            f"{_short(type(pipe.scheduler).__name__)}: {first_line(error)}; use another number, such as 200"
        ) from error


def _short(name: str) -> str:
    """DDIMScheduler -> DDIM, in any case of letters."""
    return re.sub("scheduler$", "", name, flags=re.IGNORECASE)


def _choose_attention(pipe: Any, options: AudioLDM2Options) -> None:
    from diffusers.models import attention_processor

    processor: Any = (
        attention_processor.AttnProcessor2_0 if options.attention == "sdpa" else attention_processor.AttnProcessor
    )
    for model in (pipe.unet, pipe.vae):
        model.set_attn_processor(processor())


def _check_compiler() -> None:
    """Raise a UserError if torch.compile would not find a C++ compiler, which it needs for GPUs too."""
    name = os.environ.get("CXX") or ("clang++" if sys.platform == "darwin" else "g++")
    if shutil.which(name.split()[0]) is None:
        raise UserError(
            f"engine.compile=true needs a C++ compiler, and {name} is not found; install it (on Debian and Ubuntu: apt "
            "install g++), name another in the environment variable CXX, or set engine.compile=false"
        )
