"""The options of a training run and of its data. The entry scripts convert Hydra's dictionaries to these dataclasses.

The options of a model are at the top of its model.py, those of its training in its task.py. What every key means is
written beside it in conf/, where `--help` finds it: audio/ljspeech.yaml, data/ljspeech.yaml, trainer/default.yaml,
train.yaml.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from common.device import Device
from common.errors import UserError
from common.ops.precision import Precision
from common.schema import Count, Index, NonNegative, Options, Positive, Probability, Range, Seed

TrackerName = Literal["tensorboard", "mlflow", "wandb", "trackio"]
Floor = Annotated[float, Range(least=1e-30)]  # float32 would round a smaller one to 0, whose logarithm is infinite


@dataclass(frozen=True)
class AudioConfig(Options):
    """Everything that defines a mel spectrogram. Two models can be chained only if their AudioConfigs are equal."""

    section: ClassVar[str] = "audio"

    sample_rate: Count = 22050
    n_fft: Count = 1024
    win_length: Count = 1024
    hop_length: Count = 256
    n_mels: Count = 80
    fmin: NonNegative = 0.0
    fmax: Positive = 8000.0
    log_floor: Floor = 1e-5

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fmin < self.fmax <= self.sample_rate / 2:
            raise UserError(
                f"audio.fmin={self.fmin}, audio.fmax={self.fmax}: need fmin < fmax <= sample_rate / 2 = "
                f"{self.sample_rate / 2}"
            )
        if not self.hop_length <= self.win_length <= self.n_fft:
            raise UserError(
                f"audio.hop_length={self.hop_length}, win_length={self.win_length}, n_fft={self.n_fft}: need "
                "hop_length <= win_length <= n_fft"
            )


@dataclass(frozen=True)
class TextConfig:
    """How a model reads text: its symbols, ordered by id (None if unknown), its cleaners, its limit and its language.

    limit: symbols of the longest training texts, beyond which attention fails; None: unknown, as in checkpoints of
    other programs and of earlier versions.
    language: a code such as "de"; "": unknown.
    """

    symbols: tuple[str, ...] | None
    cleaners: str
    limit: int | None = None
    language: str = ""


@dataclass
class DataConfig(Options):
    """A corpus: where its clips, transcripts and mels are. Paths in a filelist are relative to `root`."""

    section: ClassVar[str] = "data"

    root: str = "???"
    train_filelist: str = "???"
    val_filelist: str = "???"
    test_filelist: str | None = None
    mel_dir: str = "???"
    language: str = "en"
    cleaners: str = "auto"
    characters: str | None = None
    follow_links: bool = False
    convert_audio: bool = False
    segment_length: Count = 8000
    sentences: list[str] | None = None
    limit: Count | None = None
    num_workers: Index = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.cleaners == "auto":
            self.cleaners = "english_cleaners" if self.language.startswith("en") else "language_cleaners"


@dataclass
class TrainerConfig(Options):
    """How long to train, how fast, and in which precision. The optimizer is Adam."""

    section: ClassVar[str] = "trainer"

    batch_size: Count = 32
    batch_frames: Count | None = None
    epochs: Count = 1
    max_steps: Count | None = None
    max_minutes: Positive | None = None
    learning_rate: Positive = 1e-3
    anneal_epochs: list[int] = field(default_factory=list)
    anneal_steps: list[int] = field(default_factory=list)
    anneal_factors: list[Positive] = field(default_factory=list)
    weight_decay: NonNegative = 0.0
    grad_clip_norm: Positive | None = None
    ema_decay: Probability | None = None
    accumulation_steps: Count = 1
    precision: Precision = "fp32"
    tf32: bool = True
    device: Device = "auto"
    log_every_steps: Count = 10
    val_every_steps: Count = 500
    val_batches: Count | None = None
    judge: bool = False
    stop_after_no_gain: Count | None = None
    checkpoint_every_steps: Count = 500
    checkpoint_every_minutes: Positive | None = 10.0
    keep_last: Count = 2
    dry_run: bool = True
    timeout_minutes: Positive = 10.0
    progress: bool = True
    fresh: bool = False
    profile: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema_decay == 0:
            raise UserError("trainer.ema_decay=0 would average nothing; use null to turn it off")
        if self.anneal_epochs and self.anneal_steps:
            raise UserError(
                f"trainer.anneal_epochs={self.anneal_epochs}, anneal_steps={self.anneal_steps}: set one of them to []"
            )
        key, starts = ("steps", self.anneal_steps) if self.anneal_steps else ("epochs", self.anneal_epochs)
        if len(starts) != len(self.anneal_factors) or starts != sorted(starts):
            raise UserError(
                f"trainer.anneal_{key}={starts} and anneal_factors={self.anneal_factors} must have the same length, "
                f"and the {key} must ascend"
            )


@dataclass
class TrainConfig(Options):
    """The options of train.py. `model` and `task` are checked by the task that `model.name` selects."""

    audio: AudioConfig
    data: DataConfig
    trainer: TrainerConfig
    model: dict[str, Any]
    task: dict[str, Any]
    run_dir: str
    seed: Seed = 0
    init_from: str | None = None
    warm_start: bool = False
    trackers: list[TrackerName] = field(default_factory=lambda: ["tensorboard"])

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.trackers)) < len(self.trackers):
            raise UserError(f"trackers={self.trackers}: name each once")
        if self.warm_start and self.init_from is None:
            raise UserError("warm_start=true needs a checkpoint to start from: set init_from=CHECKPOINT")

    def model_values(self) -> dict[str, Any]:
        """`model` without its name: the fields of the model's own config class."""
        return {key: value for key, value in self.model.items() if key != "name"}


def check_derived(**pairs: tuple[int, int]) -> None:
    """Raise a UserError if a model size is not what audio and data imply: {model key: (value, implied value)}."""
    for key, (value, implied) in pairs.items():
        if value != implied:
            raise UserError(f"model.{key}={value} must be {implied}, as audio and data imply: leave it out")
