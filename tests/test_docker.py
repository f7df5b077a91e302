"""The image gets what it needs and no more, and its scripts start it as documented. A recorder stands for Docker."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY

# Prints how it was called; the files beside it say what it finds.
DOCKER = """#!/bin/bash
here=$(dirname "$0")
case $1 in
    image) [ -e "$here/image" ] || { echo "No such image: $3" >&2; exit 1; } ;;
    info) cat "$here/security" ;;
    *) printf '%s\\n' "$@" ;;
esac
"""


def in_context(path: str) -> bool:
    """Whether Docker copies `path` (or its folder) into the build: the last pattern that matches decides."""
    folders = ["/".join(path.split("/")[:n]) for n in range(1, path.count("/") + 2)]
    included = True
    for line in (REPOSITORY / ".dockerignore").read_text().splitlines():
        pattern = re.escape(line.removeprefix("!")).replace(r"\*\*/", "(.*/)?").replace(r"\*", "[^/]*")
        if line and not line.startswith("#") and any(re.fullmatch(pattern, folder) for folder in folders):
            included = line.startswith("!")
    return included


def test_the_image_holds_every_file_of_the_repository() -> None:
    if not (REPOSITORY / ".git").exists() or shutil.which("git") is None:
        pytest.skip("needs a git checkout")
    command = ["git", "-c", "safe.directory=*", "ls-files"]
    files = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(files) > 100
    assert {f for f in files if not in_context(f)} <= {".ci/run", ".github/workflows/ci.yml", ".pre-commit-config.yaml"}


def test_the_image_holds_nothing_else() -> None:
    """Neither what git ignores nor what the README's commands write; Docker would send it all at every build."""
    patterns = (REPOSITORY / ".gitignore").read_text().split()
    ignored = [pattern.strip("/").replace("*", "x") for pattern in patterns]
    made = "my_voice/wavs/a.wav LJSpeech-1.1.tar.bz2.part speech/0000.wav speech.wav average.pt onnx/encoder.onnx"
    inside = (
        "common/__pycache__/a.pyc tests/helpers/__pycache__/a.pyc package/a.egg-info/PKG-INFO demo/corpus/mels/a.npy"
    )
    assert [path for path in [".git/HEAD", *ignored, *made.split(), *inside.split()] if in_context(path)] == []


def test_make_installs_from_the_files_that_the_dockerfile_copies(tmp_path: Path) -> None:
    """A missing file would be "No rule to make target"; later, the same commands find nothing to do."""
    targets = []
    for line in (REPOSITORY / "Dockerfile").read_text().splitlines():
        if copied := re.fullmatch(r"COPY (.*) \./", line):
            for pattern in copied[1].split():
                for file in REPOSITORY.glob(pattern):
                    shutil.copy2(file, tmp_path)
        if made := re.fullmatch(r'RUN umask 0 && make "?(\S+?)"?', line):
            target = made[1].replace("$VENV", str(tmp_path / "venv"))
            targets.append(target)
            planned = make(tmp_path, target)
            assert "python3.11 -m venv" in planned
            assert "-r requirements" in planned
    assert len(targets) == 2
    (tmp_path / "venv").mkdir()
    for stamp in (".installed", ".installed-dev"):
        (tmp_path / "venv" / stamp).touch()
    assert make(tmp_path, "test") == f"{tmp_path}/venv/bin/python -m pytest -n auto --dist loadfile\n"


def make(folder: Path, target: str) -> str:
    command = ["make", "--dry-run", "--no-print-directory", target]
    environment = {"PATH": os.environ["PATH"], "VENV": str(folder / "venv")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with the scripts, and bin/ with a Docker that has the image, on a machine without GPUs."""
    shutil.copytree(REPOSITORY / "scripts/docker", tmp_path / "scripts/docker")
    tools = tmp_path / "bin"
    tools.mkdir()
    (tools / "image").touch()
    (tools / "security").write_text("[name=seccomp,profile=builtin name=cgroupns]\n")
    for name, text in {"docker": DOCKER, "nvidia-smi": "#!/bin/sh\necho NVIDIA-SMI has failed; exit 9\n"}.items():
        (tools / name).write_text(text)
        (tools / name).chmod(0o755)
    return tmp_path


def started(checkout: Path, *command: str, script: str = "interactive", expect: int = 0, **environment: str) -> str:
    """Return Docker's arguments, or what the script says if it must fail, on one line. The standard input is empty."""
    result = subprocess.run(
        ["bash", f"{checkout.name}/scripts/docker/{script}.sh", *command],
        cwd=checkout.parent,
        env={"PATH": f"{checkout}/bin:/usr/bin:/bin", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert result.returncode == expect, result.stderr
    return " ".join((result.stderr if expect else result.stdout).splitlines())


def test_it_starts_as_the_user_without_a_gpu_or_a_terminal(checkout: Path) -> None:
    place = "/workspace/tacotron2-waveglow"
    assert started(checkout, "make", "test", PORT="") == (
        f"run --rm --interactive --init --ipc=host --stop-timeout 120 -v {checkout}:{place}"
        f" --user {os.getuid()}:{os.getgid()} --ulimit memlock=-1 tacotron2-waveglow make test"
    )
    assert f"WORKDIR {place}\n" in (REPOSITORY / "Dockerfile").read_text()
    assert " --user 1234:567 " in started(checkout, SUDO_UID="1234", SUDO_GID="567")
    (checkout / "bin/security").write_text("[name=seccomp,profile=builtin name=rootless name=cgroupns]\n")
    assert " --user 0:0 tacotron2-waveglow" in started(checkout)


def test_a_terminal_is_passed_on(checkout: Path) -> None:
    ours, theirs = pty.openpty()
    command = ["bash", "scripts/docker/interactive.sh"]
    environment = {"PATH": f"{checkout}/bin:/usr/bin:/bin"}
    subprocess.run(command, cwd=checkout, env=environment, stdin=theirs, stdout=theirs, stderr=theirs, check=True)
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # the end; one read may get only the first line
        while part := os.read(ours, 10000):
            shown += part
    assert "--tty" in shown.decode().split()
    os.close(ours)


def test_gpus_where_there_are_any(checkout: Path) -> None:
    (checkout / "bin/nvidia-smi").write_text("#!/bin/sh\necho GPU 0: NVIDIA A100\necho GPU 1: NVIDIA A100\n")
    assert " --gpus all tacotron2-waveglow" in started(checkout)
    assert ' --gpus "device=0,1" tacotron2-waveglow' in started(checkout, GPUS="0,1")
    assert "--gpus" not in started(checkout, GPUS="none")


def test_ports(checkout: Path) -> None:
    board = ["tensorboard", "--logdir", "runs", "--bind_all"]
    assert started(checkout, *board).endswith(f" -p 127.0.0.1:6006:6006 tacotron2-waveglow {' '.join(board)}")
    assert " -p 127.0.0.1:8000:8000 tacotron2-waveglow" in started(checkout, PORT="8000")


def test_a_corpus(checkout: Path) -> None:
    """It is found from where the user is, and its mount point is made by the user: Docker would make it as root."""
    corpus = checkout.parent / "some corpus"
    corpus.mkdir()
    message = started(checkout, DATA="some corpus", expect=1)
    assert "error: DATA=some corpus: no corpus (metadata.csv, wavs/); to download LJSpeech" in message
    (corpus / "metadata.csv").touch()
    mount = f" -v {corpus}:/workspace/tacotron2-waveglow/LJSpeech-1.1 tacotron2-waveglow"
    assert mount in started(checkout, DATA="some corpus")
    assert (checkout / "LJSpeech-1.1").is_dir()


def test_building_and_what_to_do_without_an_image(checkout: Path) -> None:
    assert started(checkout, "--pull", script="build") == "build -t tacotron2-waveglow --pull ."
    (checkout / "bin/image").unlink()
    assert "build it: bash scripts/docker/build.sh" in started(checkout, expect=1)
    (checkout / "bin/docker").unlink()
    if shutil.which("docker", path="/usr/bin:/bin") is None:
        assert "error: docker was not found" in started(checkout, expect=1)
