"""The training task of WaveGlow: options, data, objective, and report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Generator, nn

from common.config import TrainConfig, check_derived
from common.errors import UserError
from common.schema import Index, NonNegative, Options, from_dict
from common.tracking.plots import mel_figure
from common.tracking.tracker import Tracker
from common.training.task import Loss, Speech, Task, task_options
from waveglow.data import SegmentDataset, WaveGlowBatch, collate
from waveglow.denoiser import Denoiser
from waveglow.loss import WINDOWS, spectral_loss, waveglow_loss
from waveglow.mel_match import MelMatch
from waveglow.model import WaveGlow, WaveGlowConfig
from waveglow.spec import WAVEGLOW

REPORT_SECONDS = 3.0
JUDGED_CLIPS, JUDGED_SECONDS = 4, 12.0  # the first clips of the validation set, up to their 12th second
THEN = (
    "listen with: python inference.py tacotron2=RUN waveglow={run_dir} input=filelists/demo_phrases.txt "
    "output={run_dir}/speech_{step}; look at: python scripts/report.py {run_dir}"
)


@dataclass
class WaveGlowOptions(Options):
    """The options under `task` for WaveGlow. conf/task/waveglow.yaml explains them."""

    section: ClassVar[str] = "task"

    spectral_weight: NonNegative = 0.0
    spectral_from_step: Index = 0
    dither: NonNegative = 0.0
    checkpoint_activations: bool = False


class WaveGlowObjective:
    """The negative log-likelihood of the audio, plus the spectral loss if the options select it."""

    def __init__(self, options: WaveGlowOptions, config: WaveGlowConfig) -> None:
        self.options, self.config = options, config
        parts = ("likelihood", "spectral") if options.spectral_weight else ()
        self.part_names: tuple[str, ...] = ("loss", *parts)

    def __call__(self, model: nn.Module, batch: WaveGlowBatch, step: int | None, generator: Generator) -> Loss:
        options, audio, noise = self.options, batch.audio, None
        if options.dither:
            audio = audio + options.dither * torch.randn(audio.shape, device=audio.device, generator=generator)
        if options.spectral_weight and (not model.training or step is None or step >= options.spectral_from_step):
            shape = len(audio), self.config.n_group, audio.shape[1] // self.config.n_group
            noise = self.config.sigma * torch.randn(shape, device=audio.device, generator=generator)
        output = model(batch.mel, audio, noise)
        loss, parts = waveglow_loss(output), {}
        if options.spectral_weight:
            parts["likelihood"] = loss
            found = output.synthesized
            parts["spectral"] = loss.new_zeros(()) if found is None else spectral_loss(found, audio)
            loss = loss + options.spectral_weight * parts["spectral"]
        return Loss(loss, audio.numel(), audio.numel(), {"loss": loss, **parts})

    def advice(self, step: int | None, parts: Mapping[str, float]) -> str:
        return ""


def report(model: nn.Module, data: SegmentDataset, tracker: Tracker, step: int, generator: Generator) -> list[Speech]:
    """Log copy synthesis of the start of the first validation clip: its mel, the model's audio, the original."""
    assert isinstance(model, WaveGlow)
    mel, audio = data.start_of_clip(0, REPORT_SECONDS)
    device = next(model.parameters()).device
    tracker.figure("mel_target", mel_figure(mel), step)
    tracker.audio("copy_synthesis", model.infer(mel.unsqueeze(0).to(device), generator=generator)[0], step)
    tracker.audio("original", audio, step)
    return []


def judged_report(
    model: nn.Module, data: SegmentDataset, tracker: Tracker, step: int, generator: Generator
) -> list[Speech]:
    """`report`, and copies of the first clips as synthesis makes them: denoised, and matched to their mels."""
    report(model, data, tracker, step, generator)
    assert isinstance(model, WaveGlow)
    device = next(model.parameters()).device
    denoise, match, found = Denoiser(model), MelMatch(data.audio).to(device), []
    for index, clip in enumerate(data.clips[:JUDGED_CLIPS]):
        mel = data.start_of_clip(index, JUDGED_SECONDS)[0].to(device)
        audio = denoise(model.infer(mel.unsqueeze(0), generator=generator))[0]
        audio = match(mel, audio, model.config.match_mel).cpu()
        text = clip.text if mel.shape[1] == data.frames[index] else ""  # of the whole clip
        tracker.audio(f"copy_{index}", audio, step)
        found.append(Speech(text, audio, index))
    return found


def waveglow_task(config: TrainConfig) -> Task:
    """The task that train.py runs for model.name=waveglow."""
    data, audio, options = config.data, config.audio, task_options(WaveGlowOptions, config)
    model_config = from_dict(WaveGlowConfig, config.model_values())
    check_derived(
        n_mel_channels=(model_config.n_mel_channels, audio.n_mels),
        hop_length=(model_config.hop_length, audio.hop_length),
        win_length=(model_config.win_length, audio.win_length),
    )

    shortest = max(WINDOWS) // 2 + 1
    if options.spectral_weight and data.segment_length < shortest:
        raise UserError(
            f"data.segment_length={data.segment_length} must be at least {shortest} for task.spectral_weight: its "
            "longest window needs that many samples"
        )

    def build_model() -> WaveGlow:
        model = WaveGlow(model_config)
        model.checkpoint_activations = options.checkpoint_activations
        return model

    def segments(filelist: str) -> SegmentDataset:
        return SegmentDataset(filelist, data, audio, config.seed, model_config.n_group)

    return Task(
        spec=WAVEGLOW,
        model_config=model_config,
        text=None,
        item_name="samples",
        build_model=build_model,
        datasets=lambda: (segments(data.train_filelist), segments(data.val_filelist)),
        collate=collate,
        objective=WaveGlowObjective(options, model_config),
        report=judged_report if config.trainer.judge else report,
        then=THEN,
        memory_option=" or task.checkpoint_activations=true",
    )
