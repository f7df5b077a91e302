"""The training task of Tacotron 2: options, data, objective, and report."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from common.audio import GriffinLim
from common.config import AudioConfig, TextConfig, TrainConfig, check_derived
from common.errors import UserError
from common.schema import Count, Index, NonNegative, Options, from_dict
from common.tracking.plots import alignment_figure, mel_figure
from common.tracking.tracker import Tracker
from common.training.step import to_device
from common.training.task import Compared, Loss, Speech, Task, task_options
from common.wording import counted
from tacotron2.data import Tacotron2Batch, TextMelDataset, collate
from tacotron2.discriminator import MelDiscriminator
from tacotron2.loss import guided_attention_loss, mel_band_difference_loss, tacotron2_loss
from tacotron2.measures import diagonality, gate_accuracy
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.spec import TACOTRON2
from tacotron2.text import language_of, symbols_of, text_to_ids
from tacotron2.text.cleaners import ENGLISH_CLEANERS

THEN = (
    "listen with: python inference.py tacotron2={run_dir} {speaker}vocoder=griffin_lim "
    "input=filelists/demo_phrases.txt output={run_dir}/speech_{step} (or waveglow=RUN instead of vocoder=griffin_lim); "
    "look at: python scripts/report.py {run_dir}"
)
ALIGNED = 0.6  # diagonality of a model whose attention follows the text
CALIBRATION_CLIPS, CALIBRATION_BATCH = 32, 16  # from the validation set: a few minutes of speech
# Mel frames of the validation set. With the bundled voice, gains from 2,000 frames are within 6 % of those from 48,000
# in 95 % of draws, and corrected mels are off by a sixth of the correction; from the 370 frames of one clip, 14 % and a
# third.
MIN_CALIBRATION_FRAMES = 2000
ENGLISH_SENTENCES = (
    "The north wind and the sun were disputing which was the stronger.",
    "Please call again on Tuesday, the twenty-third of May.",
)
MAX_FRAMES_PER_SYMBOL = 12  # about twice what speech needs
LONGEST_PERCENT = 1  # the share of the training texts that are too few to learn their lengths from


@dataclass
class Tacotron2Options(Options):
    """The options under `task` for Tacotron 2. conf/task/tacotron2.yaml explains them."""

    section: ClassVar[str] = "task"

    guided_attention_weight: NonNegative = 0.0
    guided_attention_steps: Count | None = None
    mel_band_difference_weight: NonNegative = 0.0
    adversary_weight: NonNegative = 0.0
    adversary_from_step: Index = 0
    align_by_step: Count | None = None
    judge_waveglow: str | None = None


class Tacotron2Objective:
    """Runs teacher forcing and sums the losses that the options select."""

    def __init__(self, options: Tacotron2Options, config: Tacotron2Config) -> None:
        self.options, self.config = options, config
        difference = ("mel_band_difference",) if options.mel_band_difference_weight else ()
        self.part_names: tuple[str, ...] = (
            "loss",
            "mel",
            "mel_postnet",
            *difference,
            "gate",
            "diagonality",
            "gate_accuracy",
        )

    def __call__(self, model: nn.Module, batch: Tacotron2Batch, step: int | None, generator: Generator) -> Loss:
        output = model(*batch, generator=generator)
        lengths, text_lengths = batch.mel_lengths, batch.text_lengths
        parts = tacotron2_loss(output, batch.mel, lengths, self.config.n_frames_per_step)
        if model.training and (weight := self._guided_attention_weight(step)):
            parts["loss"] = parts["loss"] + weight * guided_attention_loss(output.alignment, text_lengths, lengths)
        if weight := self.options.mel_band_difference_weight:
            parts["mel_band_difference"] = mel_band_difference_loss(output, batch.mel, lengths)
            parts["loss"] = parts["loss"] + weight * parts["mel_band_difference"]
        with torch.no_grad():
            parts["diagonality"] = diagonality(output.alignment, text_lengths, lengths)
            frames_per_step, threshold = self.config.n_frames_per_step, self.config.gate_threshold
            parts["gate_accuracy"] = gate_accuracy(output.gate, lengths, frames_per_step, threshold)
        compared = None
        if model.training and self._adversary_acts(step):
            compared = Compared(self.options.adversary_weight, output.mel_postnet, batch.mel, lengths)
        return Loss(parts["loss"], lengths.sum(), batch.mel.shape[0] * batch.mel.shape[2], parts, compared)

    def _adversary_acts(self, step: int | None) -> bool:
        return bool(self.options.adversary_weight) and (step is None or step >= self.options.adversary_from_step)

    def _guided_attention_weight(self, step: int | None) -> float:
        weight, steps = self.options.guided_attention_weight, self.options.guided_attention_steps
        if steps is None or not weight:
            return weight
        return 0.0 if step is None else weight * max(0.0, 1 - step / steps)

    def advice(self, step: int | None, parts: Mapping[str, float]) -> str:
        by_step = self.options.align_by_step
        if by_step is None or (step is not None and step < by_step) or parts["diagonality"] >= ALIGNED:
            return ""
        when = "yet" if step is None else f"at step {step}"
        return (
            f"the attention does not follow the text {when}: its diagonality is {parts['diagonality']:.2f} "
            f"and should be {ALIGNED} by step {by_step} (task.align_by_step). Before, nobody can understand what the "
            "model says. Look at the alignments in run_dir/samples. If more steps do not help, this does, in a new "
            "run_dir: task.guided_attention_weight=5; transcripts that match, and no silence at the ends of clips "
            "(scripts/check_dataset.py, scripts/trim_silence.py); "
            "model.n_frames_per_step=2 or 3; larger batches; more clips; "
            "init_from=CHECKPOINT of another voice with warm_start=true"
        )


def calibrate(model: nn.Module, data: TextMelDataset, generator: Generator) -> None:
    """Set the postfilter: measure on validation clips how much smoother the model's mels are than recorded ones."""
    assert isinstance(model, Tacotron2)
    device, predicted, recorded = model.embedding.weight.device, [], []
    clips = calibration_clips(data)
    for start in range(0, len(clips), CALIBRATION_BATCH):
        items = [data[(index, 0)] for index in clips[start : start + CALIBRATION_BATCH]]
        batch = to_device(collate(items), device)
        outputs = model(*batch, generator=generator).mel_postnet
        for ours, theirs, num_frames in zip(outputs, batch.mel, batch.mel_lengths.tolist(), strict=True):
            predicted.append(ours[:, :num_frames])
            recorded.append(theirs[:, :num_frames])
    model.postfilter.measure(torch.cat(predicted, 1), torch.cat(recorded, 1))


def calibration_clips(data: TextMelDataset) -> Sequence[int]:
    """The clips that `calibrate` measures: the first ones, or the first ones of each speaker in turn."""
    order: Sequence[int] = range(len(data))
    if data.speakers:
        turn = Counter[int | None]()
        keys = []
        for speaker in data.speaker_ids:
            keys.append(turn[speaker])
            turn[speaker] += 1
        order = sorted(order, key=keys.__getitem__)
    return order[:CALIBRATION_CLIPS]


def calibration_warning(data: TextMelDataset, audio: AudioConfig) -> str:
    """Say so if the validation set is too short for `calibrate`."""
    num_frames = sum(data.lengths[clip] for clip in calibration_clips(data))
    if num_frames >= MIN_CALIBRATION_FRAMES:
        return ""
    seconds = audio.hop_length / audio.sample_rate
    return (
        f"the validation set, {counted(len(data), 'clip')} with {counted(num_frames, 'frame')} "
        f"({num_frames * seconds:.0f} s), is too short to measure the postfilter that sharpens mels in synthesis: "
        f"{MIN_CALIBRATION_FRAMES:,} frames ({MIN_CALIBRATION_FRAMES * seconds:.0f} s) are needed. Move rows from "
        "data.train_filelist to data.val_filelist (scripts/prepare_filelists.py does so in new filelists), or "
        "synthesize with postfilter_strength=0"
    )


def longest(train: TextMelDataset) -> int:
    """Symbols of the longest text in `train` without the longest LONGEST_PERCENT: attention fails beyond these."""
    lengths = sorted(train.ids.lengths)
    return lengths[math.ceil(len(lengths) * (1 - LONGEST_PERCENT / 100)) - 1]


class Tacotron2Report:
    """Logs the first validation clip with teacher forcing, and the sentences of the config in free running.

    `vocoder` is by default Griffin-Lim.
    """

    def __init__(
        self, config: TrainConfig, symbols: Sequence[str], vocoder: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        data, self.logged = config.data, False
        self.vocoder = vocoder or GriffinLim(config.audio)
        name = config.task.get("judge_waveglow") or "Griffin-Lim"
        self.note = f"the judges hear data.sentences through {name}" if config.trainer.judge else ""
        texts = list(ENGLISH_SENTENCES) if data.cleaners in ENGLISH_CLEANERS else None
        texts = texts if data.sentences is None else data.sentences
        ids = [(text, text_to_ids(text, data.cleaners, symbols, language=data.language)) for text in texts or []]
        # (text, ids), without those that have no ids; None: the first of the validation set
        self.sentences = None if texts is None else [(text, found) for text, found in ids if found]
        if config.trainer.judge and self.sentences == []:
            raise UserError(f"trainer.judge=true has nothing to judge: data.sentences={data.sentences} has no text")

    def __call__(
        self, model: nn.Module, data: TextMelDataset, tracker: Tracker, step: int, generator: Generator
    ) -> list[Speech]:
        assert isinstance(model, Tacotron2)
        device = model.embedding.weight.device
        own = [(data.clips[i].text, data.ids[i]) for i in range(min(2, len(data)))]
        sentences = own if self.sentences is None else self.sentences
        if not self.logged:
            self.logged = True
            tracker.record(step=step, sentences=[text for text, _ in sentences])
            if self.note:
                tracker.message(self.note)
        batch = to_device(collate([data[(0, 0)]]), device)
        output = model(*batch, generator=generator)
        tracker.figure("alignment_teacher_forced", alignment_figure(output.alignment[0], f"step {step}"), step)
        tracker.figure("mel_teacher_forced", mel_figure(output.mel_postnet[0], f"step {step}"), step)
        tracker.figure("mel_target", mel_figure(batch.mel[0]), step)
        found = []
        for i, (sentence, ids) in enumerate(sentences):
            text = torch.tensor([ids], device=device)
            # Early in training a model does not stop by itself.
            max_steps = 1 + MAX_FRAMES_PER_SYMBOL * len(ids) // model.config.n_frames_per_step
            lengths, num_speakers = torch.tensor([len(ids)], device=device), len(model.config.speakers)
            speaker = torch.tensor([i % num_speakers], device=device) if num_speakers else None  # in turn
            speech = model.infer(text, lengths, max_steps, generator, speaker=speaker)
            tracker.figure(f"sentence_{i}_alignment", alignment_figure(speech.alignment[0], f"step {step}"), step)
            found.append(Speech(sentence, self.vocoder(speech.mel_postnet[0])))
            tracker.audio(f"sentence_{i}", found[-1].audio, step)
        return found


def _literal(name: str) -> str:
    """A name for a template of str.format."""
    return name.replace("{", "{{").replace("}", "}}")


def tacotron2_task(config: TrainConfig, known: TextMelDataset | None = None) -> Task:
    """The task that train.py runs for model.name=tacotron2; `known` is its training set, once that was read."""
    data, audio = config.data, config.audio
    symbols = symbols_of(data.cleaners, data.language, data.characters)
    limit = longest(known) if known else None
    text = TextConfig(symbols, data.cleaners, limit, language_of(data.cleaners, data.language))
    options = task_options(Tacotron2Options, config)
    if options.judge_waveglow and not config.trainer.judge:
        raise UserError(f"task.judge_waveglow={options.judge_waveglow} is only for trainer.judge=true: set that too")
    values: dict[str, Any] = {"n_symbols": len(symbols)} | config.model_values()
    values["speakers"] = known.speakers if known else []
    model_config = from_dict(Tacotron2Config, values)
    if known and not known.speakers and model_config.speaker_dim != Tacotron2Config.speaker_dim:
        raise UserError(
            f"model.speaker_dim={model_config.speaker_dim}: the rows of {data.train_filelist} name no speakers; leave "
            "it out, or write the filelists with scripts/prepare_filelists.py --speakers"
        )
    check_derived(
        n_mel_channels=(model_config.n_mel_channels, audio.n_mels), n_symbols=(model_config.n_symbols, len(symbols))
    )

    def datasets() -> tuple[TextMelDataset, TextMelDataset]:
        train = TextMelDataset(data.train_filelist, data, audio, symbols)
        return train, TextMelDataset(data.val_filelist, data, audio, symbols, train.speakers)

    names = model_config.speakers
    return Task(
        spec=TACOTRON2,
        model_config=model_config,
        text=text,
        item_name="frames",
        build_model=lambda: Tacotron2(model_config),
        datasets=datasets,
        collate=collate,
        objective=Tacotron2Objective(options, model_config),
        report=Tacotron2Report(config, symbols),
        report_with=lambda vocoder: Tacotron2Report(config, symbols, vocoder),
        then=THEN.replace("{speaker}", f"speaker={quote(_literal(names[0]))} " if names else ""),
        discriminator=MelDiscriminator if options.adversary_weight else None,
        calibrate=calibrate,
        warning=lambda data: calibration_warning(data, audio),
        of_data=None if known else lambda train: tacotron2_task(config, train),
    )
