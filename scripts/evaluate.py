"""Measure a voice with judges that nobody here trained, next to real recordings. Needs the extra [eval]:

    pip install --no-deps -r requirements-eval.txt
    python scripts/evaluate.py tacotron2=CKPT waveglow=CKPT sentences=FILE recordings=FILELIST root=DIR output=DIR
    python scripts/evaluate.py wavs=DIR sentences=FILE output=DIR

Writes evaluation.json (means, 95 % intervals, and every utterance), evaluation.md (the table), and a folder of wavs for
each system that speaks. What is measured, and against what: `MEASURES`.
"""

from __future__ import annotations

import dataclasses
import json
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import librosa
import numpy as np
import scipy.stats
import torch
from tqdm import tqdm

from common.audio import LogMel, load_audio, save_audio
from common.config import AudioConfig, check_seed, from_dict
from common.data.filelist import AUDIO_SUFFIXES, Clip, read_filelist, read_lines
from common.data.mels import audio_differences
from common.entry import hydra_entry
from common.errors import UserError, did_you_mean, make_directory
from common.ops.precision import set_tf32
from evaluation.acoustics import Analysis, analyse, copy_quality, distance
from evaluation.judges import RATE, Listener, Naturalness, SpeakerEncoder, errors, optional, written
from inference import DEVICES, Synthesizer, Vocoder, total_latency, visible_device
from tacotron2.measures import reading
from tacotron2.text import word_spans

VOCODERS = ("waveglow", "waveglow_matched", "griffin_lim")
RECORDINGS = "recordings"


@dataclass
class EvaluateConfig:
    """The keys of conf/evaluate.yaml, which explains them."""

    audio: AudioConfig
    output: str
    tacotron2: str | None = None
    waveglow: str | None = None
    vocoders: list[str] | None = None
    sentences: str | None = None
    recordings: str | None = None
    root: str = "."
    wavs: str | None = None
    limit: int | None = None
    denoiser_strength: float = 0.01
    sigma: float | None = None
    match_mel: int = 3
    sharpen: float = 1.0
    device: str = "auto"
    seed: int = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        check_seed(self.seed)
        if self.device not in DEVICES:
            raise UserError(f"device={self.device!r} is unknown{did_you_mean(self.device, DEVICES)}")
        for key in ("denoiser_strength", "sigma", "sharpen"):
            if (getattr(self, key) or 0) < 0:
                raise UserError(f"{key}={getattr(self, key)} must not be negative")
        if self.match_mel < 1:
            raise UserError(f"match_mel={self.match_mel} must be at least 1; vocoders=[waveglow] is without")
        if self.limit is not None and self.limit < 1:
            raise UserError(f"limit={self.limit} must be at least 1")
        for name in self.vocoders or []:
            if name not in VOCODERS:
                raise UserError(f"vocoders={name!r} is unknown{did_you_mean(name, VOCODERS)}")
        if self.vocoders is not None and len(set(self.vocoders)) < max(len(self.vocoders), 1):
            raise UserError(f"vocoders={self.vocoders}: name one at least, and each once")
        if self.waveglow is None and any(name != "griffin_lim" for name in self.vocoders or []):
            raise UserError(f"vocoders={self.vocoders} needs waveglow=CKPT")
        if self.tacotron2 and not (self.sentences or self.recordings):
            raise UserError(
                "tacotron2 has nothing to speak: set sentences=FILE, or recordings=FILELIST for their texts"
            )
        if not (self.tacotron2 or self.recordings or self.wavs):
            raise UserError(
                "nothing to judge: set tacotron2=CKPT with sentences=FILE, recordings=FILELIST, or wavs=DIR"
            )


@dataclass
class Utterance:
    """One piece of speech and what is known of it."""

    name: str
    audio: np.ndarray  # (N) at the audio config's rate
    text: str | None = None
    clip: int | None = None  # the recording of the same text, if there is one
    found: dict[str, Any] = field(default_factory=dict)  # measures, and what they are made of


@dataclass
class System:
    """A way in which speech came about, a column of the table."""

    name: str
    utterances: list[Utterance]
    copies: bool = False  # of the recordings, in step with them
    made: bool = False  # here: its wavs are written


def folder_name(system: str) -> str:
    """Where the wavs of a system lie."""
    return system.replace(" + ", "_").replace(" ", "_")


def _mean(values: np.ndarray, axis: int) -> np.ndarray:
    return values.mean(axis=axis)


def _ratio(part: np.ndarray, total: np.ndarray, axis: int) -> np.ndarray:
    return part.sum(axis=axis) / total.sum(axis=axis)


def _percentage(part: np.ndarray, total: np.ndarray, axis: int) -> np.ndarray:
    return 100 * _ratio(part, total, axis)


@dataclass(frozen=True)
class Measure:
    title: str
    keys: tuple[str, ...]  # of Utterance.found
    statistic: Callable[..., np.ndarray] = _mean
    digits: int = 2


MEASURES = {
    "wer": Measure("word error rate, % (Whisper tiny.en)", ("words_wrong", "words"), _percentage, 1),
    "cer": Measure("character error rate, %", ("characters_wrong", "characters"), _percentage, 1),
    "mos": Measure("naturalness, 1 to 5 (DistillMOS)", ("mos",)),
    "speaker": Measure("speaker similarity to the recordings, cosine (Resemblyzer)", ("speaker",)),
    "mcd": Measure("mel-cepstral distortion, dB (DTW)", ("mcd",)),
    "pitch_error": Measure("pitch error, cents RMS (DTW)", ("pitch_error",), digits=0),
    "voicing_error": Measure("frames voiced in only one, %", ("voicing_error",), digits=1),
    "stoi": Measure("STOI, 0 to 1", ("stoi",)),
    "pesq": Measure("PESQ wideband, 1 to 4.6", ("pesq",)),
    "coverage": Measure("words that the attention read, %", ("coverage",), digits=1),
    "skips": Measure("skipped word groups an utterance", ("skips",)),
    "repeats": Measure("repeated word groups an utterance", ("repeats",)),
    "flawless": Measure("read without skip, repeat or missing end, %", ("flawless",), digits=1),
    "rate": Measure("speaking rate, characters a second", ("text_characters", "speech_seconds"), _ratio, 1),
    "rtf": Measure("RTF", ("latency", "audio_seconds"), _ratio, 3),
}


def interval(values: Sequence[Sequence[float]], statistic: Callable[..., np.ndarray]) -> dict[str, Any]:
    """{"mean", "low", "high", "n"} of `statistic` over utterances, with the 95 % interval by 2,000 bootstrap samples;
    `values` are a sequence for each of its arguments. Of a single utterance there is no interval."""
    columns = tuple(np.asarray(column, dtype=float) for column in values)
    result: dict[str, Any] = {
        "mean": float(statistic(*columns, axis=0)),
        "low": None,
        "high": None,
        "n": len(columns[0]),
    }
    if len(columns[0]) > 1:
        limits = scipy.stats.bootstrap(
            columns, statistic, n_resamples=2000, paired=True, vectorized=True, method="percentile", rng=0
        ).confidence_interval
        result.update(low=float(limits.low), high=float(limits.high))
    return result


class Judge:
    """All that is measured of an utterance, or of an utterance and its recording."""

    def __init__(self, config: AudioConfig) -> None:
        self.sample_rate, self.fmax = config.sample_rate, config.fmax
        self.listener, self.naturalness, self.encoder = Listener(), Naturalness(), SpeakerEncoder()
        self.analyses: dict[int, Analysis] = {}

    def listen(self, utterance: Utterance) -> None:
        """What can be said of an utterance alone."""
        utterance.audio = np.nan_to_num(utterance.audio).clip(-1, 1)  # as it is heard, a diverged model's too
        audio, found = librosa.resample(utterance.audio, orig_sr=self.sample_rate, target_sr=RATE), utterance.found
        if len(audio) < RATE // 2:  # the judges need half a second
            audio = np.pad(audio, (0, RATE // 2 - len(audio)))
        found["heard"] = self.listener(audio)
        found["mos"], found["embedding"] = self.naturalness(audio), self.encoder(audio)
        found["audio_seconds"] = len(utterance.audio) / self.sample_rate
        if utterance.text is not None:
            found.update(errors(utterance.text, found["heard"])._asdict())
            trimmed, _ = librosa.effects.trim(utterance.audio, top_db=40)
            found["text_characters"] = len(utterance.text)
            found["speech_seconds"] = max(len(trimmed), 1) / self.sample_rate

    def compare(self, utterance: Utterance, recordings: Sequence[Utterance], in_step: bool) -> None:
        """What can be said of an utterance beside the recordings."""
        others = [r.found["embedding"] for i, r in enumerate(recordings) if r is not utterance and i != utterance.clip]
        if others:
            utterance.found["speaker"] = float(np.mean(others, axis=0) @ utterance.found["embedding"])
        if utterance.clip is None:
            return
        clip = recordings[utterance.clip]
        if utterance.clip not in self.analyses:
            self.analyses[utterance.clip] = analyse(clip.audio, self.sample_rate, self.fmax)
        apart = distance(self.analyses[utterance.clip], analyse(utterance.audio, self.sample_rate, self.fmax))
        utterance.found.update(mcd=apart.mcd, voicing_error=100 * apart.voicing_error)
        if not math.isnan(apart.pitch_error):
            utterance.found["pitch_error"] = apart.pitch_error
        if in_step:
            both = (librosa.resample(u.audio, orig_sr=self.sample_rate, target_sr=RATE) for u in (clip, utterance))
            utterance.found.update(copy_quality(*both))


def read_recordings(config: EvaluateConfig) -> System:
    """The real clips; a clip of another sample rate is resampled."""
    try:
        clips: list[Clip] = read_filelist(str(config.recordings), config.root, follow_links=True)[: config.limit]
    except UserError as error:
        raise UserError(str(error).replace("data.root=", "root=")) from error
    for clip in clips:
        check_text(clip.text, clip.where)
    audio = [load_audio(clip.file, config.audio, convert=True) for clip in clips]
    stems = [Path(clip.path).stem for clip in clips]
    names = stems if len(set(stems)) == len(stems) else [f"{i:04d}_{stem}" for i, stem in enumerate(stems)]
    return System(RECORDINGS, [Utterance(n, a, c.text) for n, a, c in zip(names, audio, clips, strict=True)])


def read_sentences(config: EvaluateConfig) -> list[str]:
    lines = read_lines(str(config.sentences), "sentences")
    for number, text in lines:
        check_text(text, f"{config.sentences}:{number}")
    return [text for _, text in lines]


def check_text(text: str, where: str) -> None:
    try:
        written(text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def read_wavs(config: EvaluateConfig, by_text: Mapping[str | None, int]) -> System:
    """The files of a folder, with the lines of `sentences`, if there are any, as their texts."""
    folder = Path(str(config.wavs)).resolve()
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise UserError(f"wavs={config.wavs}: no {', '.join(AUDIO_SUFFIXES)} file is there; check the folder")
    texts: Sequence[str | None] = [None] * len(files)
    if config.sentences:
        texts = read_sentences(config)
        if len(texts) != len(files):
            raise UserError(
                f"wavs={config.wavs} has {len(files)} audio files and sentences={config.sentences} {len(texts)} lines; "
                "there must be a line for each file, in the order of the files' names"
            )
    files = files[: config.limit]
    audio = [load_audio(file, config.audio, convert=True) for file in files]
    utterances = [
        Utterance(file.name, samples, text, by_text.get(text) if text else None)
        for file, samples, text in zip(files, audio, texts, strict=False)
    ]
    return System(f"wavs in {folder.name}", utterances)


def copies(recordings: System, vocoder: Vocoder, config: EvaluateConfig) -> System:
    """Copy-synthesis: the mel of each recording through a vocoder."""
    log_mel, utterances = LogMel(config.audio), []
    for i, clip in enumerate(tqdm(recordings.utterances, desc=f"{vocoder.name} copies", disable=None)):
        mel = log_mel(torch.from_numpy(clip.audio).unsqueeze(0))[0]
        torch.manual_seed(config.seed)
        audio, stats = vocoder(mel, config.seed, config.sigma, config.denoiser_strength)
        copied = audio.numpy()[: len(clip.audio)]
        utterances.append(Utterance(clip.name, copied, clip.text, i, {"latency": total_latency(stats)}))
    return System(f"copies by {vocoder.name}", utterances, copies=True, made=True)


def spoken(
    voice: Synthesizer,
    vocoders: Sequence[Vocoder],
    texts: Sequence[tuple[str, str, int | None]],
    config: EvaluateConfig,
) -> list[System]:
    """Texts, as (name, text, recording), through Tacotron 2 once and through each of the vocoders."""
    systems = [System(f"tacotron2 + {vocoder.name}", [], made=True) for vocoder in vocoders]
    for name, text, clip in tqdm(texts, desc="speaking", disable=None):
        utterance = voice.speak(text, seed=config.seed, sigma=config.sigma, denoiser_strength=config.denoiser_strength)
        read = reading(utterance.alignment, word_spans(voice.ids(text), voice.symbols))
        found = {
            "coverage": 100 * read.coverage,
            "skips": read.skips,
            "repeats": read.repeats,
            "truncated": utterance.truncated,
            "flawless": 100.0 * (read.skips == read.repeats == 0 and not utterance.truncated),
        }
        for k, (system, vocoder) in enumerate(zip(systems, vocoders, strict=True)):
            audio, stats = utterance.audio, utterance.stats
            if k > 0:  # the voice speaks through the first
                torch.manual_seed(config.seed)
                audio, stats = vocoder(utterance.mel, config.seed, config.sigma, config.denoiser_strength)
                stats = {"tacotron2_latency": utterance.stats["tacotron2_latency"], **stats}
            found_here = {**found, "latency": total_latency(stats)}
            system.utterances.append(Utterance(name, audio.numpy(), text, clip, found_here))
    return systems


def table(summary: dict[str, dict[str, Any]]) -> list[list[str]]:
    """Rows of cells: a head, then a row for each measure that some system has, with a column for each system."""
    rows = [["", *summary]]
    for key, measure in MEASURES.items():
        cells = []
        for found in summary.values():
            if key not in found:
                cells.append("")
                continue
            mean, low, high = (found[key][part] for part in ("mean", "low", "high"))
            limits = "" if low is None else f" ({low:.{measure.digits}f} to {high:.{measure.digits}f})"
            cells.append(f"{mean:.{measure.digits}f}{limits}")
        if any(cells):
            rows.append([measure.title, *cells])
    return [*rows, ["utterances", *(str(found["utterances"]) for found in summary.values())]]


def markdown(summary: dict[str, dict[str, Any]]) -> str:
    head, *rows = (f"| {' | '.join(cells)} |" for cells in table(summary))
    return "\n".join([head, "|---" * (1 + len(summary)) + "|", *rows])


def summarize(system: System) -> dict[str, Any]:
    result: dict[str, Any] = {"utterances": len(system.utterances)}
    for key, measure in MEASURES.items():
        rows = [
            [u.found[k] for k in measure.keys] for u in system.utterances if all(k in u.found for k in measure.keys)
        ]
        if rows:
            result[key] = interval(list(zip(*rows, strict=True)), measure.statistic)
    return result


def load(config: EvaluateConfig) -> tuple[Synthesizer | None, list[Vocoder]]:
    """The models that the config names, each having spoken once: what is done at a first time is not its speed."""
    device = visible_device(config.device)
    set_tf32(True)
    vocoders = [
        Vocoder.load(
            None if name == "griffin_lim" else config.waveglow,
            config.audio,
            device,
            match_mel=config.match_mel if name == "waveglow_matched" else 0,
        )
        for name in config.vocoders or (VOCODERS if config.waveglow else VOCODERS[-1:])
    ]
    for vocoder in vocoders:
        vocoder(torch.zeros(config.audio.n_mels, 8, device=vocoder.device))
    if config.tacotron2 is None:
        return None, vocoders
    voice = Synthesizer.load(config.tacotron2, device=device, sharpen=config.sharpen)
    if differences := audio_differences(config.audio, dataclasses.asdict(voice.audio), "in the checkpoint"):
        raise UserError(f"tacotron2={config.tacotron2}: {'; '.join(differences)}; set audio=... as it was trained")
    voice.vocoder = vocoders[0]
    voice.speak("One.", max_decoder_steps=8)
    return voice, vocoders


def systems(config: EvaluateConfig) -> Iterator[System]:
    """Whatever the config names, the recordings first. What cannot be read is said before anything is judged."""
    for module in ("pyworld", "pesq", "pystoi", "jiwer"):
        optional(module)
    voice, vocoders = load(config) if config.tacotron2 or config.recordings else (None, [])
    recordings = read_recordings(config) if config.recordings else None
    clips = recordings.utterances if recordings else []
    by_text = {clip.text: i for i, clip in enumerate(clips)}
    wavs = read_wavs(config, by_text) if config.wavs else None
    if config.sentences:
        sentences = read_sentences(config)[: config.limit]
        texts = [(f"{i:04d}", text, by_text.get(text)) for i, text in enumerate(sentences)]
    else:
        texts = [(clip.name, str(clip.text), i) for i, clip in enumerate(clips)]
    if voice and (silent := [text for _, text, _ in texts if not voice.ids(text)]):
        raise UserError(f"{silent[0]!r}: nothing of it is left to say after {voice.cleaners}; remove it")
    yield from filter(None, (recordings, wavs))
    if recordings:
        for vocoder in vocoders:
            yield copies(recordings, vocoder, config)
    if voice:
        yield from spoken(voice, vocoders, texts, config)


@hydra_entry("evaluate")
def main(values: dict[str, Any]) -> None:
    config: EvaluateConfig = from_dict(EvaluateConfig, values)
    output = Path(config.output)
    if (taken := output / "evaluation.json").exists() and not config.overwrite:
        raise UserError(f"{taken} exists already; choose another output=DIR or set overwrite=true")
    make_directory(output, "output")
    waiting = systems(config)
    judge, judged, recordings = Judge(config.audio), list[System](), list[Utterance]()
    for system in waiting:
        for utterance in tqdm(system.utterances, desc=f"judging {system.name}", disable=None):
            judge.listen(utterance)
        if system.name == RECORDINGS:
            recordings = system.utterances
        for utterance in tqdm(system.utterances, desc=f"comparing {system.name}", disable=None):
            judge.compare(utterance, recordings, system.copies)
        if system.made:
            folder = output / folder_name(system.name)
            make_directory(folder, "output")
            for utterance in system.utterances:
                save_audio(folder / f"{utterance.name}.wav", utterance.audio, config.audio.sample_rate)
        judged.append(system)
        write(output, config, judged)
    print((output / "evaluation.md").read_text(encoding="utf-8"), end="")


def write(output: Path, config: EvaluateConfig, judged: Sequence[System]) -> None:
    """What is known so far: an interruption loses a system at most."""
    summary = {system.name: summarize(system) for system in judged}
    rows = {
        system.name: [
            {"name": u.name, "text": u.text, **{k: v for k, v in u.found.items() if k != "embedding"}}
            for u in system.utterances
        ]
        for system in judged
    }
    result = {"config": dataclasses.asdict(config), "summary": summary, "utterances": rows}
    (output / "evaluation.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
    (output / "evaluation.md").write_text(markdown(summary) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
