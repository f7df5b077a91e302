"""Each judge prepares audio as its authors' code prepares a file, and orders recordings that were made worse."""

import itertools
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from common.audio import load_audio
from common.config import AudioConfig
from common.errors import UserError
from evaluation import judges
from evaluation.judges import RATE, errors, sinc_resample
from evaluation.ladders import CUTOFF_KHZ, PERIODS, SEMITONES, SNR, LadderName, steps
from evaluation.panel import Panel
from evaluation.systems import damaged
from evaluation.table import RECORDINGS, System, Utterance, summarize
from tests.helpers import REPOSITORY
from tests.helpers.corpus import tone

UNSEEN = REPOSITORY / "demo" / "unseen"
AUDIO = AudioConfig()


def recordings(number: int) -> list[Utterance]:
    """The first `number` clips."""
    lines = [line.split("|") for line in (UNSEEN / "filelist.txt").read_text().splitlines()[:number]]
    return [Utterance(path, load_audio(UNSEEN / path, AUDIO, convert=True), text) for path, text in lines]


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel(AUDIO)


def test_the_resampler_is_torchaudios() -> None:
    """The expected samples are those of torchaudio 2.11.1: functional.resample(x, 22050, 16000), in float64."""
    x = 0.8 * np.cos(0.9 * np.arange(40) ** 1.2)
    expected = [
        0.701283, 0.233033, -0.819793, 0.199156, 0.606678, -0.769881, 0.300589, 0.337153, -0.725477, 0.718943,
        -0.40743, -0.02039, 0.39546, -0.622659, 0.681178, -0.601143, 0.433523, -0.228994, 0.027962, 0.146411,
        -0.281161, 0.375927, -0.434641, 0.463536, -0.472414, 0.467521, -0.455232, 0.438093, -0.417784, -0.132358,
    ]  # fmt: skip
    assert sinc_resample(x, 22050, RATE) == pytest.approx(expected, abs=2e-6)
    expected = [0.79607, 0.71019, 0.090707, -0.515356, -0.791763, -0.378133]  # and with 16000, 22050
    found = sinc_resample(x, RATE, 22050)
    assert len(found) == 56
    assert found[:6] == pytest.approx(expected, abs=2e-6)
    assert np.array_equal(sinc_resample(x, RATE, RATE), x.astype(np.float32))


def test_resamplers_differ_just_below_the_new_nyquist_frequency() -> None:
    """This is why each judge resamples as its authors do: librosa's resampler empties the band above 7.65 kHz."""
    sine = np.sin(2 * np.pi * 7800 / 22050 * np.arange(22050)).astype(np.float32)
    level = [
        np.sqrt(2 * np.mean(resampled[1000:-1000] ** 2))
        for resampled in (sinc_resample(sine, 22050, RATE), librosa.resample(sine, orig_sr=22050, target_sr=RATE))
    ]
    assert level[0] > 0.4
    assert level[1] < 0.1


@pytest.mark.slow
def test_a_judge_prepares_audio_as_its_authors_prepare_a_file(panel: Panel, tmp_path: Path) -> None:
    """This takes 5 seconds: each judge listens twice to a clip, which DNSMOS repeats to its window of 9 seconds."""
    clip, rate, path = recordings(1)[0].audio, AUDIO.sample_rate, tmp_path / "clip.wav"
    soundfile.write(path, clip, rate, subtype="FLOAT")
    segments, _ = panel.listener.model.transcribe(str(path), language="en", temperature=0.0)
    assert panel.listener(clip, rate) == "".join(segment.text for segment in segments).strip()
    found = judges.optional("speechmos.dnsmos").run(str(path), RATE)
    expected = {name: pytest.approx(found[f"{name}_mos"], abs=1e-4) for name in ("sig", "bak", "ovrl")}
    assert panel.cleanness(clip, rate) == expected
    embedding = panel.encoder.encoder.embed_utterance(judges.optional("resemblyzer").preprocess_wav(path))
    assert panel.encoder(clip, rate) == pytest.approx(embedding, abs=1e-5)


@pytest.mark.slow
def test_the_judges_know_the_bundled_voice(panel: Panel) -> None:
    clips, rate = [clip.audio for clip in recordings(2)], AUDIO.sample_rate
    texts = [str(clip.text) for clip in recordings(2)]
    assert sum(errors(t, panel.listener(c, rate)).words_wrong for t, c in zip(texts, clips, strict=True)) <= 1
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32) * 0.1
    assert min(panel.naturalness(c, rate) for c in clips) > 4 > 3 > panel.naturalness(noise, rate)
    assert min(panel.cleanness(c, rate)["ovrl"] for c in clips) > 3 > 2 > panel.cleanness(noise, rate)["ovrl"]
    voices = [panel.encoder(c, rate) for c in clips]
    assert voices[0] @ voices[1] > 0.8
    assert voices[0] @ panel.encoder(tone(2.0, 0), rate) < 0.7


def test_a_missing_package_is_named_with_its_cure() -> None:
    with pytest.raises(UserError, match=r"no_such_judge; run in the repository: pip install -e '.\[eval\]'"):
        judges.optional("no_such_judge")


def test_the_steps_of_a_ladder_are_what_they_are_called() -> None:
    clips = System(RECORDINGS, recordings(1))
    clean = clips.utterances[0].audio
    noise, lowpass, cut, shuffled = (
        [system.utterances[0].audio for system in damaged(clips, ladder, AUDIO, 0)]
        for ladder in ("noise", "lowpass", "cut", "shuffle")
    )
    power = np.mean(clean**2)
    assert [10 * np.log10(power / np.mean((x - clean) ** 2)) for x in noise] == pytest.approx(SNR, abs=0.1)
    spectrum = [np.abs(np.fft.rfft(x)) ** 2 for x in lowpass]
    hz = np.fft.rfftfreq(len(clean), 1 / AUDIO.sample_rate)
    for khz, energy in zip(CUTOFF_KHZ, spectrum, strict=True):
        assert energy[hz > 1100 * khz].sum() < 0.02 * energy.sum()
    assert [len(x) / len(clean) for x in cut] == pytest.approx([1 - 1 / n for n in PERIODS], abs=0.1)
    assert all(np.array_equal(np.sort(x), np.sort(clean)) and not np.array_equal(x, clean) for x in shuffled)


LESS_IS_BETTER = ("wer", "cer", "mcd", "pitch_error", "voicing_error")


def measures(panel: Panel, system: System, clips: list[Utterance]) -> dict[str, float]:
    """The mean of each measure, negative where less is better."""
    for utterance in system.utterances:
        panel.listen(utterance)
    for utterance in system.utterances:
        panel.compare(utterance, clips, system.copies)
    found = summarize(system)
    del found["utterances"]
    return {key: -found[key]["mean"] if key in LESS_IS_BETTER else found[key]["mean"] for key in found}


@pytest.mark.slow  # 15 seconds each: all judges listen to 2 clips of each step; similarity needs 2
@pytest.mark.parametrize(
    ("ladder", "ordered"),
    [
        ("noise", "mos ovrl bak speaker mcd voicing_error stoi pesq"),
        ("lowpass", "mos ovrl speaker pitch_error voicing_error stoi pesq"),
        ("griffin_lim", "mos ovrl sig bak speaker pitch_error voicing_error stoi pesq"),
        ("smooth", "mos ovrl sig bak speaker mcd pitch_error voicing_error stoi pesq"),
        ("cut", "wer cer mos ovrl mcd voicing_error"),
        ("shuffle", "wer cer mcd"),
        ("pitch", "speaker mcd pitch_error voicing_error"),
    ],
)
def test_the_judges_order_recordings_made_worse_step_by_step(ladder: LadderName, ordered: str, panel: Panel) -> None:
    clips = recordings(2)
    found = [measures(panel, System(RECORDINGS, clips), clips)]
    found += [measures(panel, system, clips) for system in damaged(System(RECORDINGS, clips), ladder, AUDIO, 0)]
    for key in ordered.split():
        values = [step[key] for step in found if key in step]  # recordings are not compared with themselves
        assert len(values) >= len(steps(ladder))
        assert all(better > worse for better, worse in itertools.pairwise(values)), (key, values)
    if ladder == "shuffle":  # DistillMOS does not hear that a sentence makes no sense
        assert found[1]["wer"] < -30
        assert found[1]["mos"] > 4
    if ladder == "pitch":
        assert [-step["pitch_error"] / 100 for step in found[1:]] == pytest.approx(SEMITONES, abs=0.2)
