"""Compare ways to change the speed of speech: word error rate, naturalness and pitch, by speed.

    pip install -e '.[eval]'
    PYTHONPATH=scripts python -m benchmarks.speed SENTENCES tacotron2=CKPT waveglow=CKPT --limit 12

mel: the frames of the mel are resampled in time by linear interpolation, before the vocoder (synthesis/speed.py).
cubic: likewise, by a cubic spline. waveform: librosa's phase vocoder stretches the audio of speed 1.
The word error rate is Whisper tiny.en's, naturalness is DistillMOS, the pitch is the median of voiced frames (DIO,
refined by StoneMask) relative to speed 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import NamedTuple

import librosa
import numpy as np
import scipy.interpolate
import torch

from common.data.filelist import read_lines
from common.entry import run_command
from evaluation.judges import Errors, Listener, Naturalness, errors, optional
from synthesis.synthesizer import Synthesizer
from synthesis.text_to_mel import for_vocoder

SPEEDS = (0.5, 0.75, 1.5, 2.0)


class Judged(NamedTuple):
    """A sentence."""

    errors: Errors
    naturalness: float
    pitch: float  # relative to speed 1


def pitch(audio: np.ndarray, sample_rate: int) -> float:
    """Median of voiced frames, in Hz."""
    pyworld = optional("pyworld")
    samples = audio.astype(np.float64)
    rough, times = pyworld.dio(samples, sample_rate)
    fine = pyworld.stonemask(samples, rough, times, sample_rate)
    return float(np.median(fine[fine > 0]))


def versions(voice: Synthesizer, text: str) -> Iterator[tuple[str, float, np.ndarray]]:
    """(method, speed, audio) of one sentence."""
    (plain,) = next(voice.batches([text]))
    assert plain is not None
    yield "none", 1.0, plain.audio.numpy()
    for speed in SPEEDS:
        (utterance,) = next(voice.batches([text], speed=speed))
        assert utterance is not None
        yield "mel", speed, utterance.audio.numpy()
        places = np.arange(0, plain.mel.shape[1] - 1 + 1e-9, speed)
        spline = scipy.interpolate.CubicSpline(np.arange(plain.mel.shape[1]), plain.mel.numpy(), axis=1)
        mel = torch.from_numpy(spline(places)).float()
        yield "cubic", speed, voice.vocoder(mel, for_vocoder(0, plain.ids, voice.device))[0].numpy()
        yield "waveform", speed, librosa.effects.time_stretch(plain.audio.numpy(), rate=speed)


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sentences", help="text file, one sentence per line")
    parser.add_argument("tacotron2", help="tacotron2=CKPT")
    parser.add_argument("waveglow", help="waveglow=CKPT")
    parser.add_argument("--limit", type=int, default=12, help="number of sentences")
    return parser


def main() -> None:
    options = parser().parse_args()
    models = (options.tacotron2.removeprefix("tacotron2="), options.waveglow.removeprefix("waveglow="))
    voice, listener, naturalness = Synthesizer.load(*models, device="cpu"), Listener(), Naturalness()
    rate = voice.audio.sample_rate
    found: dict[tuple[float, str], list[Judged]] = {}
    for _, text in read_lines(options.sentences, "sentences")[: options.limit]:
        usual = 0.0
        for method, speed, audio in versions(voice, text):
            audio = audio.clip(-1, 1)
            usual = usual or pitch(audio, rate)
            heard = errors(text, listener(audio, rate))
            judged = Judged(heard, naturalness(audio, rate), pitch(audio, rate) / usual)
            found.setdefault((speed, method), []).append(judged)
    print("speed  method    word errors  naturalness  pitch")
    for (speed, method), rows in sorted(found.items()):
        wrong = sum(row.errors.words_wrong for row in rows) / sum(row.errors.words for row in rows)
        print(
            f"{speed:5}  {method:9} {100 * wrong:8.1f} % {np.mean([row.naturalness for row in rows]):12.2f} "
            f"{np.median([row.pitch for row in rows]):6.3f}"
        )


if __name__ == "__main__":
    run_command(main)
