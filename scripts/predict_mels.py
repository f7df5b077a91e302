"""Predict the mels of a corpus with Tacotron 2, aligned with the recordings, so that WaveGlow can train on the kind of
mels that it gets in synthesis (Shen et al., 2018, section 3.1: ground truth-aligned predictions).

    python scripts/predict_mels.py tacotron2=CKPT data.root=DIR output=DIR/predicted_mels
    python train.py model=waveglow data.root=DIR data.mel_dir=DIR/predicted_mels init_from=WAVEGLOW run_dir=...

The decoder sees the recording's previous frames or, with the same probability as in its training (model.p_own_frames),
its own.
"""

from __future__ import annotations

import checkout  # noqa: F401

if __name__ == "__main__":  # before the slow imports
    from common.help import show_help

    show_help("predict_mels", __doc__)

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Generator
from tqdm import tqdm

from common.config import DataConfig
from common.data.mels import MEL_SUFFIXES, Entry, MelDirectory
from common.device import Device
from common.entry import hydra_entry
from common.errors import UserError, about
from common.files import new_directory
from common.schema import Count, NonNegative, Options, Seed, from_dict
from common.training.step import to_device
from common.wording import counted
from synthesis.models import require_finite
from synthesis.synthesizer import Synthesizer
from tacotron2.data import TextMelDataset, collate


@dataclass
class PredictConfig(Options):
    """The keys of conf/predict_mels.yaml, which explains them."""

    data: DataConfig
    tacotron2: str
    output: str
    postfilter_strength: NonNegative = 1.0
    batch_size: Count = 16
    device: Device = "auto"
    seed: Seed = 0


@torch.no_grad()
def predict(
    voice: Synthesizer, dataset: TextMelDataset, mels: MelDirectory, batch_size: int, generator: Generator
) -> None:
    """Add the predicted mel of every clip of `dataset` to `mels`."""
    order = sorted(range(len(dataset)), key=dataset.lengths.__getitem__)  # little padding
    for start in tqdm(range(0, len(order), batch_size), unit="batch", disable=None):
        rows = order[start : start + batch_size]
        batch = to_device(collate([dataset[(index, 0)] for index in rows]), voice.device)
        output = voice.tacotron2(*batch, p_own_frames=voice.tacotron2.config.p_own_frames, generator=generator)
        predicted = voice.tacotron2.postfilter(output.mel_postnet).cpu()
        for mel, index in zip(predicted, rows, strict=True):
            clip, num_frames = dataset.clips[index], dataset.lengths[index]
            with about(clip.where):
                require_finite(voice.tacotron2, voice.source, mel=mel)
            values = mel[:, :num_frames].numpy()
            entry = Entry.of(clip, clip.stat(), values, voice.audio)
            mels.save(mels.path, entry, values)
            mels.add(entry)


@hydra_entry("predict_mels")
def main(values: dict[str, Any]) -> None:
    config = from_dict(PredictConfig, values)
    with new_directory(Path(config.output), "output") as part:
        voice = Synthesizer.load(config.tacotron2, device=config.device, postfilter_strength=config.postfilter_strength)
        data = dataclasses.replace(config.data, cleaners=voice.cleaners, language=voice.reader.language)
        lists = dict.fromkeys((data.train_filelist, data.val_filelist))
        names = voice.tacotron2.config.speakers
        datasets = [TextMelDataset(filelist, data, voice.audio, voice.symbols, names) for filelist in lists]
        clips = [clip for dataset in datasets for clip in dataset.clips]
        if mel := next((clip for clip in clips if clip.suffix in MEL_SUFFIXES), None):
            raise UserError(f"{mel.where}: {mel.path} is a mel; WaveGlow needs a filelist of audio files")
        mels, generator = MelDirectory(part), torch.Generator(voice.device).manual_seed(config.seed)
        mels.reset(voice.audio)
        for dataset in datasets:
            predict(voice, dataset, mels, config.batch_size, generator)
    count = counted(len(mels.entries), "predicted mel")
    print(f"{config.output}: {count}; train WaveGlow on them with data.mel_dir={config.output}")


if __name__ == "__main__":
    main()
