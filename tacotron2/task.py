"""Tacotron 2 in training: its data, its loss, and what to look at."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from common.audio import GriffinLim
from common.config import TrainConfig, check_equal, from_dict
from common.plots import alignment_figure, mel_figure
from common.task import Loss, Reference
from common.tracker import Tracker
from tacotron2 import reference
from tacotron2.data import Tacotron2Batch, TextMelDataset, collate
from tacotron2.loss import tacotron2_loss
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.text import symbol_table


class Tacotron2Task:
    name: ClassVar[str] = "tacotron2"
    model_class: ClassVar[type[nn.Module]] = Tacotron2
    config_class: ClassVar[type[Any]] = Tacotron2Config
    reference: ClassVar[Reference] = reference
    item_name: ClassVar[str] = "frames"
    part_names: ClassVar[tuple[str, ...]] = ("loss", "mel", "mel_postnet", "gate")
    symbol_rows: ClassVar[tuple[str, ...]] = ("embedding.weight",)

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.symbols = symbol_table(config.data.characters)
        values = {"n_symbols": len(self.symbols)} | config.model_values()
        self.model_config: Tacotron2Config = from_dict(Tacotron2Config, values, "model")
        check_equal(
            n_mel_channels=(self.model_config.n_mel_channels, config.audio.n_mels),
            n_symbols=(self.model_config.n_symbols, len(self.symbols)),
        )

    def build_model(self) -> Tacotron2:
        return Tacotron2(self.model_config)

    def text_state(self) -> dict[str, Any]:
        return {"symbols": list(self.symbols), "cleaners": self.config.data.cleaners}

    def datasets(self) -> tuple[TextMelDataset, TextMelDataset]:
        data, audio = self.config.data, self.config.audio
        train = TextMelDataset(data.train_filelist, data, audio, self.symbols)
        return train, TextMelDataset(data.val_filelist, data, audio, self.symbols)

    def collate(self, items: list[Any]) -> Tacotron2Batch:
        return collate(items)

    def loss(self, model: nn.Module, batch: Tacotron2Batch) -> Loss:
        output = model(*batch)
        parts = tacotron2_loss(output, batch.mel, batch.mel_lengths, self.model_config.n_frames_per_step)
        return Loss(parts["loss"], int(batch.mel_lengths.sum()), parts)

    def report(self, model: nn.Module, data: TextMelDataset, tracker: Tracker, step: int) -> None:
        """The first clip of `data`: alignment and mel with the teacher, then alone, and how that sounds."""
        assert isinstance(model, Tacotron2)
        device = model.embedding.weight.device
        batch = Tacotron2Batch(*(tensor.to(device) for tensor in collate([data[(0, 0)]])))
        taught = model(*batch)
        tracker.figure("alignment_teacher_forced", alignment_figure(taught.alignment[0], f"step {step}"), step)
        tracker.figure("mel_teacher_forced", mel_figure(taught.mel_postnet[0], f"step {step}"), step)
        tracker.figure("mel_target", mel_figure(batch.mel[0]), step)
        # A young model does not stop by itself: half again as long as the clip is enough to see.
        max_steps = 1 + int(1.5 * batch.mel.shape[2]) // self.model_config.n_frames_per_step
        spoken = model.infer(batch.text, batch.text_lengths, max_steps)
        tracker.figure("alignment_free_running", alignment_figure(spoken.alignment[0], f"step {step}"), step)
        tracker.audio("speech_griffin_lim", GriffinLim(self.config.audio)(spoken.mel_postnet[0]), step)
