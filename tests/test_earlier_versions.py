"""Checkpoints and option names of earlier versions work, or are refused with a cure. The checkpoints are in
tests/golden."""

from pathlib import Path

import pytest
import torch
import yaml

from common.conf import CONF
from common.entry import Command
from common.errors import UserError
from inference import load_model
from tacotron2.model import Tacotron2
from tests.helpers.commands import fails_with, run_here
from tests.helpers.golden import golden_path
from tests.helpers.runs import losses, train_command

SIZES = [
    "model.symbols_embedding_dim=8",
    "model.encoder_embedding_dim=8",
    "model.attention_rnn_dim=8",
    "model.attention_dim=4",
    "model.attention_location_n_filters=4",
    "model.attention_location_kernel_size=7",
    "model.decoder_rnn_dim=8",
    "model.prenet_dim=8",
    "model.postnet_embedding_dim=8",
]
# format -> shape, mean and standard deviation of the mel that the version of that time synthesized
SYNTHESIZED = {
    1: ((1, 80, 3), 0.012609466704695175, 0.2227710298285266),
    2: ((1, 80, 2), 0.007390196615597233, 0.17397785108074654),
    3: ((1, 80, 2), -5.448620906472206, 0.7267970728644452),
}


@pytest.mark.parametrize("version", SYNTHESIZED)
def test_an_old_checkpoint_synthesizes_the_same(version: int) -> None:
    model = load_model(golden_path(f"format{version}_tacotron2.pt"), prenet_dropout=0.0)
    assert isinstance(model, Tacotron2)
    mel = model.infer(torch.tensor([[40, 41, 42, 43, 11]]), torch.tensor([5]), 6).mel_postnet.double()
    shape, mean, deviation = SYNTHESIZED[version]
    assert mel.shape == shape
    assert (float(mel.mean()), float(mel.std())) == pytest.approx((mean, deviation), rel=1e-5)


def with_checkpoint(run_dir: Path, version: int) -> Path:
    (run_dir / "checkpoints").mkdir(parents=True)
    target = run_dir / "checkpoints" / "step_00000002.pt"
    target.write_bytes(golden_path(f"format{version}_tacotron2.pt").read_bytes())
    return target


def test_training_continues_from_format_3(corpus: Path, tmp_path: Path) -> None:
    with_checkpoint(tmp_path, 3)
    recipe = ["model=tacotron2_small", *SIZES, "data.sentences=[]", "trainer.batch_frames=null"]
    result = run_here(*train_command(corpus, tmp_path, recipe, "trainer.batch_size=4", "trainer.max_steps=4"))
    assert "resumed from" in result.stdout
    assert losses(tmp_path) == pytest.approx({3: 59.65412624883829, 4: 59.2432115943031}, rel=1e-5)


@pytest.mark.parametrize("version", [1, 2])
def test_formats_1_and_2_can_only_initialize_a_new_run(corpus: Path, tmp_path: Path, version: int) -> None:
    old = with_checkpoint(tmp_path / "old", version)
    recipe = ["model=tacotron2", *SIZES, "data.sentences=[]", "trainer.max_steps=1"]
    result = run_here(*train_command(corpus, tmp_path / "old", recipe), expect=1)
    fails_with(result, str(old), "training cannot be continued", f"init_from={old}", "new run_dir")
    result = run_here(*train_command(corpus, tmp_path / "new", recipe, f"init_from={old}"))
    assert f"initialized with all weights of {old}" in result.stdout


# ---- options ----

RENAMED = yaml.safe_load((CONF / "renamed.yaml").read_text())


def test_a_renamed_option_works_with_a_note() -> None:
    old = "trainer.guided_attention_weight"
    result = run_here("train.py", "model=tacotron2_small", f"{old}=2", "--cfg", "job")
    assert yaml.safe_load(result.stdout)["task"]["guided_attention_weight"] == 2
    assert f"note: {old} is now called task.guided_attention_weight" in result.stderr
    assert result.stderr.count("note:") == 1


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_new_names_are_known_and_old_ones_are_not(old: str, new: str) -> None:
    known = [key for name in ("train", "inference") for key in Command(name, []).known]
    assert new in known
    assert old not in known


def test_a_renamed_option_in_a_users_yaml_file(capsys: pytest.CaptureFixture[str]) -> None:
    values = {"trainer": {"spectral_weight": 3.0, "epochs": 1}, "task": {"spectral_weight": 0.0}}
    assert Command("train", []).with_present_names(values) == {
        "trainer": {"epochs": 1},
        "task": {"spectral_weight": 3.0},
    }
    assert "note: trainer.spectral_weight is now called task.spectral_weight" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("model", "option", "name", "owners"),
    [
        ("waveglow", "task.guided_attention_weight=5", "task.guided_attention_weight", "task=tacotron2"),
        ("waveglow", "trainer.guided_attention_weight=5", "task.guided_attention_weight", "task=tacotron2"),
        ("tacotron2", "task.spectral_weight=2", "task.spectral_weight", "task=waveglow"),
        ("tacotron2", "trainer.spectral_weight=2", "task.spectral_weight", "task=waveglow"),
        ("tacotron2_small", "model.n_channels=64", "model.n_channels", "model=waveglow"),
        ("waveglow", "model.prenet_dim=64", "model.prenet_dim", "model=tacotron2"),
    ],
)
def test_an_option_of_another_model_is_an_error(model: str, option: str, name: str, owners: str) -> None:
    result = run_here("train.py", f"model={model}", "data=demo", "run_dir=/x", option, expect=1)
    value = option.split("=")[1]
    fails_with(result, f"'{name}' (value {value}) is not an option of model={model}", owners)


def test_an_appended_option_of_another_model_is_an_error(corpus: Path, tmp_path: Path) -> None:
    command = train_command(corpus, tmp_path / "run", ["model=waveglow"], "+task.guided_attention_weight=5")
    fails_with(run_here(*command, expect=1), "task.guided_attention_weight=5: model waveglow has no such option")
    assert not (tmp_path / "run").exists()


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    torch.save({"format": "tacotron2-waveglow/0", "model_name": "tacotron2"}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x.pt: its format is 'tacotron2-waveglow/0', this version reads"):
        load_model(tmp_path / "x.pt")
