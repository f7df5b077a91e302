"""WaveGlow in training: its data, its loss, and what to listen to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from common.config import TrainConfig, check_equal, from_dict
from common.errors import UserError
from common.tracking.plots import mel_figure
from common.tracking.tracker import Tracker
from common.training.task import Loss, Reference
from waveglow import reference
from waveglow.data import SegmentDataset, WaveGlowBatch, collate
from waveglow.loss import WINDOWS, spectral_loss, waveglow_loss
from waveglow.model import WaveGlow, WaveGlowConfig

REPORT_SECONDS = 3.0


class WaveGlowTask:
    name: ClassVar[str] = "waveglow"
    model_class: ClassVar[type[nn.Module]] = WaveGlow
    config_class: ClassVar[type[Any]] = WaveGlowConfig
    reference: ClassVar[Reference] = reference
    item_name: ClassVar[str] = "samples"
    symbol_rows: ClassVar[tuple[str, ...]] = ()

    part_names: tuple[str, ...]

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.part_names = ("loss", "likelihood", "spectral") if config.trainer.spectral_weight else ("loss",)
        self.model_config: WaveGlowConfig = from_dict(WaveGlowConfig, config.model_values(), "model")
        check_equal(
            n_mel_channels=(self.model_config.n_mel_channels, config.audio.n_mels),
            hop_length=(self.model_config.hop_length, config.audio.hop_length),
            win_length=(self.model_config.win_length, config.audio.win_length),
        )

        shortest = max(WINDOWS) // 2 + 1
        if config.trainer.spectral_weight and config.data.segment_length < shortest:
            raise UserError(
                f"data.segment_length={config.data.segment_length} must be at least {shortest} for "
                "trainer.spectral_weight, whose longest window needs it"
            )

    def build_model(self) -> WaveGlow:
        model = WaveGlow(self.model_config)
        model.checkpoint_activations = self.config.trainer.checkpoint_activations
        return model

    def text_state(self) -> None:
        return None

    def datasets(self) -> tuple[SegmentDataset, SegmentDataset]:
        data, audio, seed = self.config.data, self.config.audio, self.config.seed
        group = self.model_config.n_group
        train = SegmentDataset(data.train_filelist, data, audio, seed, group)
        return train, SegmentDataset(data.val_filelist, data, audio, seed, group)

    def collate(self, items: list[Any]) -> WaveGlowBatch:
        return collate(items)

    def loss(self, model: nn.Module, batch: WaveGlowBatch, step: int | None = None) -> Loss:
        trainer, audio = self.config.trainer, batch.audio
        parts, noise = {}, None
        if trainer.spectral_weight and (not model.training or step is None or step >= trainer.spectral_from_step):
            group = self.model_config.n_group
            noise = torch.randn(len(audio), group, audio.shape[1] // group, device=audio.device)
        output = model(batch.mel, audio, None if noise is None else self.model_config.sigma * noise)
        loss = waveglow_loss(output)
        if trainer.spectral_weight:
            parts["likelihood"] = loss
            spoken = output.spoken
            parts["spectral"] = loss.new_zeros(()) if spoken is None else spectral_loss(spoken, audio)
            loss = loss + trainer.spectral_weight * parts["spectral"]
        return Loss(loss, audio.numel(), audio.numel(), {"loss": loss, **parts})

    def advice(self, step: int, parts: Mapping[str, float]) -> str:
        return ""

    def calibrate(self, model: nn.Module, data: SegmentDataset) -> None:
        pass

    def report(self, model: nn.Module, data: SegmentDataset, tracker: Tracker, step: int) -> None:
        """Copy-synthesis of the start of the first clip of `data`: its mel, the model's audio, the original."""
        assert isinstance(model, WaveGlow)
        mel, audio = data.start_of_clip(0, REPORT_SECONDS)
        tracker.figure("mel_target", mel_figure(mel), step)
        tracker.audio("copy_synthesis", model.infer(mel.unsqueeze(0).to(next(model.parameters()).device))[0], step)
        tracker.audio("original", audio, step)
