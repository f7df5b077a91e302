"""Speak a text file, or use the Synthesizer in your own program.

    python inference.py tacotron2=CKPT waveglow=CKPT input=phrases.txt output=DIR
    python inference.py tacotron2=CKPT vocoder=griffin_lim input=phrases.txt output=DIR

One non-blank line makes one wav, in the file's order: 0000.wav, 0001.wav, ..., each with a picture of its alignment;
log.jsonl has the speed of every phrase.
"""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from common.audio import GriffinLim, save_audio
from common.checkpoint import formats as interchange
from common.config import AudioConfig, check_seed, from_dict
from common.data.filelist import read_lines
from common.data.mels import audio_differences
from common.entry import hydra_entry
from common.errors import UserError, did_you_mean, make_directory
from common.ops.padding import pad_last
from common.ops.precision import PRECISIONS, autocast, set_tf32
from common.tracking.plots import alignment_figure
from common.tracking.tracker import JsonLines
from tacotron2.model import Tacotron2
from tacotron2.text import SYMBOLS, text_to_ids, unknown_characters
from train import TASKS
from waveglow.denoiser import Denoiser
from waveglow.mel_match import MelMatch
from waveglow.model import WaveGlow

INT8 = "int8"
DEVICES = ("auto", "cpu", "cuda")


@dataclass
class InferenceConfig:
    """The keys of conf/inference.yaml, which explains them."""

    tacotron2: str
    input: str
    output: str
    waveglow: str | None = None
    vocoder: str = "waveglow"
    denoiser_strength: float = 0.01
    sigma: float | None = None
    match_mel: int | None = None
    sharpen: float = 1.0
    batch_size: int = 1
    max_decoder_steps: int | None = None
    precision: str = "fp32"
    tf32: bool = True
    device: str = "auto"
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        choices = {
            "vocoder": ("waveglow", "griffin_lim"),
            "precision": (*PRECISIONS, INT8),
            "device": DEVICES,
        }
        for key, known in choices.items():
            if getattr(self, key) not in known:
                raise UserError(f"{key}={getattr(self, key)!r} is unknown{did_you_mean(getattr(self, key), known)}")
        if self.batch_size < 1 or (self.max_decoder_steps is not None and self.max_decoder_steps < 1):
            raise UserError(
                f"batch_size={self.batch_size} and max_decoder_steps={self.max_decoder_steps} must be at least 1"
            )
        check_seed(self.seed)
        for key in ("denoiser_strength", "sigma", "match_mel", "sharpen"):
            if (getattr(self, key) or 0) < 0:
                raise UserError(f"{key}={getattr(self, key)} must not be negative")
        if self.vocoder == "waveglow" and self.waveglow is None:
            raise UserError("no vocoder: set waveglow=CKPT, or vocoder=griffin_lim, which needs no training")


def visible_device(device: str) -> str:
    """ "cpu" or "cuda" for one of DEVICES."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: no GPU is visible; use device=cpu")
    return device


def load_model(path: str | Path, device: str | torch.device = "cpu", **overrides: Any) -> nn.Module:
    """The model of a checkpoint of any layout, or of a run directory's newest one, in eval mode.

    Layouts: ours, safetensors, NVIDIA DeepLearningExamples', NVIDIA/tacotron2's and NVIDIA/waveglow's; sizes come from
    the file. `overrides` replace fields of its config: prenet_dropout=0.0 makes Tacotron 2 deterministic.
    """
    checkpoint = interchange.load(path, TASKS.values())
    return interchange.build(checkpoint, path, TASKS.values(), **overrides).to(device)


MAX_SYMBOLS = 300  # attention loses its place in longer texts than it was trained on; LJSpeech's longest have 190
BREAKS = (".!?", ";:", ",", " ")  # where a longer text is cut, the best places first


def split_long(ids: list[int], symbols: Sequence[str], limit: int = MAX_SYMBOLS) -> list[list[int]]:
    """Cut ids into pieces of at most `limit`: after the last sentence that fits, or else a clause, or a word."""
    pieces = []
    while len(ids) > limit:
        head = [symbols[i] for i in ids[:limit]]
        # The second half of the limit: a sentence of three words is no reason for a piece of its own.
        places = ([k + 1 for k in range(limit // 2, limit) if head[k] in marks] for marks in BREAKS)
        cut = next((found[-1] for found in places if found), limit)
        pieces.append(ids[:cut])
        ids = ids[cut:]
    return [*pieces, ids]


@dataclass
class Utterance:
    """What the Synthesizer makes of one phrase."""

    audio: Tensor  # (N) on the CPU
    mel: Tensor  # (n_mels, T)
    alignment: Tensor  # (T, L)
    truncated: bool  # the decoder did not stop by itself
    stats: dict[str, float]  # latencies in seconds, items/s, rtf; the reference's log keys
    num_pieces: int = 1  # that a long text was cut into

    @classmethod
    def joined(cls, pieces: Sequence[Utterance]) -> Utterance:
        """The pieces of one phrase, one after the other."""
        if len(pieces) == 1:
            return pieces[0]
        seconds = ("audio_seconds", *(key for key in pieces[0].stats if key.endswith("latency")))
        stats = {key: sum(piece.stats[key] for piece in pieces) for key in seconds}
        audio, mel = torch.cat([piece.audio for piece in pieces]), torch.cat([piece.mel for piece in pieces], 1)
        for key in pieces[0].stats:
            if key.endswith("_items_per_sec"):
                model = key.removesuffix("_items_per_sec")
                stats[key] = (mel.shape[1] if model == "tacotron2" else len(audio)) / stats[f"{model}_latency"]
        stats["rtf"] = stats["latency"] / stats["audio_seconds"]
        stats["times_real_time"] = 1 / stats["rtf"]
        alignment = torch.block_diag(*(piece.alignment for piece in pieces))
        return cls(audio, mel, alignment, any(piece.truncated for piece in pieces), stats, len(pieces))


def total_latency(stats: Mapping[str, float]) -> float:
    """Seconds, over the parts of the chain that were measured."""
    return sum(value for key, value in stats.items() if key.endswith("_latency"))


class Vocoder:
    """Mel to audio: WaveGlow with its denoiser and `match_mel` passes of MelMatch (None: the model's own number), or
    without a WaveGlow Griffin-Lim."""

    def __init__(
        self, waveglow: WaveGlow | None, audio: AudioConfig, precision: str = "fp32", match_mel: int | None = None
    ) -> None:
        self.waveglow, self.audio = waveglow, audio
        self.match_mel = waveglow.config.match_mel if waveglow and match_mel is None else match_mel or 0
        self.precision = "fp32" if precision == INT8 else precision  # int8 is for Tacotron 2's decoder
        self.device = next(waveglow.parameters()).device if waveglow else torch.device("cpu")
        self.denoiser = Denoiser(waveglow) if waveglow else None
        self.mel_match = MelMatch(audio).to(self.device)
        self.griffin_lim = GriffinLim(audio)

    @property
    def name(self) -> str:
        return "griffin_lim" if self.waveglow is None else "waveglow_matched" if self.match_mel else "waveglow"

    @classmethod
    def load(
        cls,
        path: str | Path | None,
        audio: AudioConfig,
        device: str = "cpu",
        precision: str = "fp32",
        match_mel: int | None = None,
    ) -> Vocoder:
        """From a checkpoint or run directory whose audio config must be `audio`; None: Griffin-Lim."""
        if path is None:
            return cls(None, audio, precision)
        state = _load_named(path, "waveglow")
        if differences := audio_differences(audio, state["audio_config"], "the WaveGlow's"):
            raise UserError(
                f"waveglow={path} and the mels for it cannot be chained: {'; '.join(differences)}; use a Tacotron 2 "
                "and a WaveGlow of one audio config"
            )
        waveglow = interchange.build(state, path, TASKS.values()).to(device)
        assert isinstance(waveglow, WaveGlow)
        return cls(waveglow, audio, precision, match_mel)

    def __call__(
        self, mel: Tensor, seed: int = 0, sigma: float | None = None, denoiser_strength: float = 0.01
    ) -> tuple[Tensor, dict[str, float]]:
        """mel (n_mels, T) -> audio (T * hop_length) on the CPU, its latencies and items/s"""
        start = _now(self.device)
        if self.waveglow is None or self.denoiser is None:
            audio = self.griffin_lim(mel, seed)
            seconds = _now(self.device) - start
            return audio, {"griffin_lim_items_per_sec": len(audio) / seconds, "griffin_lim_latency": seconds}
        with autocast(self.device, self.precision):
            audio = self.waveglow.infer(mel.unsqueeze(0).to(self.device), sigma).float()
        seconds = _now(self.device) - start
        stats = {"waveglow_items_per_sec": audio.shape[1] / seconds, "waveglow_latency": seconds}
        start = _now(self.device)
        if denoiser_strength:
            audio = self.denoiser(audio, denoiser_strength)
        stats["denoiser_latency"] = _now(self.device) - start
        audio = audio[0]
        if self.match_mel:
            start = _now(self.device)
            audio = self.mel_match(mel.to(self.device), audio, self.match_mel)
            stats["match_latency"] = _now(self.device) - start
        return audio.cpu(), stats


def _now(device: torch.device) -> float:
    """Seconds, once the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Synthesizer:
    """Text to audio: Tacotron 2, then a vocoder."""

    def __init__(
        self,
        tacotron2: Tacotron2,
        vocoder: Vocoder,
        cleaners: str = "english_cleaners",
        symbols: Sequence[str] = SYMBOLS,
        precision: str = "fp32",
    ) -> None:
        self.tacotron2, self.vocoder, self.audio = tacotron2, vocoder, vocoder.audio
        self.cleaners, self.symbols = cleaners, symbols
        self.device = next(tacotron2.parameters()).device
        if precision == INT8 and self.device.type != "cpu":
            raise UserError(f"precision=int8 is for device=cpu, not for {self.device.type}; use bf16 or fp16 there")
        tacotron2.decoder.int8 = precision == INT8
        self.precision = vocoder.precision

    @classmethod
    def load(
        cls,
        tacotron2: str | Path,
        waveglow: str | Path | None = None,
        device: str = "auto",
        precision: str = "fp32",
        match_mel: int | None = None,
        sharpen: float = 1.0,
        **overrides: Any,
    ) -> Synthesizer:
        """From checkpoints or run directories; without `waveglow` Griffin-Lim is the vocoder, with it `match_mel` is as
        in Vocoder. `sharpen` is the share of the sharpening that was measured for this Tacotron 2. `overrides` replace
        fields of its config."""
        device = visible_device(device)
        state = _load_named(tacotron2, "tacotron2")
        audio: AudioConfig = from_dict(AudioConfig, state["audio_config"], "audio")
        if (symbols := state["text"]["symbols"]) is None:
            raise UserError(
                f"tacotron2={tacotron2}: its {state['model_config']['n_symbols']} symbols are not the reference's, and "
                "the file does not name them; convert it first: python scripts/convert_checkpoint.py IN OUT "
                "--symbols FILE"
            )
        vocoder = Vocoder.load(waveglow, audio, device, precision, match_mel)
        model = interchange.build(state, tacotron2, TASKS.values(), **overrides).to(device)
        assert isinstance(model, Tacotron2)
        model.sharpening.strength = sharpen
        return cls(model, vocoder, state["text"]["cleaners"], symbols, precision)

    def speak(self, text: str, **options: Any) -> Utterance:
        """One phrase; `options` are those of `batches`."""
        utterance = next(self.batches([text], **options))[0]
        if utterance is None:
            raise UserError(f"nothing is left to say of {text[:60]!r} after {self.cleaners}")
        return utterance

    def batches(
        self,
        texts: Sequence[str],
        batch_size: int = 1,
        seed: int = 0,
        sigma: float | None = None,
        denoiser_strength: float = 0.01,
        max_decoder_steps: int | None = None,
    ) -> Iterator[list[Utterance | None]]:
        """Speak `texts` in their order, `batch_size` at a time; None stands for a text with nothing to say.

        A text of more than MAX_SYMBOLS symbols is spoken in pieces, see `split_long`.
        """
        torch.manual_seed(seed)
        for start in range(0, len(texts), batch_size):
            ids = [self.ids(text) for text in texts[start : start + batch_size]]
            cut = [split_long(i, self.symbols) if i else [] for i in ids]
            flat = [piece for pieces in cut for piece in pieces]
            spoken = (
                utterance
                for k in range(0, len(flat), batch_size)
                for utterance in self._speak(
                    flat[k : k + batch_size], seed, sigma, denoiser_strength, max_decoder_steps
                )
            )
            yield [Utterance.joined([next(spoken) for _ in pieces]) if pieces else None for pieces in cut]

    def ids(self, text: str) -> list[int]:
        """The symbols that stand for `text`, an empty list if there is nothing to say."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the caller asks `dropped` instead, and can say where the text stands
            return text_to_ids(text, self.cleaners, self.symbols)

    def dropped(self, text: str) -> list[str]:
        """The characters of `text` that the model has no symbol for."""
        return unknown_characters(text, self.cleaners, self.symbols)

    def _speak(
        self, ids: list[list[int]], seed: int, sigma: float | None, strength: float, max_steps: int | None
    ) -> Iterator[Utterance]:
        """One batch through Tacotron 2, then each phrase through the vocoder at its own length: no phrase hears the
        padding of another."""
        if not ids:
            return
        text = pad_last([torch.tensor(i) for i in ids], 0).to(self.device)
        lengths = torch.tensor([len(i) for i in ids], device=self.device)
        start = _now(self.device)
        with autocast(self.device, self.precision):
            speech = self.tacotron2.infer(text, lengths, max_steps)
        tacotron2_seconds = _now(self.device) - start
        total_frames = int(speech.mel_lengths.sum())
        for row, num_frames in enumerate(speech.mel_lengths.tolist()):
            mel = speech.mel_postnet[row, :, :num_frames].float()
            audio, vocoder_stats = self.vocoder(mel, seed, sigma, strength)
            # A phrase's share of its batch's time; with a batch of one this is the latency itself.
            stats = {
                "tacotron2_items_per_sec": total_frames / tacotron2_seconds,
                "tacotron2_latency": tacotron2_seconds * num_frames / total_frames,
                **vocoder_stats,
            }
            stats["latency"] = total_latency(stats)
            stats["audio_seconds"] = len(audio) / self.audio.sample_rate
            stats["rtf"] = stats["latency"] / stats["audio_seconds"]
            stats["times_real_time"] = 1 / stats["rtf"]
            alignment = speech.alignment[row, :num_frames, : len(ids[row])].float().cpu()
            yield Utterance(audio, mel.cpu(), alignment, bool(speech.truncated[row]), stats)


def _load_named(path: str | Path, name: str) -> dict[str, Any]:
    try:
        return interchange.load(path, [TASKS[name]])
    except UserError as error:
        raise UserError(f"{name}: {error}") from error


@hydra_entry("inference")
def main(values: dict[str, Any]) -> None:
    config: InferenceConfig = from_dict(InferenceConfig, values)
    lines = read_lines(config.input, "input")
    output = Path(config.output)
    names = [output / f"{i:04d}{suffix}" for i in range(len(lines)) for suffix in (".wav", ".png")]
    if (taken := [path for path in names if path.exists()]) and not config.overwrite:
        raise UserError(f"{taken[0]} exists already; choose another output=DIR or set overwrite=true")
    set_tf32(config.tf32)
    waveglow = config.waveglow if config.vocoder == "waveglow" else None
    synthesizer = Synthesizer.load(
        config.tacotron2, waveglow, config.device, config.precision, config.match_mel, config.sharpen
    )
    make_directory(output, "output")
    log = JsonLines(output / "log.jsonl")
    log.write(config=dataclasses.asdict(config))
    batches = synthesizer.batches(
        [text for _, text in lines],
        config.batch_size,
        config.seed,
        config.sigma,
        config.denoiser_strength,
        config.max_decoder_steps,
    )
    totals = {"latency": 0.0, "audio_seconds": 0.0}
    utterances = (utterance for batch in batches for utterance in batch)
    for index, ((number, text), utterance) in enumerate(zip(lines, utterances, strict=True)):
        where = f"{config.input}:{number}"
        if dropped := synthesizer.dropped(text):
            print(f"warning: {where}: not spoken, the model has no symbol for them: {' '.join(dropped)}")
        if utterance is None:
            print(f"warning: {where}: nothing to say in {text[:60]!r}; {index:04d}.wav is left out")
            continue
        if utterance.num_pieces > 1:
            print(f"{where}: a long line, spoken in {utterance.num_pieces} pieces into {index:04d}.wav")
        if utterance.truncated:
            print(f"warning: {where}: the decoder did not stop by itself; {index:04d}.wav ends at the step limit")
        save_audio(output / f"{index:04d}.wav", utterance.audio, synthesizer.audio.sample_rate)
        alignment_figure(utterance.alignment, text[:80]).savefig(output / f"{index:04d}.png", dpi=100)
        log.write(file=f"{index:04d}.wav", line=number, text=text, truncated=utterance.truncated, **utterance.stats)
        for key in totals:
            totals[key] += utterance.stats[key]
        speeds = "  ".join(
            f"{key.removesuffix('_items_per_sec')} {value:,.0f} items/s"
            for key, value in utterance.stats.items()
            if key.endswith("_items_per_sec")
        )
        print(
            f"{output / f'{index:04d}.wav'}  {utterance.stats['audio_seconds']:.2f} s  {speeds}  "
            f"RTF {utterance.stats['rtf']:.3f} ({utterance.stats['times_real_time']:.2f} x real time)",
            flush=True,
        )
    log.close()
    if totals["audio_seconds"]:
        rtf = totals["latency"] / totals["audio_seconds"]
        print(f"total {totals['audio_seconds']:.2f} s of speech, RTF {rtf:.3f} ({1 / rtf:.2f} x real time)")


if __name__ == "__main__":
    main()
