"""The ONNX export computes what PyTorch does, and synthesizes without PyTorch."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from common.checkpoint import files as checkpoints
from common.checkpoint import formats as interchange
from common.ops.padding import lengths_to_mask
from inference import load_model
from synthesis.models import MODELS
from synthesis.onnx.graphs import PostnetGraph, WaveGlowGraph, export
from tacotron2.model import Tacotron2, Tacotron2Config
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, run_here
from tests.helpers.golden import golden, golden_path
from tests.helpers.waveglow import randomize_couplings
from waveglow.model import WaveGlow, WaveGlowConfig

onnxruntime = pytest.importorskip("onnxruntime")
EXPORT, SPEAK = "scripts/export_onnx.py", "scripts/speak_onnx.py"


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden Tacotron 2 without prenet dropout and a small WaveGlow, each as a PyTorch checkpoint and as ONNX."""
    directory = tmp_path_factory.mktemp("onnx")
    state = interchange.load(golden_path("dle_tacotron2.pt"), MODELS.values())
    state.model_config["prenet_dropout"] = 0.0
    checkpoints.save(directory / "tacotron2.pt", state)
    torch.manual_seed(0)
    waveglow = WaveGlow(WaveGlowConfig(n_flows=4, n_early_every=2, n_layers=2, n_channels=8))
    randomize_couplings(waveglow)
    torch.save(waveglow.state_dict(), directory / "waveglow.pt")
    result = run_here(
        EXPORT, f"tacotron2={directory / 'tacotron2.pt'}", f"waveglow={directory / 'waveglow.pt'}",
        f"output={directory / 'export'}",
    )  # fmt: skip
    assert result.stdout.count("differs from PyTorch by at most") == 4
    return directory


def test_free_running_equals_the_reference(exported: Path) -> None:
    """37 steps of the NumPy decoder loop give the mel that the reference computed."""
    from synthesis.onnx.voice import Voice

    voice = Voice(exported / "export")
    text, expected = (golden("dle_tacotron2_io.pt")[key].numpy() for key in ("text", "infer_mel_postnet"))
    for row in range(len(text)):
        mel, truncated = voice.mel(text[row : row + 1], np.random.default_rng(0))
        assert truncated
        np.testing.assert_allclose(mel[0], expected[row], atol=1e-3, rtol=0)


def test_waveglow_equals_pytorch(exported: Path) -> None:
    from synthesis.onnx.voice import Voice

    voice = Voice(exported / "export")
    mel = torch.from_numpy(golden("dle_tacotron2_io.pt")["infer_mel_postnet"].numpy()[:1])
    z = torch.from_numpy(np.random.default_rng(3).standard_normal((1, 8, mel.shape[2] * 32), dtype=np.float32))
    theirs = voice.audio(mel.numpy(), np.random.default_rng(3), sigma=0.7)
    ours = load_model(exported / "waveglow.pt").infer(mel, sigma=0.7, z=z)[0]
    np.testing.assert_allclose(theirs, ours.numpy(), atol=1e-3, rtol=0)


def test_the_postnet_graph_denormalizes_and_postfilters(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Tacotron2(Tacotron2Config(postnet_embedding_dim=8, mel_mean=-5.0, mel_std=2.0)).eval()
    model.postfilter.gain.uniform_(1, 2)
    frames, lengths = torch.randn(2, 80, 7), torch.tensor([7, 5])
    inputs, waveglow = {"mel": frames, "mel_lengths": lengths}, WaveGlow(WaveGlowConfig(n_flows=1, n_channels=8))
    export(tmp_path / "postnet.onnx", PostnetGraph(model), inputs, ["mel_postnet"], waveglow)
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
        n_flows=4, n_group=128, n_early_every=2, n_early_size=16, n_layers=2, n_channels=8, separable=True,
        encoder_dim=6, mdct=True,
    )  # fmt: skip
    model = WaveGlow(config).eval()
    randomize_couplings(model)
    inputs = {"mel": torch.randn(2, 80, 7), "z": torch.randn(2, 128, 14)}
    export(tmp_path / "waveglow.onnx", WaveGlowGraph(model), inputs, ["audio"], model)
    session = onnxruntime.InferenceSession(tmp_path / "waveglow.onnx")
    for frames in (1, 5):
        mel, z = torch.randn(1, 80, frames), torch.randn(1, 128, 2 * frames)
        audio = session.run(None, {"mel": mel.numpy(), "z": z.numpy()})[0]
        np.testing.assert_allclose(audio, model.infer(mel, 1.0, z).numpy(), atol=1e-4, rtol=0)


def test_synthesis_without_pytorch(exported: Path, tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_text("Hello there.\n\n###\nThe second one.\n")
    # with None for torch in sys.modules, importing it fails
    code = "import sys, runpy; sys.modules['torch'] = None; sys.argv = sys.argv[1:]"
    code += "; sys.path.insert(0, 'scripts'); runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [SPEAK, exported / "export", tmp_path / "phrases.txt", tmp_path / "out", "--max-steps", "9"]
    result = subprocess.run(
        [sys.executable, "-c", code, *map(str, command)], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    assert "phrases.txt:3: nothing to say" in result.stdout
    assert "phrases.txt:1: the decoder did not stop by itself" in result.stdout
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["0000.wav", "0002.wav"]
    audio, rate = soundfile.read(tmp_path / "out/0002.wav")
    assert (len(audio), rate) == (9 * 256, 22050)
    assert audio.any()


def test_mistakes(exported: Path, tmp_path: Path) -> None:
    models = f"tacotron2={exported / 'tacotron2.pt'}", f"waveglow={exported / 'waveglow.pt'}"
    fails_with(run_here(EXPORT, *models, f"output={exported / 'export'}", expect=1), "encoder.onnx exists already")
    fails_with(run_here(EXPORT, *models, expect=1), "output=VALUE")
    other = f"waveglow={golden_path('dle_waveglow.pt')}"
    fails_with(run_here(EXPORT, models[0], other, f"output={tmp_path / 'x'}", expect=1), "audio.n_mels is 80")
    (tmp_path / "phrases.txt").write_text("Hello.\n")
    result = run_here(SPEAK, tmp_path, tmp_path / "phrases.txt", tmp_path / "out", expect=1)
    fails_with(result, str(tmp_path), "not an export")
    assert json.loads((exported / "export/config.json").read_text())["text"]["cleaners"] == "english_cleaners"
