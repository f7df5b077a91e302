"""The systems to judge: recordings, copies of them, synthesized text, and folders of audio files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import librosa
import numpy as np
import torch
from tqdm import tqdm

from common.audio import LogMel, load_audio
from common.config import AudioConfig
from common.data.filelist import AUDIO_SUFFIXES, Clip, read_filelist, read_lines
from common.data.mels import audio_differences
from common.device import Device, resolve_device
from common.errors import UserError, about
from common.ops.precision import set_tf32
from common.schema import Count, NonNegative, Options, Seed
from common.wording import counted
from evaluation.judges import normalized, optional
from evaluation.ladders import LadderName, aligned, steps
from evaluation.table import RECORDINGS, System, Utterance
from synthesis.engines.loading import OWN, engine_options, load_engine
from synthesis.engines.options import EngineOptions
from synthesis.engines.protocol import SpeechEngine, whole
from synthesis.options import SpeechOptions
from synthesis.synthesizer import Synthesizer
from synthesis.vocoder import Vocoder, total_latency
from tacotron2.measures import reading
from tacotron2.text import word_spans

VocoderName = Literal["waveglow", "waveglow_matched", "griffin_lim"]
VOCODERS: tuple[VocoderName, ...] = get_args(VocoderName)


@dataclass(kw_only=True)
class EvaluateConfig(Options):
    """The keys of conf/evaluate.yaml, which explains them."""

    audio: AudioConfig
    output: str
    engine: dict[str, Any] = field(default_factory=lambda: {"name": OWN})
    tacotron2: str | None = None
    waveglow: str | None = None
    vocoders: list[VocoderName] | None = None
    sentences: str | None = None
    recordings: str | None = None
    root: str = "."
    ladders: list[LadderName] | None = None
    wavs: str | None = None
    limit: Count | None = None
    denoiser_strength: NonNegative = 0.01
    sigma: NonNegative | None = None
    match_mel: Count | None = None
    postfilter_strength: NonNegative = 1.0
    speaker: str | None = None
    device: Device = "auto"
    seed: Seed = 0
    overwrite: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.vocoders is not None and len(set(self.vocoders)) < max(len(self.vocoders), 1):
            raise UserError(f"vocoders={self.vocoders}: name at least one, and each once")
        if self.waveglow is None and any(name != "griffin_lim" for name in self.vocoders or []):
            raise UserError(f"vocoders={self.vocoders} needs waveglow=CKPT")
        if self.ladders and not self.recordings:
            raise UserError(f"ladders={self.ladders} needs recordings=FILELIST, which it makes worse")
        speaks = "tacotron2" if self.tacotron2 else "engine" if self.other_engine else None
        if speaks and not (self.sentences or self.recordings):
            raise UserError(f"{speaks} needs texts: set sentences=FILE, or recordings=FILELIST for their transcripts")
        if not (speaks or self.recordings or self.wavs):
            raise UserError(
                "nothing to judge: set tacotron2=CKPT with sentences=FILE, recordings=FILELIST, or wavs=DIR"
            )

    @cached_property
    def other_engine(self) -> EngineOptions | None:
        """The options of an engine that is judged beside Tacotron 2 and the vocoders."""
        return engine_options(self.engine)


def systems(config: EvaluateConfig) -> Iterator[System]:
    """Yield what the config names, the recordings first. Unreadable input raises an error before anything is judged."""
    for module in ("pyworld", "pesq", "pystoi", "jiwer", "speechmos"):
        optional(module)
    voice, vocoders = _load(config) if config.tacotron2 or config.recordings else (None, [])
    engine = load_engine(config.other_engine, resolve_device(config.device)) if config.other_engine else None
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
        raise UserError(f"{silent[0]!r}: nothing is left of it after {voice.cleaners}; remove it")
    if engine:
        for name, text, _ in texts:
            with about(name):
                engine.check_length(text)
    yield from filter(None, (recordings, wavs))
    if recordings:
        for ladder in config.ladders or []:
            yield from damaged(recordings, ladder, config.audio, config.seed)
        for vocoder in vocoders:
            yield copies(recordings, vocoder, config)
    if voice:
        yield from synthesized(voice, vocoders, texts, config)
    if engine:
        yield by_engine(engine, texts, config)


def read_recordings(config: EvaluateConfig) -> System:
    """The real clips, resampled if necessary."""
    try:
        clips: list[Clip] = read_filelist(str(config.recordings), config.root, follow_links=True)[: config.limit]
    except UserError as error:
        raise UserError(str(error).replace("data.root=", "root=")) from error
    for clip in clips:
        _check_text(clip.text, clip.where)
    audio = [load_audio(clip.file, config.audio, convert=True) for clip in clips]
    stems = [Path(clip.path).stem for clip in clips]
    names = stems if len(set(stems)) == len(stems) else [f"{i:04d}_{stem}" for i, stem in enumerate(stems)]
    return System(RECORDINGS, [Utterance(n, a, c.text) for n, a, c in zip(names, audio, clips, strict=True)])


def read_sentences(config: EvaluateConfig) -> list[str]:
    """The lines of config.sentences."""
    lines = read_lines(str(config.sentences), "sentences")
    for number, text in lines:
        _check_text(text, f"{config.sentences}:{number}")
    return [text for _, text in lines]


def _check_text(text: str, where: str) -> None:
    try:
        normalized(text)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def read_wavs(config: EvaluateConfig, by_text: Mapping[str | None, int]) -> System:
    """The files of a folder; the lines of `sentences`, if given, are their texts."""
    folder = Path(str(config.wavs)).resolve()
    files = sorted(file for file in folder.glob("*") if file.suffix.lower() in AUDIO_SUFFIXES)
    if not files:
        raise UserError(f"wavs={config.wavs}: the folder holds no {', '.join(AUDIO_SUFFIXES)} file; check it")
    texts: Sequence[str | None] = [None] * len(files)
    if config.sentences:
        texts = read_sentences(config)
        if len(texts) != len(files):
            raise UserError(
                f"wavs={config.wavs} has {counted(len(files), 'audio file')} and sentences={config.sentences} "
                f"{counted(len(texts), 'line')}; there must be one line for each file, in the order of the files' names"
            )
    files = files[: config.limit]
    audio = [load_audio(file, config.audio, convert=True) for file in files]
    utterances = [
        Utterance(file.name, samples, text, by_text.get(text) if text else None)
        for file, samples, text in zip(files, audio, texts, strict=False)
    ]
    return System(f"wavs in {folder.name}", utterances)


def damaged(recordings: System, ladder: LadderName, audio: AudioConfig, seed: int) -> Iterator[System]:
    """The recordings made worse, a system for each step of the ladder."""
    for name, damage in steps(ladder).items():
        rng = np.random.default_rng(seed)
        utterances = [
            Utterance(clip.name, damage(clip.audio, audio, rng), clip.text, i)
            for i, clip in enumerate(recordings.utterances)
        ]
        yield System(name, utterances, copies=aligned(ladder), made=True)


def copies(recordings: System, vocoder: Vocoder, config: EvaluateConfig) -> System:
    """Copy-synthesis: the mel of each recording through a vocoder."""
    log_mel, utterances = LogMel(config.audio), []
    for i, clip in enumerate(tqdm(recordings.utterances, desc=f"copies by {vocoder.name}", disable=None)):
        mel = log_mel(torch.from_numpy(clip.audio).unsqueeze(0))[0]
        generator = torch.Generator(vocoder.device).manual_seed(config.seed)
        with about(clip.name):
            audio, stats = vocoder(mel, generator, config.sigma, config.denoiser_strength)
        copied = audio.numpy()[: len(clip.audio)]
        utterances.append(Utterance(clip.name, copied, clip.text, i, {"latency": total_latency(stats)}))
    return System(f"copies by {vocoder.name}", utterances, copies=True, made=True)


def synthesized(
    voice: Synthesizer,
    vocoders: Sequence[Vocoder],
    texts: Sequence[tuple[str, str, int | None]],
    config: EvaluateConfig,
) -> list[System]:
    """Synthesize texts, given as (name, text, index of the recording), with Tacotron 2 once and with each vocoder."""
    systems = [System(f"tacotron2 + {vocoder.name}", [], made=True) for vocoder in vocoders]
    for name, text, clip in tqdm(texts, desc="synthesizing", disable=None):
        utterance = voice.speak(text, seed=config.seed, sigma=config.sigma, denoiser_strength=config.denoiser_strength)
        read = reading(utterance.alignment, word_spans(utterance.ids, voice.symbols))
        found = {
            "coverage": 100 * read.coverage,
            "skips": read.skips,
            "repeats": read.repeats,
            "truncated": utterance.truncated,
            "flawless": 100.0 * (read.skips == read.repeats == 0 and not utterance.truncated),
        }
        for k, (system, vocoder) in enumerate(zip(systems, vocoders, strict=True)):
            audio, stats = utterance.audio, utterance.stats
            if k > 0:  # the first is the voice's own
                generator = torch.Generator(vocoder.device).manual_seed(config.seed)
                with about(repr(text[:60])):
                    audio, stats = vocoder(utterance.mel, generator, config.sigma, config.denoiser_strength)
                stats = {"tacotron2_latency": utterance.stats["tacotron2_latency"], **stats}
            found_here = {**found, "latency": total_latency(stats)}
            system.utterances.append(Utterance(name, audio.numpy(), text, clip, found_here))
    return systems


def by_engine(engine: SpeechEngine, texts: Sequence[tuple[str, str, int | None]], config: EvaluateConfig) -> System:
    """Synthesize texts, given as (name, text, index of the recording), with another engine, at config.audio's rate."""
    engine.warm_up()
    system = System(engine.name, [], made=True)
    for name, text, clip in tqdm(texts, desc=f"synthesizing with {engine.name}", disable=None):
        utterance = whole(engine, text, SpeechOptions(seed=config.seed))
        if utterance is None:
            raise UserError(f"{text[:60]!r}: there is nothing to say in it; remove it")
        audio = librosa.resample(
            utterance.audio.numpy(), orig_sr=engine.audio.sample_rate, target_sr=config.audio.sample_rate
        )
        found = {"truncated": utterance.truncated, "latency": utterance.stats["latency"]}
        system.utterances.append(Utterance(name, audio, text, clip, found))
    return system


def load_vocoders(config: EvaluateConfig, device: torch.device) -> list[Vocoder]:
    """Those that the config names, else all that its WaveGlow has."""
    names = config.vocoders or (VOCODERS if config.waveglow else VOCODERS[-1:])
    vocoders = []
    for name in names:
        path = None if name == "griffin_lim" else config.waveglow
        passes = config.match_mel if name == "waveglow_matched" else 0
        vocoder = Vocoder.load(path, config.audio, device, match_mel=passes)
        if vocoder.name == name:
            vocoders.append(vocoder)
        elif config.vocoders:
            raise UserError(f"vocoders={names}: waveglow={path} has no mel match of its own; set match_mel=1")
    return vocoders


def _load(config: EvaluateConfig) -> tuple[Synthesizer | None, list[Vocoder]]:
    """Load the models that the config names, and run each once: the set-up in a first run would distort the RTF."""
    device = resolve_device(config.device)
    set_tf32(True)
    vocoders = load_vocoders(config, device)
    for vocoder in vocoders:
        vocoder(torch.zeros(config.audio.n_mels, 8, device=vocoder.device), torch.Generator(vocoder.device))
    if config.tacotron2 is None:
        return None, vocoders
    voice = Synthesizer.load(
        config.tacotron2,
        device=device.type,
        postfilter_strength=config.postfilter_strength,
        speaker=config.speaker,
    )
    if differences := audio_differences(config.audio, voice.audio, "in the checkpoint"):
        raise UserError(f"tacotron2={config.tacotron2}: {'; '.join(differences)}; set these keys to its values")
    voice.vocoder = vocoders[0]
    voice.speak("One.", max_decoder_steps=8)
    return voice, vocoders
