"""Installed, the project works from another directory, beside a program's own packages of the same names."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

PROGRAM = f"""
import common
from inference import Synthesizer, load_model
from tacotron2_waveglow.common.audio import LogMel

voice = Synthesizer.load(
    "{REPOSITORY}/demo/voice/tacotron2.safetensors", "{REPOSITORY}/demo/voice/waveglow.safetensors", device="cpu"
)
print(common.MINE, len(voice.speak("Hello.", max_decoder_steps=40).audio) > 1000, LogMel.__module__)
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment that has this project, and sees the dependencies of this environment."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True)
    here = sysconfig.get_path("purelib")
    (Path(sysconfig.get_path("purelib", vars={"base": str(root)})) / "dependencies.pth").write_text(here + "\n")
    python = root / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    subprocess.run([*command, "--no-build-isolation", "--editable", str(REPOSITORY)], check=True)
    return python


def test_a_program_with_its_own_common_speaks(python: Path, tmp_path: Path):
    """It takes 5 seconds or more: an installation, and the imports of a new process."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("MINE = 'mine'\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    result = subprocess.run([python, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["mine", "True", "tacotron2_waveglow.common.audio"], result.stderr


def test_every_package_is_listed(python: Path):
    """A room that pyproject.toml forgets would be missing where the project is installed."""
    code = (
        "import pkgutil, tacotron2_waveglow as top\n"
        "print(*sorted(m.name for m in pkgutil.walk_packages(top.__path__, 'tacotron2_waveglow.') if m.ispkg\n"
        "              and m.name.split('.')[1] in top.OURS))"
    )
    result = subprocess.run([python, "-c", code], cwd="/", capture_output=True, text=True, timeout=120)
    pyproject = (REPOSITORY / "pyproject.toml").read_text()
    found = result.stdout.split()
    assert len(found) > 10, result.stderr
    assert [name for name in found if f'"{name}",' not in pyproject] == []
