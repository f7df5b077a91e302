"""Tacotron 2 in training: its data, its loss, and what to look at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import nn

from common.audio import GriffinLim
from common.config import TrainConfig, check_equal, from_dict
from common.errors import UserError
from common.tracking.plots import alignment_figure, mel_figure
from common.tracking.tracker import Tracker
from common.training.task import Loss, Reference
from tacotron2 import reference
from tacotron2.data import Tacotron2Batch, TextMelDataset, collate
from tacotron2.loss import guided_attention_loss, mel_delta_loss, tacotron2_loss
from tacotron2.measures import diagonality, gate_accuracy
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.text import symbol_table, text_to_ids

ALIGNED = 0.6  # diagonality of a model that has learned to read
CALIBRATION_CLIPS, CALIBRATION_BATCH = 32, 16  # of the validation set, a few minutes of speech
MAX_FRAMES_PER_SYMBOL = 12  # about twice what speech needs


class Tacotron2Task:
    name: ClassVar[str] = "tacotron2"
    model_class: ClassVar[type[nn.Module]] = Tacotron2
    config_class: ClassVar[type[Any]] = Tacotron2Config
    reference: ClassVar[Reference] = reference
    item_name: ClassVar[str] = "frames"
    symbol_rows: ClassVar[tuple[str, ...]] = ("embedding.weight",)

    part_names: tuple[str, ...]

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        delta = ("mel_delta",) if config.trainer.mel_delta_weight else ()
        self.part_names = ("loss", "mel", "mel_postnet", *delta, "gate", "diagonality", "gate_accuracy")
        if config.trainer.checkpoint_activations:
            raise UserError("trainer.checkpoint_activations=true is for model=waveglow; leave it out")
        self.symbols = symbol_table(config.data.characters)
        values = {"n_symbols": len(self.symbols)} | config.model_values()
        self.model_config: Tacotron2Config = from_dict(Tacotron2Config, values, "model")
        check_equal(
            n_mel_channels=(self.model_config.n_mel_channels, config.audio.n_mels),
            n_symbols=(self.model_config.n_symbols, len(self.symbols)),
        )

        data = config.data
        sentences = [text_to_ids(sentence, data.cleaners, self.symbols) for sentence in data.sentences]
        self.sentences = [ids for ids in sentences if ids]

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

    def loss(self, model: nn.Module, batch: Tacotron2Batch, step: int | None = None) -> Loss:
        output = model(*batch)
        frames_per_step, threshold = self.model_config.n_frames_per_step, self.model_config.gate_threshold
        parts = tacotron2_loss(output, batch.mel, batch.mel_lengths, frames_per_step)
        if model.training and (weight := self._guided_attention_weight(step)):
            guide = guided_attention_loss(output.alignment, batch.text_lengths, batch.mel_lengths)
            parts["loss"] = parts["loss"] + weight * guide
        if delta_weight := self.config.trainer.mel_delta_weight:
            parts["mel_delta"] = mel_delta_loss(output, batch.mel, batch.mel_lengths)
            parts["loss"] = parts["loss"] + delta_weight * parts["mel_delta"]
        with torch.no_grad():
            parts["diagonality"] = diagonality(output.alignment, batch.text_lengths, batch.mel_lengths)
            parts["gate_accuracy"] = gate_accuracy(output.gate, batch.mel_lengths, frames_per_step, threshold)
        num_positions = batch.mel.shape[0] * batch.mel.shape[2]
        return Loss(parts["loss"], batch.mel_lengths.sum(), num_positions, parts)

    def _guided_attention_weight(self, step: int | None) -> float:
        trainer = self.config.trainer
        steps = trainer.guided_attention_steps
        if steps is None or not trainer.guided_attention_weight:
            return trainer.guided_attention_weight
        return 0.0 if step is None else trainer.guided_attention_weight * max(0.0, 1 - step / steps)

    def advice(self, step: int, parts: Mapping[str, float]) -> str:
        by_step = self.config.trainer.align_by_step
        if by_step is None or step < by_step or parts["diagonality"] >= ALIGNED:
            return ""
        return (
            f"the attention does not follow the text at step {step}: diagonality {parts['diagonality']:.2f}, it should "
            f"be {ALIGNED} by step {by_step} (trainer.align_by_step). Look at the alignments in run_dir/samples. What "
            "helps: trainer.guided_attention_weight=5; transcripts that match and silence cut off the clips' ends "
            "(scripts/check_dataset.py, scripts/trim_silence.py); model.n_frames_per_step=2 or 3; larger batches; more "
            "clips; init_from=CHECKPOINT of another voice with warm_start=true"
        )

    def calibrate(self, model: nn.Module, data: TextMelDataset) -> None:
        """How much smoother than recordings the mels are that the model predicts for speech it was not trained on."""
        assert isinstance(model, Tacotron2)
        device, predicted, recorded = model.embedding.weight.device, [], []
        clips = range(min(len(data), CALIBRATION_CLIPS))
        for start in clips[::CALIBRATION_BATCH]:
            items = [data[(index, 0)] for index in clips[start : start + CALIBRATION_BATCH]]
            batch = Tacotron2Batch(*(tensor.to(device) for tensor in collate(items)))
            mels = zip(model(*batch).mel_postnet, batch.mel, batch.mel_lengths.tolist(), strict=True)
            for ours, theirs, num_frames in mels:
                predicted.append(ours[:, :num_frames])
                recorded.append(theirs[:, :num_frames])
        model.sharpening.measure(torch.cat(predicted, 1), torch.cat(recorded, 1))

    def report(self, model: nn.Module, data: TextMelDataset, tracker: Tracker, step: int) -> None:
        """The first clip of `data` with the teacher, the fixed sentences without."""
        assert isinstance(model, Tacotron2)
        device = model.embedding.weight.device
        batch = Tacotron2Batch(*(tensor.to(device) for tensor in collate([data[(0, 0)]])))
        taught = model(*batch)
        tracker.figure("alignment_teacher_forced", alignment_figure(taught.alignment[0], f"step {step}"), step)
        tracker.figure("mel_teacher_forced", mel_figure(taught.mel_postnet[0], f"step {step}"), step)
        tracker.figure("mel_target", mel_figure(batch.mel[0]), step)
        for i, ids in enumerate(self.sentences):
            text = torch.tensor([ids], device=device)
            # A young model does not stop by itself.
            max_steps = 1 + MAX_FRAMES_PER_SYMBOL * len(ids) // self.model_config.n_frames_per_step
            spoken = model.infer(text, torch.tensor([len(ids)], device=device), max_steps)
            tracker.figure(f"sentence_{i}_alignment", alignment_figure(spoken.alignment[0], f"step {step}"), step)
            tracker.audio(f"sentence_{i}", GriffinLim(self.config.audio)(spoken.mel_postnet[0]), step)
