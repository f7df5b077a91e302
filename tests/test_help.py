"""--help of every command explains every key, from conf/ alone, at once."""

from __future__ import annotations

import io
import os
import re
import runpy
import subprocess
import sys
import typing
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from typing import Any
from unittest import mock

import pytest
import yaml
from build_voice import BuildConfig
from export_onnx import ExportConfig
from hydra.core.global_hydra import GlobalHydra
from pack_voice import PackConfig
from predict_mels import PredictConfig
from prepare_mels import PrepareConfig

from common.conf import CONF
from common.config import TrainConfig
from evaluation.corpus import CheckConfig
from evaluation.systems import EvaluateConfig
from recordings.options import RecordingsConfig
from synthesis.job_options import InferenceConfig
from synthesis.server.options import ServerOptions
from tests.helpers import REPOSITORY
from tests.helpers.commands import composed, fails_with, load_script, run_here, run_process

SCRIPTS = sorted(path.stem for path in (REPOSITORY / "scripts").glob("*.py") if path.stem != "checkout")
ARGPARSE = [name for name in SCRIPTS if not (CONF / f"{name}.yaml").exists()]
CONFIGS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "inference": InferenceConfig,
    "check_dataset": CheckConfig,
    "cut_recordings": RecordingsConfig,
    "evaluate": EvaluateConfig,
    "export_onnx": ExportConfig,
    "build_voice": BuildConfig,
    "pack_voice": PackConfig,
    "predict_mels": PredictConfig,
    "prepare_mels": PrepareConfig,
    "serve": ServerOptions,
}
MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


def path_of(name: str) -> str:
    return f"{name}.py" if (REPOSITORY / f"{name}.py").exists() else f"scripts/{name}.py"


def printed(name: str, *arguments: str) -> str:
    """What the command prints for --help, run as a program in this process."""
    output, path = io.StringIO(), path_of(name)
    argv = mock.patch.object(sys, "argv", [path, *arguments, "--help"])
    with redirect_stdout(output), chdir(REPOSITORY), argv:
        GlobalHydra.instance().clear()
        with pytest.raises(SystemExit) as end:
            runpy.run_path(path, run_name="__main__")
    assert not end.value.code
    return output.getvalue()


def rows(text: str) -> dict[str, list[str]]:
    """The rows of its tables: key -> value and meaning."""
    lines = (re.split(r" {2,}", line.strip()) for line in text.splitlines() if re.match(r" {4}\S+ {2,}", line))
    return {name: columns for name, *columns in lines}


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def literals(hint: Any) -> set[str]:
    """The choices of a type such as list[Literal["a", "b"]] | None."""
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is typing.Literal:
        return set(arguments)
    return set().union(*map(literals, arguments))


def test_every_command_is_tested() -> None:
    assert {*CONFIGS, *ARGPARSE} == {"train", "inference", *SCRIPTS}


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("train", [f"model={model}"]) for model in MODELS] + [(name, []) for name in CONFIGS if name != "train"],
)
def test_it_explains_every_key(name: str, arguments: list[str]) -> None:
    text = printed(name, *arguments)
    root = ["data.root=x"] if "data" in groups(name) else []
    keys = [*leaves(composed(name, *arguments, *root))]
    found = rows(text)
    assert [key for key in keys if len(found.get(key, [])) != 2] == []  # neither missing nor without a meaning
    for group in groups(name):
        files = [f"{group}={file.stem}" for file in (CONF / group).glob("*.yaml")]
        assert [file for file in files if not found[file][-1].strip("*")] == []
    usage = load_script(name).__doc__ or ""
    assert text.startswith(usage.strip())
    assert f" {path_of(name)} " in usage


def groups(name: str) -> list[str]:
    """The groups of options that a command has."""
    defaults = yaml.safe_load((CONF / f"{name}.yaml").read_text())["defaults"]
    return [key for entry in defaults if isinstance(entry, dict) for key in entry]


@pytest.mark.parametrize("name", CONFIGS)
def test_it_lists_the_choices_of_a_key(name: str) -> None:
    found = rows(printed(name))

    def check(cls: type[Any], prefix: str) -> None:
        for field, hint in typing.get_type_hints(cls, include_extras=True).items():
            if hasattr(hint, "section"):
                check(hint, f"{field}.")
            for choice in literals(hint):
                assert choice in found[prefix + field][1], (prefix + field, choice)

    check(CONFIGS[name], "")


def test_without_a_model_it_shows_what_all_models_have() -> None:
    text = printed("train")
    assert rows(text)["trainer.batch_size"][0] == "32"  # of trainer/default.yaml
    assert "model.name" not in rows(text)
    assert "model: its keys are shown by: python train.py model=tacotron2 --help" in text
    assert rows(text)["run_dir"][0] == "required"
    assert rows(text)["init_from"][0] == "null"


def test_the_values_are_those_of_the_command_line() -> None:
    small = rows(printed("train", "model=waveglow_small", "trainer=waveglow", "data=demo"))
    assert [small[key][0] for key in ("model.n_group", "trainer.batch_size", "data.root", "task.spectral_weight")] == [
        "128",
        "4",
        "demo/corpus",
        "2.0",
    ]
    assert [small[file][0] for file in ("model=waveglow_small", "trainer=waveglow", "data=demo")] == ["*"] * 3
    assert len(small["trainer=waveglow_small"]) == 1
    voice = rows(printed("train", "experiment=demo_voice", "trainer.max_steps=7"))
    assert [voice[key][0] for key in ("trainer.val_every_steps", "trainer.max_steps")] == ["1000", "7"]


def test_mistakes_before_help() -> None:
    fails_with(run_process("train.py", "model=waveglo", "-h", expect=1), "did you mean 'waveglow'")
    fails_with(run_process("inference.py", "--help", "inptu=x", expect=1), "unknown config key 'inptu'", "'input'")


@pytest.mark.parametrize("name", ARGPARSE)
def test_commands_with_argparse(name: str) -> None:
    actions = load_script(name).parser()._actions
    assert [action.dest for action in actions if not action.help] == []
    assert run_here(path_of(name), "--help").stdout.startswith("usage: ")


def test_it_needs_no_pytorch() -> None:
    """PyTorch takes seconds to import. All commands in one process, where importing it fails."""
    code = f"""
import runpy, sys
sys.path.append("scripts")
sys.modules["torch"] = sys.modules["numpy"] = None
for path in {[path_of(name) for name in CONFIGS]}:
    sys.argv = [path, "--help"]
    try:
        runpy.run_path(path, run_name="__main__")
    except SystemExit as end:
        assert not end.code
"""
    assert run_process("-c", code).stdout.count("KEY=VALUE") == len(CONFIGS)


def test_a_console_without_all_characters() -> None:
    command = ("inference.py", "tacotron2=x", "vocoder=griffin_lim", "input=ünï", "output=o")
    result = run_process(*command, expect=1, LC_ALL="C", PYTHONUTF8="0")
    fails_with(result, "input \\udcc3\\udcbcn")


@pytest.mark.parametrize("name", ["train", "prepare_filelists"])
def test_the_reader_may_stop_early(name: str) -> None:
    """As in `--help | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        result = subprocess.run(
            [sys.executable, path_of(name), "--help"], cwd=REPOSITORY, stdout=writer, stderr=subprocess.PIPE, text=True
        )
    finally:
        os.close(writer)
    assert (result.returncode, result.stderr) == (0, "")
