"""The typed config is strict, and conf/ and the dataclasses agree."""

import dataclasses
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from common.conf import CONF
from common.config import AudioConfig, DataConfig, TrainConfig, TrainerConfig
from common.entry import _quoted
from common.errors import UserError
from common.schema import from_dict
from common.training.schedule import learning_rate
from synthesis.job_options import InferenceConfig
from synthesis.models import MODELS as MODELS_BY_NAME
from tacotron2.model import Tacotron2Config
from tacotron2.task import Tacotron2Options
from tests.helpers import REPOSITORY
from tests.helpers.commands import composed, fails_with, run_here
from train import TASKS, build_task
from waveglow.model import WaveGlowConfig
from waveglow.task import WaveGlowOptions

MODELS = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))
TRAINERS = sorted(path.stem for path in (CONF / "trainer").glob("*.yaml"))


@pytest.mark.parametrize("model", MODELS)
def test_every_model_and_its_recipe_make_a_task(model: str) -> None:
    values = composed("train", f"model={model}", "data.root=somewhere", "run_dir=runs/x")
    config = from_dict(TrainConfig, values)
    explicit = composed("train", f"model={model}", f"trainer={model}", f"task={model}", "data.root=x", "run_dir=x")
    assert config.trainer == from_dict(TrainerConfig, explicit["trainer"])
    assert config.task == explicit["task"]
    assert build_task(config).spec.name in TASKS


@pytest.mark.parametrize("trainer", TRAINERS)
def test_every_recipe_is_valid(trainer: str) -> None:
    values = composed("train", "model=tacotron2", f"trainer={trainer}", "data.root=x", "run_dir=x")
    from_dict(TrainConfig, values)


@pytest.mark.parametrize("debug", sorted(path.stem for path in (CONF / "debug").glob("*.yaml")))
def test_every_debug_config_is_valid(debug: str) -> None:
    result = run_here("train.py", "model=waveglow_small", "data=demo", "--cfg", "job", "--resolve", f"debug={debug}")
    config = from_dict(TrainConfig, yaml.safe_load(result.stdout))
    assert config.run_dir.startswith("runs/debug/")


def test_yaml_and_dataclasses_have_the_same_keys_and_defaults() -> None:
    values = composed("train", "model=tacotron2", "trainer=default", "data.root=x", "run_dir=x")
    assert from_dict(AudioConfig, values["audio"]) == AudioConfig()
    assert values["data"].keys() == {field.name for field in dataclasses.fields(DataConfig)}
    assert values["trainer"].keys() == {field.name for field in dataclasses.fields(TrainerConfig)}
    inference = composed("inference", "tacotron2=a", "waveglow=b", "input=c", "output=d")
    assert from_dict(InferenceConfig, inference) == InferenceConfig(tacotron2="a", waveglow="b", input="c", output="d")
    for name, options in (("tacotron2", Tacotron2Options), ("waveglow", WaveGlowOptions)):
        values, cls = composed("train", f"model={name}", "data.root=x", "run_dir=x"), MODELS_BY_NAME[name].config_class
        assert values["model"].pop("name") == name
        assert from_dict(cls, values["model"]) == cls()
        fields = {field.name for field in dataclasses.fields(cls)}
        assert values["model"].keys() == fields - {"n_symbols", "speakers"}  # the data determine them
        assert values["task"].keys() == {field.name for field in dataclasses.fields(options)}


def test_strictness() -> None:
    with pytest.raises(
        UserError, match=r"unknown config key 'audio.hop_lenght' \(value 3\); did you mean .audio.hop_length"
    ):
        from_dict(AudioConfig, {"hop_lenght": 3})
    with pytest.raises(UserError, match=r"'audio.n_mels' is '80' \(str\); it must be of type int"):
        from_dict(AudioConfig, {"n_mels": "80"})
    with pytest.raises(UserError, match=r"'audio.n_mels' is True"):
        from_dict(AudioConfig, {"n_mels": True})
    with pytest.raises(UserError, match=r"'model' has no value"):
        from_dict(TrainConfig, {"audio": {}, "data": {}, "trainer": {}})
    with pytest.raises(UserError, match=r"'trainer.anneal_epochs\[1\]' is 'x'"):
        from_dict(TrainerConfig, {"anneal_epochs": [1, "x"]})
    with pytest.raises(UserError, match=r"'data.root' is empty"):
        from_dict(DataConfig, {"root": ""})
    assert (
        from_dict(InferenceConfig, {"tacotron2": "a", "waveglow": "b", "input": "c", "output": 2024}).output == "2024"
    )
    with pytest.raises(UserError, match=r"audio.fmax=inf must be a finite number"):
        from_dict(AudioConfig, {"fmax": 10**400})
    assert from_dict(AudioConfig, {"fmax": 7600}).fmax == 7600.0
    assert from_dict(TrainerConfig, {"max_steps": None}).max_steps is None


@pytest.mark.parametrize(
    ("cls", "values", "message"),
    [
        (AudioConfig, {"fmax": 12000.0}, "fmax"),
        (AudioConfig, {"hop_length": 2048}, "hop_length=2048"),
        (TrainerConfig, {"precision": "fp61"}, "did you mean 'fp16'"),
        (TrainerConfig, {"batch_size": 0}, "batch_size=0"),
        (TrainerConfig, {"learning_rate": -1.0}, "learning_rate=-1.0"),
        (TrainerConfig, {"anneal_epochs": [1, 2], "anneal_factors": [0.1]}, "same length"),
        (TrainerConfig, {"anneal_steps": [2, 1], "anneal_factors": [0.1, 0.2]}, "anneal_steps=.*the steps must ascend"),
        (TrainerConfig, {"anneal_steps": [1], "anneal_epochs": [1], "anneal_factors": [0.1]}, "set one of them to"),
        (TrainerConfig, {"learning_rate": float("nan")}, "learning_rate=nan"),
        (TrainerConfig, {"weight_decay": -1.0}, "weight_decay=-1.0"),
        (TrainerConfig, {"max_steps": 10**30}, "max_steps must be at most 9,223,372,036,854,775,807"),
        (
            TrainerConfig,
            {"anneal_epochs": [1], "anneal_factors": [float("nan")]},
            "anneal_factors.0.=nan",
        ),
        (AudioConfig, {"log_floor": float("nan")}, "log_floor=nan must be a finite number"),
        (AudioConfig, {"log_floor": 1e-50}, "log_floor=1e-50 must be at least 1e-30"),
        (DataConfig, {"segment_length": 0}, "segment_length=0"),
        (Tacotron2Config, {"prenet_dim": 0}, "prenet_dim=0"),
        (Tacotron2Config, {"prenet_dropout": 1.5}, "prenet_dropout=1.5"),
        (WaveGlowConfig, {"n_early_every": 0}, "n_early_every=0"),
        (WaveGlowConfig, {"kernel_size": 4}, "kernel_size=4.*odd"),
        (
            InferenceConfig,
            {"tacotron2": "a", "input": "b", "output": "c", "vocoder": "griffin_lim", "seed": -1},
            "seed=-1",
        ),
    ],
)
def test_bad_values_are_named(cls: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cls(**values)


@pytest.mark.parametrize(
    ("model", "override", "message"),
    [
        ("tacotron2", "model.n_mel_channels=40", r"model.n_mel_channels=40 must be 80"),
        ("tacotron2", "+model.n_symbols=20", r"model.n_symbols=20 must be 148"),
        ("tacotron2", "data.characters=ab_a", r"data.characters='ab_a': repeated or reserved: _ a"),
        ("waveglow", "model.hop_length=128", r"model.hop_length=128 must be 256"),
        ("waveglow", "seed=-1", r"seed=-1"),
    ],
)
def test_settings_that_cannot_work_are_named(model: str, override: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build_task(from_dict(TrainConfig, composed("train", f"model={model}", "data.root=x", "run_dir=x", override)))


@pytest.mark.parametrize(
    "path", ["my voice (1)", "a,b", "runs/lr=0.1", "it's", "plain/path-1.2", "ünï", "~/voice", "=", "a\\b"]
)
def test_paths_of_any_kind(path: str) -> None:
    """A path that the shell passes as one word arrives unchanged, except that `~` becomes the home directory."""
    values = composed("inference", _quoted(f"tacotron2={path}"), "input=a", "output=b")
    assert values["tacotron2"] == os.path.expanduser(path)


@pytest.mark.fault(30)
@pytest.mark.parametrize("text", ["1e5", "true", "1_0", "007", "nan", "0x1f", "off"])
def test_text_that_looks_like_something_else_stays(text: str) -> None:
    """The name of a run may be the hash of a commit. null stays null, to unset an option that is text by default."""
    command = ["train.py", "model=tacotron2", f"data.root={text}", f"run_dir={text}", "data.test_filelist=null"]
    values = yaml.safe_load(run_here(*command, "--cfg", "job", "--resolve").stdout)
    assert (values["run_dir"], values["data"]["root"], values["data"]["mel_dir"]) == (text, text, f"{text}/mels")
    assert values["data"]["test_filelist"] is None


@pytest.mark.parametrize("argument", ["--cfg", "model=[1,2]", "a.b={c: 1}", "x='already quoted'", "y=${data.root}/z"])
def test_hydras_own_syntax_is_left_alone(argument: str) -> None:
    assert _quoted(argument) == argument


def test_annealing_matches_the_reference() -> None:
    config = from_dict(TrainerConfig, composed("train", "model=tacotron2", "data.root=x", "run_dir=x")["trainer"])
    rates = [learning_rate(config, epoch, 10**6) for epoch in (0, 499, 500, 999, 1000, 1500)]
    assert rates == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5, 1e-6])
    amp = from_dict(
        TrainerConfig,
        composed("train", "model=tacotron2", "trainer=tacotron2_amp", "data.root=x", "run_dir=x")["trainer"],
    )
    assert [learning_rate(amp, e, 0) for e in (499, 500, 1000, 1500)] == pytest.approx([1e-3, 3e-4, 1e-4, 3e-5])
    assert amp.precision == "fp16"


def test_the_learning_rate_falls_at_steps() -> None:
    config = TrainerConfig(learning_rate=2.0, anneal_steps=[3, 5], anneal_factors=[0.5, 0.1])
    assert [learning_rate(config, 99, step) for step in range(7)] == pytest.approx([2, 2, 2, 1, 1, 0.2, 0.2])


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("command", "parts"),
    [
        (["train.py"], ["model", "tacotron2_small"]),
        (["train.py", "-m", "Tacotron2", "-o", "DIR"], ["unknown option -m", "KEY=VALUE", "docs/reference.md"]),
        (["inference.py", "--tacotron2", "x.pt"], ["unknown option --tacotron2", "KEY=VALUE"]),
        (["scripts/export_onnx.py", "vocoder=x"], ["unknown config key 'vocoder'", "tacotron2, waveglow, output"]),
        (["train.py", "model=tacotron2_smal"], ["model=tacotron2_smal is unknown", "did you mean 'tacotron2_small'"]),
        (["train.py", "model=tacotron2"], ["data.root=VALUE", "run_dir=VALUE"]),
        (["train.py", "model=tacotron2", "trainer.btach_size=3"], ["trainer.btach_size", "3", "trainer.batch_size"]),
        (["train.py", "model=tacotron2", "data=demo", "run_dir=/x", "+trainer.x=3"], ["'trainer.x' (value 3)"]),
        (["train.py", "model=tacotron2", "data=demo", "run_dir=/x", "+model.x=3"], ["'model.x' (value 3)"]),
        (["inference.py", "input=a", "output=b"], ["set voice=NAME, or tacotron2=CKPT"]),
        (["inference.py", "tacotron2=c", "input=a", "output=b"], ["waveglow=CKPT", "vocoder=griffin_lim"]),
        (["inference.py", "tacotron=c"], ["unknown config key 'tacotron' (value c); did you mean 'tacotron2'?"]),
        (["scripts/prepare_mels.py"], ["data.root=VALUE"]),
        (["train.py", "model=tacotron2", "debug=fdrr"], ["debug=fdrr is unknown", "did you mean 'fdr'"]),
        (["train.py", "model=tacotron2", "debug="], ["debug= is unknown", "choose from: fdr, overfit, profile"]),
        (["train.py", "model=tacotron2", "experiment=[demo,x]"], ["experiment=x is unknown", "demo, demo_voice"]),
        (["train.py", "model=tacotron2", "data=demo", "run_dir=null"], ["'run_dir' is None", "must be of type str"]),
        (["train.py", "model=tacotron2", "data=demo", "run_dir=x", "init_from=1e5"], ["'init_from' is 1000", "quotes"]),
        (["train.py", "model=tacotron2", "hydra.mode=MULTIRUN"], ["hydra.mode=MULTIRUN", "are fixed"]),
        (["inference.py", "+hydra/launcher=x"], ["+hydra/launcher=x", "are fixed"]),
    ],
)
def test_mistakes_on_the_command_line(command: list[str], parts: list[str]) -> None:
    fails_with(run_here(*command, expect=1), *parts)


def test_the_kubernetes_recipe_runs_a_valid_command() -> None:
    """Its TrainJob refers to its runtime and starts train.py, with the run directory on the shared volume."""
    runtime, job = yaml.safe_load_all((REPOSITORY / "scripts/kubernetes/train.yaml").read_text())
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    trainer = job["spec"]["trainer"]
    assert (trainer["command"], trainer["args"][0]) == (["torchrun"], "train.py")
    values = composed("train", *trainer["args"][1:])
    build_task(from_dict(TrainConfig, values))
    pod = runtime["spec"]["template"]["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    mounts = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounts.keys() == {volume["name"] for volume in pod["volumes"]}
    assert values["run_dir"].startswith(mounts["shared"] + "/")


def test_a_number_as_the_choice_of_a_group_is_an_error() -> None:
    fails_with(
        run_here("train.py", "model=1", "run_dir=x", expect=1), "config: ", "must be a string", "train.py --help"
    )


def test_a_key_of_a_group_that_the_command_does_not_have_is_unknown() -> None:
    result = run_here(
        "train.py", "model=tacotron2", "experiment.foo=1", expect=1
    )  # a group whose files override others
    fails_with(result, "unknown config key 'experiment.foo' (value 1)")
    fails_with(run_here("inference.py", "data.root=x", expect=1), "unknown config key 'data.root' (value x)", "output")


@pytest.mark.fault(30)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"trainer:\n  batch_size: [1", "mine.yaml:2: not YAML (expected ',' or ']'"),
        (b"\tx: 1", "mine.yaml:1: not YAML (found character"),
        (b"\xff\xfe", "mine.yaml: not readable as YAML ("),
        (b"a: &x [*x]", "mine.yaml: not readable as YAML ("),
        (b"- 1", "mine.yaml: it must hold lines KEY: VALUE"),
        (b"defaults: 5", "mine.yaml: it must hold lines KEY: VALUE, and defaults, if it is there, a list"),
        (b"trainer: {epochs: 1}", "mine.yaml: its first line must be '# @package _global_'"),
        (b"# @package _global_\ntrainer: 5", "config key 'trainer' is 5; it is a group of keys"),
        (b"# @package _global_\ndefaults:\n  - 5", "config: Unsupported type in defaults : int"),
        (b"# @package _global_\ntrainer:\n  epochs: ${no}", "config: Interpolation key 'no' not found"),
    ],
)
def test_a_mistake_in_a_file_of_conf(
    content: bytes, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(CONF, tmp_path / "conf")
    (tmp_path / "conf/experiment/mine.yaml").write_bytes(content)
    monkeypatch.setattr("common.conf.CONF", tmp_path / "conf")
    command = ("train.py", "model=waveglow", "experiment=mine", f"run_dir={tmp_path}/run", f"data.root={tmp_path}")
    fails_with(run_here(*command, expect=1), message)
