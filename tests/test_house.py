"""The plan of the house holds: imports go one way, `common` knows no model, and nothing grows too large.

`python -m tests.house` prints the map that these tests check.
"""

from __future__ import annotations

import ast
import dataclasses
import re

import pytest

from common.config import AudioConfig, DataConfig, TextConfig, TrainerConfig
from tacotron2.model import Tacotron2Config
from tacotron2.task import Tacotron2Options
from tests import house
from tests.helpers import REPOSITORY
from tests.helpers.commands import run_process
from waveglow.model import WaveGlowConfig
from waveglow.task import WaveGlowOptions

MODULES = house.modules()
CODE = [module for module in MODULES if not module.room.startswith("tests")]
MAX_CLASS, MAX_FUNCTION, MAX_PARAMETERS = 250, 60, 10


def test_every_file_is_in_a_room():
    tracked = {path for path in REPOSITORY.rglob("*.py") if not {".venv", "runs", "package", "build"} & set(path.parts)}
    assert {REPOSITORY / module.path for module in MODULES} == tracked
    assert {module.room for module in MODULES} == {room for floor in house.FLOORS for room in floor}


def test_no_import_runs_back():
    found = house.arrows(MODULES)
    assert ("train", "tacotron2") in found  # the walk sees imports
    assert ("tacotron2", "tacotron2.text") in found
    assert {arrow: files for arrow, files in found.items() if house.runs_back(*arrow)} == {}


@pytest.mark.parametrize(
    "arrow",
    [
        ("common", "tacotron2"),
        ("tacotron2", "waveglow"),
        ("common.data", "common.training"),
        ("synthesis", "train"),
        ("evaluation", "inference"),
        ("inference", "train"),
        ("train", "scripts"),
        ("scripts", "tests"),
    ],
)
def test_an_arrow_that_runs_back_is_seen(arrow: tuple[str, str]):
    source, target = arrow
    assert house.runs_back(source, target)
    assert not house.runs_back(source, "common")


def test_only_train_and_synthesis_know_both_models():
    """A third model is named in TASKS of train.py and in MODELS of synthesis/models.py."""
    known = {"tacotron2", "waveglow"}
    training = [module for module in CODE if module.room.startswith("common") or module.room == "train"]
    assert [module.name for module in training if known <= {n.split(".")[0] for n in module.imports()}] == ["train"]


def test_common_names_no_model_and_no_option_of_one():
    general = {field.name for cls in (AudioConfig, DataConfig, TextConfig, TrainerConfig) for field in fields(cls)}
    own = {field.name for cls in (Tacotron2Config, WaveGlowConfig) for field in fields(cls)}
    own |= {field.name for cls in (Tacotron2Options, WaveGlowOptions) for field in fields(cls)}
    own = own - general | {"match_mel", "postfilter", "denoiser", "sigma"}
    found = []
    for module in CODE:
        if module.room.startswith("common"):
            text = module.source.replace("tacotron2-waveglow", "")  # the project
            words = set(re.findall(r"\w+", text))
            found += [f"{module.path}: {word}" for word in sorted(words & own)]
            found += [f"{module.path}: {word}" for word in re.findall(r"tacotron|waveglow", text, re.IGNORECASE)]
    assert found == []


def fields(cls: type) -> tuple[dataclasses.Field, ...]:
    return dataclasses.fields(cls)


def test_speaking_imports_nothing_of_training():
    """Takes a fresh process, since this one has imported everything."""
    code = (
        "import sys, torch, librosa, soundfile\n"  # on Linux PyTorch imports fcntl
        "heavy = ('hydra', 'omegaconf', 'matplotlib', 'tensorboard', 'torch.utils.tensorboard', 'fcntl', 'train',\n"
        "         'common.training', 'common.tracking.tracker', 'common.distributed')\n"
        "assert not {'hydra', 'matplotlib', 'tensorboard'} & set(sys.modules)\n"
        "sys.modules.update(dict.fromkeys(heavy))\n"  # None: importing it is an error
        "import inference, synthesis.synthesizer, synthesis.jobs, evaluation.judges\n"
        "print('imported')"
    )
    assert run_process("-c", code).stdout.strip() == "imported"


def test_nothing_is_too_large():
    large = []
    for module in CODE:
        large += [f"{module.path}: class {c.name}" for c in house.classes(module) if house.length(c) > MAX_CLASS]
        for function in house.functions(module):
            if house.length(function) > MAX_FUNCTION:
                large.append(f"{module.path}: {function.name} is long")
            if house.parameters(function) > MAX_PARAMETERS and not is_kernel(function):
                large.append(f"{module.path}: {function.name} has {house.parameters(function)} parameters")
    assert large == []


def is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A Triton kernel or an autograd function, whose arguments are all that reaches it."""
    first = function.args.args[0].arg if function.args.args else ""
    return first == "ctx" or "triton.jit" in {ast.unparse(decorator) for decorator in function.decorator_list}


def test_library_code_leaves_the_process_alone():
    """The global random state, warnings and the environment belong to the program."""
    forbidden = re.compile(r"manual_seed\(|set_rng_state|simplefilter|catch_warnings|filterwarnings|environ\[|\.seed\(")
    allowed = re.compile(r"Generator\(.*\)\.manual_seed\(|generator\.manual_seed\(")
    found = []
    for module in CODE:
        if module.room.split(".")[0] in ("tacotron2", "waveglow", "synthesis", "inference", "evaluation"):
            lines = enumerate(module.source.splitlines(), 1)
            found += [f"{module.path}:{n}: {s}" for n, s in lines if forbidden.search(s) and not allowed.search(s)]
    assert found == []
