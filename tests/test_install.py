"""The installed project works from another directory, next to a program's own packages of the same names."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import urllib.request
import venv
from pathlib import Path

import pytest

from synthesis.onnx.files import PACKAGES as SPEAKING_PACKAGES
from synthesis.onnx.files import REQUIREMENTS_FILE
from tacotron2.text.cleaners import CLEANERS, LANGUAGE_CLEANERS
from tacotron2.text.cleaners import PACKAGES as CLEANER_PACKAGES
from tests.helpers import REPOSITORY
from tests.helpers.servers import free_port, served

PROGRAM = f"""
import common
from inference import Synthesizer, load_model
from tacotron2_waveglow.common.audio import LogMel

voice = Synthesizer.load(
    "{REPOSITORY}/demo/voice/tacotron2.safetensors", "{REPOSITORY}/demo/voice/waveglow.safetensors", device="cpu"
)
print(common.MINE, len(voice.speak("Hello.", max_decoder_steps=40).audio) > 1000, LogMel.__module__)
"""

SERVER = """
import sys
from tacotron2_waveglow.synthesis.server.options import ServerOptions
from tacotron2_waveglow.synthesis.server.process import serve

serve(ServerOptions(voices=sys.argv[1], port=int(sys.argv[2])))
"""


@pytest.fixture(scope="module", params=["editable", pytest.param("copied", marks=pytest.mark.slow)])
def python(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of a new environment with this project installed and the dependencies of the current environment."""
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True)
    here = sysconfig.get_path("purelib")
    (Path(sysconfig.get_path("purelib", vars={"base": str(root)})) / "dependencies.pth").write_text(here + "\n")
    python = root / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    if request.param == "editable":
        source = ["--editable", str(REPOSITORY)]
    else:
        source = [str(tmp_path_factory.mktemp("source") / "repository")]  # a copy, since building writes to it
        ignored = shutil.ignore_patterns(".*", "__pycache__", "build", "runs", "*.egg-info", "demo", "tests")
        shutil.copytree(REPOSITORY, source[0], ignore=ignored)
    subprocess.run([*command, "--no-build-isolation", *source], check=True)
    return python


@pytest.mark.slow
def test_a_program_with_its_own_common_speaks(python: Path, tmp_path: Path) -> None:
    """This takes 5 seconds or more, for an installation and the imports of a new process."""
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text("MINE = 'mine'\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    result = subprocess.run([python, "program.py"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["mine", "True", "tacotron2_waveglow.common.audio"], result.stderr


def test_a_program_serves_the_bundled_voice_and_the_page(python: Path, tmp_path: Path) -> None:
    """The page's files are installed too. This takes 5 seconds, for the start of a server."""
    port = free_port()
    with served([python, "-c", SERVER, REPOSITORY / "demo/voice", port], port, tmp_path) as url:
        for name, text in {"": "<html", "page.js": "fetch(", "page.css": "{"}.items():
            with urllib.request.urlopen(f"{url}/{name}") as answer:
                assert text in answer.read().decode()


def test_every_package_is_listed(python: Path) -> None:
    """A package that pyproject.toml does not list would be missing from the installed project."""
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


def test_extras_match_the_requirement_files() -> None:
    """Messages tell users to install the extras, but `make` installs the requirement files: the packages must agree."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]
    parts = {"": project["dependencies"]} | {
        f"-{name}": extra for name, extra in project["optional-dependencies"].items()
    }
    for part, requirements in parts.items():
        pinned = set(re.findall(r"^([\w-]+)==", (REPOSITORY / f"requirements{part}.txt").read_text(), re.MULTILINE))
        names = {re.match(r"[\w-]+", requirement)[0] for requirement in requirements}
        assert names <= pinned
        # requirements-eval.txt also pins the dependencies of its packages.
        assert part == "-eval" or pinned - names <= {"triton"}


def test_the_packages_of_speak_onnx_are_listed() -> None:
    """They are no extra, because an extra would install PyTorch too. All files pin the same versions."""
    pins: dict[str, dict[str, str]] = {
        path.name: dict(re.findall(r"^([\w-]+)==([\w.]+)", path.read_text(), re.MULTILINE))
        for path in REPOSITORY.glob("requirements*.txt")
    }
    listed = pins.pop(REQUIREMENTS_FILE)
    assert listed.keys() == {*SPEAKING_PACKAGES, *(name for names in CLEANER_PACKAGES.values() for name in names)}
    assert CLEANER_PACKAGES.keys() == CLEANERS.keys() | LANGUAGE_CLEANERS.keys()
    for name, version in listed.items():
        assert version in {other[name] for other in pins.values() if name in other}, name
        assert len({other[name] for other in pins.values() if name in other}) == 1, name
