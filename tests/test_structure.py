"""The structure of the code holds: imports go one way, `common` knows no model, and nothing grows too large.

`python -m tests.structure` prints the map that these tests check.
"""

from __future__ import annotations

import ast
import dataclasses
import re
from typing import Any

import pytest

from common.config import AudioConfig, DataConfig, TextConfig, TrainerConfig
from synthesis.onnx.files import CODE as EXPORTED_CODE
from tacotron2.model import Tacotron2Config
from tacotron2.task import Tacotron2Options
from tests import structure
from tests.helpers import REPOSITORY
from tests.helpers.commands import run_process
from waveglow.model import WaveGlowConfig
from waveglow.task import WaveGlowOptions

MODULES = structure.modules()
CODE = [module for module in MODULES if not module.package.startswith("tests")]
MAX_CLASS, MAX_FUNCTION, MAX_PARAMETERS = 250, 60, 10


def test_every_file_is_in_a_layer() -> None:
    tracked = {path for path in REPOSITORY.rglob("*.py") if not {".venv", "runs", "package", "build"} & set(path.parts)}
    assert {REPOSITORY / module.path for module in MODULES} == tracked
    assert {module.package for module in MODULES} == {package for layer in structure.LAYERS for package in layer}


def test_no_import_goes_up() -> None:
    found = structure.dependencies(MODULES)
    assert ("train", "tacotron2") in found  # imports are found at all
    assert ("tacotron2", "tacotron2.text") in found
    assert {dependency: files for dependency, files in found.items() if structure.goes_up(*dependency)} == {}


@pytest.mark.parametrize(
    "dependency",
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
def test_a_dependency_that_goes_up_is_detected(dependency: tuple[str, str]) -> None:
    source, target = dependency
    assert structure.goes_up(source, target)
    assert not structure.goes_up(source, "common")


def test_only_train_and_synthesis_know_both_models() -> None:
    """A third model would be added to TASKS of train.py and MODELS of synthesis/models.py."""
    known = {"tacotron2", "waveglow"}
    training = [module for module in CODE if module.package.startswith("common") or module.package == "train"]
    assert [module.name for module in training if known <= {n.split(".")[0] for n in module.imports()}] == ["train"]


def test_common_names_no_model_and_no_option_of_one() -> None:
    general = {field.name for cls in (AudioConfig, DataConfig, TextConfig, TrainerConfig) for field in fields(cls)}
    own = {field.name for cls in (Tacotron2Config, WaveGlowConfig) for field in fields(cls)}
    own |= {field.name for cls in (Tacotron2Options, WaveGlowOptions) for field in fields(cls)}
    own.remove("speakers")  # of a corpus too
    own = own - general | {"match_mel", "postfilter", "denoiser", "sigma"}
    found = []
    for module in CODE:
        if module.package.startswith("common"):
            text = module.source.replace("tacotron2-waveglow", "")  # the name of the project
            words = set(re.findall(r"\w+", text))
            found += [f"{module.path}: {word}" for word in sorted(words & own)]
            found += [f"{module.path}: {word}" for word in re.findall(r"tacotron|waveglow", text, re.IGNORECASE)]
    assert found == []


def fields(cls: type) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(cls)


def test_synthesis_imports_nothing_of_training() -> None:
    """Run in a new process, since this one has imported everything."""
    code = (
        "import sys, torch, librosa, soundfile\n"  # on Linux PyTorch imports fcntl
        "heavy = ('hydra', 'omegaconf', 'matplotlib', 'tensorboard', 'torch.utils.tensorboard', 'fcntl', 'train',\n"
        "         'common.training', 'common.tracking.tracker', 'common.distributed')\n"
        "assert not {'hydra', 'matplotlib', 'tensorboard'} & set(sys.modules)\n"
        "sys.modules.update(dict.fromkeys(heavy))\n"  # None: importing these fails
        "import inference, synthesis.synthesizer, synthesis.jobs, evaluation.judges\n"
        "print('imported')"
    )
    assert run_process("-c", code).stdout.strip() == "imported"


def test_speaking_with_onnx_imports_only_what_an_export_holds() -> None:
    """Run in a new process. From other projects it may only import the packages that `read_config` asks for."""
    code = (
        "import sys; sys.path.insert(0, 'scripts'); before = set(sys.modules)\n"
        "import speak_onnx; light = sorted(set(sys.modules) - before); print(*light)\n"
        "import synthesis.onnx.voice, soundfile; print(*sorted(set(sys.modules) - before))\n"
    )
    light, full = (set(line.split()) for line in run_process("-c", code).stdout.splitlines())
    assert (
        not {"numpy", "onnxruntime", "soundfile", "inflect"} & light
    )  # absent packages are a message, not a traceback
    assert {"numpy", "onnxruntime", "soundfile"} <= full
    heavy = {"torch", "hydra", "omegaconf", "librosa", "scipy", "matplotlib", "tensorboard", "safetensors", "tqdm"}
    assert heavy & full == set()
    held = {str(path.relative_to(REPOSITORY)) for pattern in EXPORTED_CODE for path in REPOSITORY.glob(pattern)}
    imported = {module.path for module in MODULES if module.name.removeprefix("scripts.") in full}
    assert len(imported) > 20
    assert {str(path) for path in imported} - held == set()


def test_nothing_is_too_large() -> None:
    large = []
    for module in CODE:
        too_long = [cls for cls in structure.classes(module) if structure.length(cls) > MAX_CLASS]
        large += [f"{module.path}: class {cls.name}" for cls in too_long]
        for function in structure.functions(module):
            if structure.length(function) > MAX_FUNCTION:
                large.append(f"{module.path}: {function.name} is long")
            if structure.parameters(function) > MAX_PARAMETERS and not is_kernel(function):
                large.append(f"{module.path}: {function.name} has {structure.parameters(function)} parameters")
    assert large == []


def is_kernel(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Return whether it is a Triton kernel or an autograd function, which get all their input as arguments."""
    first = function.args.args[0].arg if function.args.args else ""
    return first == "ctx" or "triton.jit" in {ast.unparse(decorator) for decorator in function.decorator_list}


def test_library_code_leaves_the_process_alone() -> None:
    """The global random state, warnings and the environment belong to the program that uses the library."""
    forbidden = re.compile(r"manual_seed\(|set_rng_state|simplefilter|catch_warnings|filterwarnings|environ\[|\.seed\(")
    allowed = re.compile(r"Generator\(.*\)\.manual_seed\(|generator\.manual_seed\(")
    found = []
    for module in CODE:
        if module.package.split(".")[0] in (
            "tacotron2",
            "waveglow",
            "synthesis",
            "inference",
            "evaluation",
            "recordings",
        ):
            lines = enumerate(module.source.splitlines(), 1)
            found += [f"{module.path}:{n}: {s}" for n, s in lines if forbidden.search(s) and not allowed.search(s)]
    assert found == []
