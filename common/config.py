"""The options of a training run and of its data. The entry scripts convert Hydra's dictionaries to these dataclasses.

The options of a model are at the top of its model.py, those of its training in its task.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from common.device import Device
from common.errors import UserError
from common.ops.precision import Precision
from common.schema import Count, Index, NonNegative, Options, Positive, Probability, Seed


@dataclass(frozen=True)
class AudioConfig(Options):
    """Everything that defines a mel spectrogram. Two models can be chained only if their AudioConfigs are equal."""

    section: ClassVar[str] = "audio"

    sample_rate: Count = 22050  # Hz
    n_fft: Count = 1024  # samples
    win_length: Count = 1024  # samples, periodic Hann window
    hop_length: Count = 256  # samples
    n_mels: Count = 80
    fmin: NonNegative = 0.0  # Hz
    fmax: Positive = 8000.0  # Hz
    log_floor: Positive = 1e-5  # lower bound of the magnitudes before the logarithm

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
    """How a model reads text: its symbols, ordered by id (None if unknown), and its cleaners."""

    symbols: tuple[str, ...] | None
    cleaners: str


@dataclass
class DataConfig(Options):
    """A corpus: where its clips, transcripts and mels are. Paths in a filelist are relative to `root`."""

    section: ClassVar[str] = "data"

    root: str = "???"
    train_filelist: str = "???"
    val_filelist: str = "???"
    test_filelist: str | None = None  # read by prepare_mels and check_dataset only
    mel_dir: str = "???"
    cleaners: str = "english_cleaners"  # how transcripts are normalized
    characters: str | None = None  # the symbols besides ARPAbet; null: the reference's punctuation, A-Z and a-z
    follow_links: bool = False  # accept clips behind symbolic links that leave `root`
    convert_audio: bool = False  # resample and mix down clips of another format instead of refusing them
    segment_length: Count = 8000  # samples, for tasks that train on segments of clips
    # Synthesized at each validation by a model that reads text. null: two English sentences for the English cleaners,
    # for others the first two transcripts of val_filelist.
    sentences: list[str] | None = None
    limit: Count | None = None  # use only the first N clips of each list
    num_workers: Index = 1  # loader processes per rank and data set; 0 loads in the training process


@dataclass
class TrainerConfig(Options):
    """How long to train, how fast, and in which precision. The optimizer is Adam."""

    section: ClassVar[str] = "trainer"

    batch_size: Count = 32  # clips per rank and accumulation step
    batch_frames: Count | None = None  # limit of mel frames in such a batch, including padding
    epochs: Count = 1
    max_steps: Count | None = None  # stop after this many optimizer steps
    max_minutes: Positive | None = None  # save and stop this many minutes after the start or restart
    learning_rate: Positive = 1e-3
    anneal_epochs: list[int] = field(default_factory=list)  # from these epochs on ...
    anneal_factors: list[Positive] = field(default_factory=list)  # ... the rate is learning_rate times these
    weight_decay: NonNegative = 0.0
    grad_clip_norm: Positive | None = None  # null: no clipping; the norm is logged in any case
    ema_decay: Probability | None = None  # keep averaged weights with this decay, for all but training
    accumulation_steps: Count = 1  # batches per optimizer step
    precision: Precision = "fp32"  # fp16 scales the loss dynamically
    tf32: bool = True  # on GPUs: use TensorFloat-32 for float32 operations
    device: Device = "auto"
    log_every_steps: Count = 10
    val_every_steps: Count = 500
    val_batches: Count | None = None  # validate on at most this many batches of each rank
    checkpoint_every_steps: Count = 500
    checkpoint_every_minutes: Positive | None = 10.0  # also save when this long has passed since the last checkpoint
    keep_last: Count = 2  # checkpoints to keep beside the best one
    dry_run: bool = True  # run the largest batch first, so that a lack of memory shows at the start
    timeout_minutes: Positive = 10.0  # a rank or loader process without progress for this long is considered lost
    progress: bool = True  # show a progress bar
    fresh: bool = False  # remove the files of an earlier run from run_dir; for debugging
    profile: bool = False  # write a trace to run_dir/profile.json; for runs of a few steps

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ema_decay == 0:
            raise UserError("trainer.ema_decay=0 would average nothing; use null to turn it off")
        if len(self.anneal_epochs) != len(self.anneal_factors) or self.anneal_epochs != sorted(self.anneal_epochs):
            raise UserError(
                f"trainer.anneal_epochs={self.anneal_epochs} and anneal_factors={self.anneal_factors} must have the "
                "same length, and the epochs must ascend"
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
    init_from: str | None = None  # start with the weights of this checkpoint, in any layout
    warm_start: bool = False  # load only the weights that fit, if symbols, mels or sizes differ

    def __post_init__(self) -> None:
        super().__post_init__()
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
