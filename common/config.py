"""The typed configuration. Hydra's dictionaries stop at the entry scripts; from there on these dataclasses are passed.

`from_dict` is strict: an unknown key, a missing value or a wrong type is a UserError that names the key and the cure.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import UserError, did_you_mean
from common.ops.precision import PRECISIONS


@dataclass(frozen=True)
class AudioConfig:
    """Everything that fixes a mel spectrogram. Two models can be chained only if theirs are equal."""

    sample_rate: int = 22050  # Hz
    n_fft: int = 1024  # samples
    win_length: int = 1024  # samples, periodic Hann
    hop_length: int = 256  # samples
    n_mels: int = 80
    fmin: float = 0.0  # Hz
    fmax: float = 8000.0  # Hz
    log_floor: float = 1e-5  # magnitudes below are set to it before the logarithm

    def __post_init__(self) -> None:
        if not 0 <= self.fmin < self.fmax <= self.sample_rate / 2:
            raise UserError(
                f"audio.fmin={self.fmin}, audio.fmax={self.fmax}: need 0 <= fmin < fmax <= sample_rate / 2 = "
                f"{self.sample_rate / 2}"
            )
        if not 0 < self.hop_length <= self.win_length <= self.n_fft:
            raise UserError(
                f"audio.hop_length={self.hop_length}, win_length={self.win_length}, n_fft={self.n_fft}: need "
                "0 < hop_length <= win_length <= n_fft"
            )
        if self.n_mels < 1 or self.log_floor <= 0:
            raise UserError(f"audio.n_mels={self.n_mels}, log_floor={self.log_floor}: both must be positive")


@dataclass
class DataConfig:
    """Where clips, transcripts and mels are. Paths inside a filelist are relative to `root`."""

    root: str = "???"
    train_filelist: str = "???"
    val_filelist: str = "???"
    test_filelist: str | None = None  # only prepare_mels reads it
    mel_dir: str = "???"
    cleaners: str = "english_cleaners"
    characters: str | None = None  # what Tacotron 2 can read beside ARPAbet; none: the reference's punctuation and A-z
    follow_links: bool = False  # accept clips behind symbolic links that lead out of `root`
    convert_audio: bool = False  # resample and mix down clips of another format instead of refusing them
    segment_length: int = 8000  # samples; WaveGlow trains on random pieces of this length
    sentences: list[str] = field(default_factory=list)  # Tacotron 2 speaks them at each validation
    limit: int | None = None  # use only the first so many clips of each list
    num_workers: int = 1  # loader processes for each rank; 0 loads in the training process

    def __post_init__(self) -> None:
        if self.num_workers < 0 or self.segment_length < 1 or (self.limit is not None and self.limit < 1):
            raise UserError(
                f"data.num_workers={self.num_workers} must be 0 or more, segment_length={self.segment_length} and "
                f"limit={self.limit} at least 1"
            )


@dataclass
class TrainerConfig:
    """How long, how fast, in which precision. The optimizer is Adam."""

    batch_size: int = 32  # clips, for each rank and each of the accumulation steps
    batch_frames: int | None = None  # mel frames of such a batch at most, padding included: bounds its memory
    epochs: int = 1
    max_steps: int | None = None  # stop after so many optimizer steps
    max_minutes: float | None = None  # stop, with a checkpoint, after so many minutes of this run
    learning_rate: float = 1e-3
    anneal_epochs: list[int] = field(default_factory=list)  # from these epochs on ...
    anneal_factors: list[float] = field(default_factory=list)  # ... the rate is learning_rate times these
    weight_decay: float = 0.0
    grad_clip_norm: float | None = None  # none: no clipping; the norm is logged all the same
    ema_decay: float | None = None  # keep an average of the weights that forgets at this rate; it validates and speaks
    accumulation_steps: int = 1  # batches for one optimizer step
    precision: str = "fp32"  # fp32, bf16 or fp16 (with dynamic loss scaling)
    tf32: bool = True  # on GPUs: TensorFloat-32 for what stays in float32
    device: str = "auto"  # auto, cpu or cuda
    log_every_steps: int = 10
    val_every_steps: int = 500
    val_batches: int | None = None  # validate on so many batches of each rank only
    checkpoint_every_steps: int = 500
    keep_last: int = 2  # checkpoints kept beside the best one
    guided_attention_weight: float = 0.0  # Tacotron 2: draw the attention to the diagonal; 5 aligns little data soon
    guided_attention_steps: int | None = None  # that weight falls to 0 over so many steps; none: it stays
    mel_delta_weight: float = 0.0  # Tacotron 2: of the differences between neighbouring mel bands; 3 brings harmonics
    spectral_weight: float = 0.0  # WaveGlow: of the distance between what it speaks and the clip, beside the likelihood
    spectral_from_step: int = 0  # until then by the likelihood alone, which is faster and brings it near
    checkpoint_activations: bool = False  # WaveGlow: compute activations twice instead of keeping them; saves memory
    align_by_step: int | None = None  # Tacotron 2: warn if its attention does not follow the text by this step
    dry_run: bool = True  # try the largest batch first, so that memory runs out at once or never
    timeout_minutes: float = 10.0  # a rank or loader process that takes longer for anything counts as lost
    progress: bool = True
    fresh: bool = False  # remove what an earlier run left in run_dir first; for debugging
    profile: bool = False  # write a trace of the run to run_dir/profile.json; for a few steps only

    def __post_init__(self) -> None:
        for key, choices in (("precision", PRECISIONS), ("device", ("auto", "cpu", "cuda"))):
            value = getattr(self, key)
            if value not in choices:
                raise UserError(f"trainer.{key}={value!r} is unknown{did_you_mean(value, choices)}")
        counts = ["batch_size", "epochs", "accumulation_steps", "keep_last"]
        counts += ["log_every_steps", "val_every_steps", "checkpoint_every_steps"]
        for key in counts:
            if getattr(self, key) < 1:
                raise UserError(f"trainer.{key}={getattr(self, key)} must be at least 1")
        if not self.weight_decay >= 0 or any(not factor > 0 for factor in self.anneal_factors):
            raise UserError(
                f"trainer.weight_decay={self.weight_decay} must not be negative, anneal_factors={self.anneal_factors} "
                "must be positive"
            )
        for key in ("guided_attention_weight", "mel_delta_weight", "spectral_weight", "spectral_from_step"):
            if not getattr(self, key) >= 0:
                raise UserError(f"trainer.{key}={getattr(self, key)} must not be negative")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(f"trainer.ema_decay={self.ema_decay} must be between 0 and 1 (or null to turn it off)")
        positive = ["learning_rate", "max_steps", "max_minutes", "grad_clip_norm", "val_batches", "batch_frames"]
        for key in [*positive, "align_by_step", "timeout_minutes", "guided_attention_steps"]:
            value = getattr(self, key)
            if value is not None and not 0 < value < float("inf"):
                raise UserError(f"trainer.{key}={value} must be positive (or null to turn the option off)")
        if len(self.anneal_epochs) != len(self.anneal_factors) or self.anneal_epochs != sorted(self.anneal_epochs):
            raise UserError(
                f"trainer.anneal_epochs={self.anneal_epochs} and anneal_factors={self.anneal_factors} must have the "
                "same length, the epochs ascending"
            )


@dataclass
class TrainConfig:
    """What train.py is given. `model` is checked by the task that its name selects."""

    audio: AudioConfig
    data: DataConfig
    trainer: TrainerConfig
    model: dict[str, Any]
    run_dir: str
    seed: int = 0
    init_from: str | None = None  # start with the weights of this checkpoint, of any layout
    warm_start: bool = False  # take of it what fits, where symbols, mels or sizes differ

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.warm_start and self.init_from is None:
            raise UserError("warm_start=true: what from? set init_from=CHECKPOINT")

    def model_values(self) -> dict[str, Any]:
        """`model` without its name: the fields of the task's own config class."""
        return {key: value for key, value in self.model.items() if key != "name"}


def check_equal(**pairs: tuple[int, int]) -> None:
    """Model sizes that follow from something else: {model key: (value, what it must be)}."""
    for key, (value, expected) in pairs.items():
        if value != expected:
            raise UserError(f"model.{key}={value} must be {expected}, which follows from audio and data: leave it out")


def check_seed(seed: int) -> None:
    if not 0 <= seed < 2**32:
        raise UserError(f"seed={seed} must be from 0 to 2**32 - 1")


def from_dict(cls: type[Any], values: Mapping[str, Any], where: str = "") -> Any:
    """Build the dataclass `cls` from nested mappings; `where` is the key that `values` stands at, for messages."""
    known = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in known:
            choices = [prefix + name for name in known]
            raise UserError(
                f"unknown config key '{prefix}{key}' (value {values[key]!r}){did_you_mean(prefix + key, choices)}"
            )
    arguments = {}
    for name, f in known.items():
        if name in values:
            arguments[name] = _convert(values[name], hints[name], prefix + name)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise UserError(f"config key '{prefix}{name}' has no value; set it with {prefix}{name}=VALUE")
    return cls(**arguments)


def _convert(value: Any, hint: Any, key: str) -> Any:
    """`value` as the type `hint`; int is taken for float, nothing else is changed."""
    if isinstance(value, str) and value == "???":
        raise UserError(f"config key '{key}' has no value; set it with {key}=VALUE")
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        cls = typing.cast(type[Any], hint)
        if not isinstance(value, Mapping):
            raise UserError(f"config key '{key}' is {value!r}; it needs the keys of {cls.__name__}")
        return from_dict(cls, value, key)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:  # only `X | None` is used
        return None if value is None else _convert(value, arguments[0], key)
    if origin is list and isinstance(value, list | tuple):
        return [_convert(item, arguments[0], f"{key}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is str and type(value) is int:  # run_dir=2024
        return str(value)
    if hint is str and value == "":
        raise UserError(f"config key '{key}' is empty; set it with {key}=VALUE")
    if origin is None and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint))
    raise UserError(f"config key '{key}' is {value!r} ({type(value).__name__}); it must be of type {expected}")
