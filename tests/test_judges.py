"""Each judge prepares audio as its authors' code prepares a file, and orders recordings that were made worse."""

from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile

from common.audio import load_audio
from common.config import AudioConfig
from common.errors import UserError
from evaluation import judges
from evaluation.judges import RATE, Cleanness, Listener, Naturalness, SpeakerEncoder, errors, sinc_resample
from evaluation.ladders import LadderName, aligned, steps
from evaluation.panel import Panel
from evaluation.table import RECORDINGS, System, Utterance, summarize
from tests.helpers import REPOSITORY
from tests.helpers.corpus import tone

UNSEEN = REPOSITORY / "demo" / "unseen"
AUDIO = AudioConfig()


def recordings(number: int) -> list[Utterance]:
    """The first `number` clips."""
    lines = [line.split("|") for line in (UNSEEN / "filelist.txt").read_text().splitlines()[:number]]
    return [Utterance(path, load_audio(UNSEEN / path, AUDIO, convert=True), text) for path, text in lines]


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
    assert level[1] < 0.05


def test_a_judge_prepares_audio_as_its_authors_prepare_a_file(tmp_path: Path) -> None:
    clip = recordings(1)[0].audio
    path = tmp_path / "clip.wav"
    soundfile.write(path, clip, AUDIO.sample_rate, subtype="FLOAT")
    listener, cleanness, encoder = Listener(), Cleanness(), SpeakerEncoder()
    segments, _ = listener.model.transcribe(str(path), language="en", temperature=0.0)
    assert listener(clip, AUDIO.sample_rate) == "".join(segment.text for segment in segments).strip()
    found = judges.optional("speechmos.dnsmos").run(str(path), RATE)
    expected = {name: pytest.approx(found[f"{name}_mos"], abs=1e-4) for name in ("sig", "bak", "ovrl")}
    assert cleanness(clip, AUDIO.sample_rate) == expected
    embedding = encoder.encoder.embed_utterance(judges.optional("resemblyzer").preprocess_wav(path))
    assert encoder(clip, AUDIO.sample_rate) == pytest.approx(embedding, abs=1e-5)


def test_the_judges_know_the_bundled_voice() -> None:
    clips, rate = recordings(3), AUDIO.sample_rate
    listener, encoder = Listener(), SpeakerEncoder()
    assert sum(errors(str(c.text), listener(c.audio, rate)).words_wrong for c in clips) <= 1
    noise = np.random.default_rng(0).standard_normal(rate).astype(np.float32) * 0.1
    naturalness, cleanness = Naturalness(), Cleanness()
    assert min(naturalness(c.audio, rate) for c in clips) > 4 > 3 > naturalness(noise, rate)
    assert min(cleanness(c.audio, rate)["ovrl"] for c in clips) > 3 > 2 > cleanness(noise, rate)["ovrl"]
    voices = [encoder(c.audio, rate) for c in clips]
    assert voices[0] @ voices[1] > 0.8
    assert voices[0] @ encoder(tone(2.0, 0), rate) < 0.7


def test_a_missing_package_is_named_with_its_cure() -> None:
    with pytest.raises(UserError, match=r"no_such_judge; run in the repository: pip install -e '.\[eval\]'"):
        judges.optional("no_such_judge")


@pytest.fixture(scope="module")
def panel() -> Panel:
    return Panel(AUDIO)


def judge(panel: Panel, system: System, clips: list[Utterance]) -> dict[str, float]:
    """The measures of a system, with the sign turned where less is better."""
    for utterance in system.utterances:
        panel.listen(utterance)
    for utterance in system.utterances:
        panel.compare(utterance, clips, system.copies)
    found = {key: value["mean"] for key, value in summarize(system).items() if key != "utterances"}
    return {key: -value if key in LESS_IS_BETTER else value for key, value in found.items()}


LESS_IS_BETTER = ("wer", "cer", "mcd", "pitch_error", "voicing_error")


@pytest.mark.slow  # the judges listen to 66 damaged clips; fewer than 2 clips have no speaker similarity
@pytest.mark.parametrize(
    ("ladder", "ordered"),
    [
        ("noise", {"mos", "ovrl", "sig", "bak", "mcd", "stoi", "pesq"}),
        ("lowpass", {"mos", "mcd", "pesq"}),
        ("griffin_lim", {"mos", "ovrl", "stoi", "pesq"}),
        ("smooth", {"mos", "ovrl", "stoi", "pesq", "mcd"}),
        ("cut", {"wer", "cer"}),
        ("shuffle", {"wer", "cer"}),
        ("pitch", {"speaker", "pitch_error"}),
    ],
)
def test_a_judge_orders_recordings_made_worse_step_by_step(ladder: LadderName, ordered: set[str], panel: Panel) -> None:
    clips = recordings(2)
    found = [judge(panel, System(RECORDINGS, clips), clips)]
    rng = np.random.default_rng(0)
    for name, damage in steps(ladder).items():
        worse = [Utterance(c.name, damage(c.audio, AUDIO, rng), c.text, i) for i, c in enumerate(clips)]
        found.append(judge(panel, System(name, worse, copies=aligned(ladder)), clips))
    for key in ordered:
        values = [step[key] for step in found if key in step]  # recordings are not compared with themselves
        assert len(values) >= len(steps(ladder))
        assert values == sorted(values, reverse=True), key
        assert len(set(values)) == len(values), key
