"""Write a corpus's mels as a Tacotron 2 predicts them, frame by frame beside the recordings, to train WaveGlow on what
it will hear in synthesis (Shen et al., 2017, section 3.1: ground truth-aligned predictions).

    python scripts/predict_mels.py tacotron2=CKPT data.root=DIR output=DIR/predicted_mels
    python train.py model=waveglow data.root=DIR data.mel_dir=DIR/predicted_mels init_from=CKPT run_dir=...

The frames before each one are the recording's, or partly the model's own, as in its training (model.p_own_frames).
"""

from __future__ import annotations

import dataclasses
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from tqdm import tqdm

from common.config import DataConfig, check_seed, from_dict
from common.data.mels import MEL_SUFFIXES, Entry, MelDirectory
from common.entry import hydra_entry
from common.errors import UserError, did_you_mean, make_directory
from inference import DEVICES, Synthesizer
from tacotron2.data import TextMelDataset, collate


@dataclass
class PredictConfig:
    """The keys of conf/predict_mels.yaml, which explains them."""

    data: DataConfig
    tacotron2: str
    output: str
    sharpen: float = 1.0
    batch_size: int = 16
    device: str = "auto"
    seed: int = 0

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size={self.batch_size} must be at least 1")
        if self.sharpen < 0:
            raise UserError(f"sharpen={self.sharpen} must not be negative")
        if self.device not in DEVICES:
            raise UserError(f"device={self.device!r} is unknown{did_you_mean(self.device, DEVICES)}")
        check_seed(self.seed)


@torch.no_grad()
def predict(voice: Synthesizer, dataset: TextMelDataset, mels: MelDirectory, batch_size: int) -> None:
    """Add the prediction of every clip of `dataset` to `mels`."""
    order = sorted(range(len(dataset)), key=dataset.lengths.__getitem__)  # little padding
    for start in tqdm(range(0, len(order), batch_size), unit="batch", disable=None):
        rows = order[start : start + batch_size]
        batch = collate([dataset[(index, 0)] for index in rows])
        text, text_lengths, mel, lengths = (tensor.to(voice.device) for tensor in batch)
        share = voice.tacotron2.config.p_own_frames
        output = voice.tacotron2(text, text_lengths, mel, lengths, p_own_frames=share).mel_postnet
        output = voice.tacotron2.sharpening(output).cpu()
        for predicted, index in zip(output, rows, strict=True):
            clip, num_frames = dataset.clips[index], dataset.lengths[index]
            stat = clip.file.stat()
            mels.save(mels.path, clip.path, predicted[:, :num_frames].numpy())
            mels.add(Entry(clip.path, num_frames, stat.st_size, stat.st_mtime_ns))


@hydra_entry("predict_mels")
def main(values: dict[str, Any]) -> None:
    config: PredictConfig = from_dict(PredictConfig, values)
    output = Path(config.output)
    if output.exists():
        raise UserError(f"output={output} exists already; choose another or remove it")
    voice = Synthesizer.load(config.tacotron2, device=config.device, sharpen=config.sharpen)
    data = dataclasses.replace(config.data, cleaners=voice.cleaners)
    lists = dict.fromkeys((data.train_filelist, data.val_filelist))
    datasets = [TextMelDataset(filelist, data, voice.audio, voice.symbols) for filelist in lists]
    if mel := next((clip for dataset in datasets for clip in dataset.clips if clip.file.suffix in MEL_SUFFIXES), None):
        raise UserError(f"{mel.where}: {mel.path} is a mel; WaveGlow needs a filelist of audio files")
    part = output.with_name(f"{output.name}.part")  # whole, or not there
    shutil.rmtree(part, ignore_errors=True)
    make_directory(part, "output")
    mels = MelDirectory(part)
    mels.reset(voice.audio)
    torch.manual_seed(config.seed)
    for dataset in datasets:
        predict(voice, dataset, mels, config.batch_size)
    part.rename(output)
    num = len(mels.entries)
    print(f"{output}: {num:,} mels as {config.tacotron2} predicts them; train WaveGlow with data.mel_dir={output}")


if __name__ == "__main__":
    main()
