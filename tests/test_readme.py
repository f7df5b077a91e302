"""The README's commands are valid, and its recipe for your own recordings runs as written."""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from export_onnx import ExportConfig
from predict_mels import PredictConfig

from common.config import TrainConfig
from common.entry import _quoted
from common.schema import from_dict
from evaluation.corpus import CheckConfig
from evaluation.systems import EvaluateConfig
from inference import Synthesizer
from synthesis.jobs import InferenceConfig
from tests.helpers import REPOSITORY
from tests.helpers.commands import composed, load_script
from tests.helpers.corpus import write_corpus
from tests.helpers.golden import golden_path
from tests.helpers.runs import TINY_TACOTRON2, TINY_WAVEGLOW
from train import build_task

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
BLOCKS = [block.strip().splitlines() for block in re.findall(r"```bash\n(.*?)```", README, re.DOTALL)]
COMMANDS = [line.split(" #")[0].strip() for block in BLOCKS for line in block]


CONFIGS: dict[str, tuple[str, type[Any]]] = {
    "inference.py": ("inference", InferenceConfig),
    "scripts/check_dataset.py": ("check_dataset", CheckConfig),
    "scripts/evaluate.py": ("evaluate", EvaluateConfig),
    "scripts/export_onnx.py": ("export_onnx", ExportConfig),
    "scripts/predict_mels.py": ("predict_mels", PredictConfig),
}


def block_with(text: str) -> list[str]:
    return next(block for block in BLOCKS if any(text in line for line in block))


def test_it_opens_with_the_two_commands() -> None:
    assert [line.split("#")[0].strip() for line in BLOCKS[0]] == ["make demo", "make test"]


@pytest.mark.parametrize("command", sorted(set(COMMANDS)))
def test_every_command_is_valid(command: str) -> None:
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)
    script = next((word for word in words if word.endswith(".py")), None)
    if words[0] == "make":
        subprocess.run(["make", "--dry-run", "PYTHON=python3", *words[1:]], cwd=REPOSITORY, check=True)
    elif words[0] == "bash":
        subprocess.run(["bash", "-n", words[1]], cwd=REPOSITORY, check=True)
    elif words[0] == "sbatch":
        words = words[words.index("scripts/slurm/train.sbatch") + 1 :]
        build_task(from_dict(TrainConfig, composed("train", *words)))
    elif script == "train.py":
        options = words[words.index(script) + 1 :]
        values = composed("train", *[_quoted(o) for o in options if not o.startswith("debug=")])
        if any(option.startswith("debug=") for option in options):  # these set run_dir; test_config composes them
            values["run_dir"] = "runs/debug"
        build_task(from_dict(TrainConfig, values))
    elif script in CONFIGS:
        name, config = CONFIGS[script]
        from_dict(config, composed(name, *words[2:]))
    elif script is not None:
        load_script(Path(script).stem).parser().parse_args(words[2:])
    elif words[0] == "pip":
        extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
        assert words[1:3] == ["install", "-e"]
        assert words[3].removeprefix(".[").removesuffix("]") in extras
    else:
        assert words[0] in ("source", "tensorboard", "kubectl"), f"{command}: no check for this command"


def test_files_and_options_it_names_exist() -> None:
    for name in re.findall(r"`((?:[\w/]+/)?[\w]+\.(?:py|sh|md|txt))`", README):
        if name not in ("phrases.txt", "preprocess_audio2mel.py"):  # files of the user and of the reference
            found = (REPOSITORY / name).exists() or list(REPOSITORY.glob(f"scripts/{name}"))
            found = found or list(REPOSITORY.glob(f"*/{name}"))
            assert found, name
    table = README[README.index("| group |") :].split("\n\n")[0]
    for group, choices in re.findall(r"\| `(\w+)=` \| (.*) \|", table):
        for choice in re.findall(r"`(\w+)`", choices):
            assert (REPOSITORY / "conf" / group / f"{choice}.yaml").exists(), (group, choice)


@pytest.mark.slow
def test_own_recordings_as_written(tmp_path: Path) -> None:
    """Run the recipe on a corpus of 44.1 kHz clips, with tiny models and few steps."""
    import soundfile

    root = write_corpus(tmp_path / "my_voice")
    for clip in (root / "wavs").iterdir():
        audio, _ = soundfile.read(clip)
        soundfile.write(clip, audio, 44100)
    (tmp_path / "phrases.txt").write_text("It works.\n")
    tiny = {"model=tacotron2": TINY_TACOTRON2, "model=waveglow": TINY_WAVEGLOW}
    for line in block_with("prepare_dataset.sh my_voice"):
        words = shlex.split(line)
        if words[1] == "train.py":
            words += ["trainer.max_steps=1", "trainer.batch_size=2", "data.num_workers=0"]
            words = [w for word in words for w in tiny.get(word, [word])]
        elif words[1] == "inference.py":
            words.append("max_decoder_steps=5")
        words = [sys.executable if word == "python" else word for word in words]
        words = [str(REPOSITORY / word) if word.endswith((".py", ".sh")) else word for word in words]
        environment = {"PYTHON": sys.executable, "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"}
        result = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"
    assert (tmp_path / "my_speech/0000.wav").exists()
    shutil.rmtree(tmp_path / "my_voice")
    # the Python example
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert code is not None
    text = re.search(r'speak\("(.*)"\)', code[1])
    assert text is not None
    voice = Synthesizer.load(tmp_path / "runs/my_tacotron2", tmp_path / "runs/my_waveglow", device="cpu")
    assert voice.speak(text[1], max_decoder_steps=3).audio.ndim == 1


def test_conversions_as_written(waveglow_run: Path, tmp_path: Path) -> None:
    shutil.copy(golden_path("nvidia_waveglow_pickled.pt"), tmp_path / "waveglow_256channels.pt")
    shutil.copytree(waveglow_run, tmp_path / "runs/waveglow")
    for line in block_with("convert_checkpoint.py waveglow_256channels.pt"):
        _, script, *words = shlex.split(line)
        result = subprocess.run(
            [sys.executable, REPOSITORY / script, *words], cwd=tmp_path, capture_output=True, text=True
        )
        assert result.returncode == 0, result.stderr
        layout = {"waveglow.pt": "ours", "checkpoint_WaveGlow_1000.pt": "dle"}.get(words[1], "safetensors")
        assert result.stdout.endswith(f"layout {layout}\n")
