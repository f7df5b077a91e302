"""Every layout of the reference's checkpoints loads as the same model and runs no code; conversions are exact."""

import dataclasses
import importlib
import io
import itertools
import json
import os
import re
import sys
import tarfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor, nn

from common.checkpoint import files as checkpoints
from common.checkpoint import formats as interchange
from common.checkpoint import unpickle
from common.checkpoint.initialize import Target, initialize
from common.config import TrainConfig
from common.errors import UserError
from common.schema import from_dict
from common.training.task import Task
from inference import Synthesizer, load_model
from synthesis.models import MODELS
from tacotron2.model import Tacotron2, Tacotron2Config
from tacotron2.text import SYMBOLS
from tests.helpers.commands import Result, composed, fails_with, run_here
from tests.helpers.golden import golden, golden_path
from tests.helpers.runs import train_command
from train import build_task
from waveglow.model import WaveGlow

State = dict[str, Any]
TINY = [f"model.{key}={value}" for key, value in golden("dle_tacotron2.pt")["config"].items()
        if key.endswith(("_dim", "_n_filters", "location_kernel_size"))]  # fmt: skip


def bare(state: State) -> dict[str, Tensor]:
    return {key.removeprefix("module."): value for key, value in state["state_dict"].items()}


def prefixed(prefix: str) -> Callable[[State], State]:
    return lambda state: state | {"state_dict": {prefix + key: value for key, value in bare(state).items()}}


def with_old_keys(state: State) -> State:
    """Replace `scaler` by the older apex `amp`, and random_rng_states_all by random_rng_state."""
    state = dict(state)
    state["random_rng_state"] = state.pop("random_rng_states_all")[0]
    del state["scaler"]
    return state | {"amp": {"loss_scaler0": {"loss_scale": 65536.0, "unskipped": 7}}}


def in_half(state: State) -> State:
    return state | {"state_dict": {key: v.half() if v.is_floating_point() else v for key, v in bare(state).items()}}


# ---- Tacotron 2 ----


def nvidia_tacotron2(state: State) -> State:
    """Return {iteration, state_dict, optimizer, learning_rate}; BatchNorm of PyTorch 0.4 did not count batches."""
    weights = {key: value for key, value in bare(state).items() if not key.endswith("num_batches_tracked")}
    return {"iteration": 70000, "state_dict": weights, "optimizer": {}, "learning_rate": np.float64(1e-3)}


TACOTRON2_LAYOUTS: dict[str, Callable[[State], Any]] = {
    "DLE": lambda state: state,
    "DLE without module.": prefixed(""),
    "DLE with module.1.": prefixed("module.1."),
    "DLE, old RNG and scaler keys": with_old_keys,
    "NVIDIA/tacotron2": nvidia_tacotron2,
    "state_dict alone": bare,
    "of torch.compile": prefixed("_orig_mod."),
}


def teacher_forced(model: nn.Module) -> Tensor:
    io = golden("dle_tacotron2_io.pt")
    with torch.no_grad():
        return model(io["text"], io["text_lengths"], io["mel"], io["mel_lengths"]).mel_postnet


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", TACOTRON2_LAYOUTS)
def test_tacotron2_layouts(layout: str, zipped: bool, tmp_path: Path) -> None:
    changed = TACOTRON2_LAYOUTS[layout](golden("dle_tacotron2.pt"))
    torch.save(changed, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    model = load_model(tmp_path / "x.pt", prenet_dropout=0.0)
    assert isinstance(model, Tacotron2)
    assert not model.training
    expected = golden("dle_tacotron2_io.pt")["mel_out_postnet"]
    torch.testing.assert_close(teacher_forced(model), expected, atol=1e-4, rtol=0)
    if layout not in ("NVIDIA/tacotron2", "state_dict alone"):  # these two do not store the settings
        assert (model.config.gate_threshold, model.config.max_decoder_steps) == (2.0, 37)


def test_half_precision_weights_become_float(tmp_path: Path) -> None:
    torch.save(in_half(golden("dle_tacotron2.pt")), tmp_path / "x.pt")
    model = load_model(tmp_path / "x.pt", prenet_dropout=0.0)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    torch.testing.assert_close(
        teacher_forced(model), golden("dle_tacotron2_io.pt")["mel_out_postnet"], atol=0.05, rtol=0
    )


@pytest.mark.parametrize("frames_per_step", [1, 2])
def test_sizes_come_from_the_tensors(frames_per_step: int, tmp_path: Path) -> None:
    """No size equals its default, except n_frames_per_step=1, and the file holds no config."""
    sizes: dict[str, Any] = {
        "n_mel_channels": 20, "n_symbols": 30, "symbols_embedding_dim": 18, "encoder_kernel_size": 3,
        "encoder_n_convolutions": 2, "encoder_embedding_dim": 12, "attention_rnn_dim": 14, "attention_dim": 7,
        "attention_location_n_filters": 5, "attention_location_kernel_size": 9, "decoder_rnn_dim": 10,
        "prenet_dim": 6, "postnet_embedding_dim": 16, "postnet_kernel_size": 7, "postnet_n_convolutions": 3,
        "n_frames_per_step": frames_per_step,
    }  # fmt: skip
    config = Tacotron2Config(**sizes)
    torch.save({"state_dict": Tacotron2(config).state_dict()}, tmp_path / "x.pt")
    assert load_model(tmp_path / "x.pt").config == config


# ---- WaveGlow ----


def without_weight_norm(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {key: value for key, value in weights.items() if not key.endswith(("_g", "_v"))}
    for key, g in weights.items():
        if key.endswith("weight_g"):
            v = weights[key[:-1] + "v"]
            result[key[:-2]] = g * v / v.norm(dim=(1, 2), keepdim=True)
    return result


def parametrized(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    def name(key: str) -> str:
        key = key.replace("weight_g", "parametrizations.weight.original0")
        return key.replace("weight_v", "parametrizations.weight.original1")

    return {name(key): value for key, value in weights.items()}


def fused(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    result = {key: value for key, value in weights.items() if ".cond_layers." not in key}
    for k, part in itertools.product(range(12), ("bias", "weight_g", "weight_v", "weight")):
        if f"WN.{k}.cond_layers.0.{part}" in weights:
            layers = [weights[f"WN.{k}.cond_layers.{i}.{part}"] for i in range(3)]
            result[f"WN.{k}.cond_layer.{part}"] = torch.cat(layers)
    return result


def changed(change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Callable[[State], State]:
    return lambda state: state | {"state_dict": change(bare(state))}


WAVEGLOW_LAYOUTS: dict[str, Callable[[State], Any]] = {
    "DLE": lambda state: state,
    "DLE with module.": prefixed("module."),
    "DLE with module.1.": prefixed("module.1."),
    "DLE, old RNG and scaler keys": with_old_keys,
    "weight norm removed": changed(without_weight_norm),
    "parametrizations": changed(parametrized),
    "fused conditioning": changed(fused),
    "fused conditioning, weight norm removed": changed(lambda weights: fused(without_weight_norm(weights))),
    "fused conditioning, parametrizations": changed(lambda weights: parametrized(fused(weights))),
    "state_dict alone": bare,
    "in model:": lambda state: {"model": bare(state), "iteration": 3},
}


def latent(model: nn.Module) -> Tensor:
    io = golden("dle_waveglow_io.pt")
    with torch.no_grad():
        return model(io["mel"], io["audio"]).z


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("layout", WAVEGLOW_LAYOUTS)
def test_waveglow_layouts(layout: str, zipped: bool, tmp_path: Path) -> None:
    torch.save(
        WAVEGLOW_LAYOUTS[layout](golden("dle_waveglow.pt")), tmp_path / "x.pt", _use_new_zipfile_serialization=zipped
    )
    model = load_model(tmp_path / "x.pt")
    assert isinstance(model, WaveGlow)
    io = golden("dle_waveglow_io.pt")
    torch.testing.assert_close(latent(model), io["z"], atol=1e-4, rtol=0)
    torch.testing.assert_close(model.infer(io["mel"], sigma=0.0), io["infer_sigma0"], atol=1e-4, rtol=0)


def test_a_filter_of_zeros_survives_without_weight_norm(tmp_path: Path) -> None:
    state = changed(without_weight_norm)(golden("dle_waveglow.pt"))
    state["state_dict"]["WN.0.in_layers.0.weight"][3] = 0
    torch.save(state, tmp_path / "x.pt")
    assert torch.isfinite(latent(load_model(tmp_path / "x.pt"))).all()


@pytest.mark.fault(4)
def test_pickled_module_of_the_original_repository() -> None:
    """Its code is not available. The computed weights next to weight_g and weight_v are 0 and must not be used."""
    assert "glow" not in sys.modules
    model = load_model(golden_path("nvidia_waveglow_pickled.pt"))
    assert "glow" not in sys.modules
    torch.testing.assert_close(latent(model), golden("nvidia_waveglow_pickled_io.pt")["z"], atol=1e-4, rtol=0)


GLOW = '''
"""A module of another project, whose source must not be needed to read its weights."""
import torch
from torch import nn
from torch.nn.utils import weight_norm

class Invertible1x1Conv(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.conv = nn.Conv1d(weight.shape[0], weight.shape[0], 1, bias=False)

class WN(nn.Module):
    def __init__(self, dim, n_mel, n_layers, n_channels, norm, fused):
        super().__init__()
        self.n_layers, self.n_channels = n_layers, n_channels
        self.start = norm(nn.Conv1d(dim, n_channels, 1))
        self.in_layers = nn.ModuleList(norm(nn.Conv1d(n_channels, 2 * n_channels, 3)) for _ in range(n_layers))
        self.res_skip_layers = nn.ModuleList(
            norm(nn.Conv1d(n_channels, n_channels * (1 if i == n_layers - 1 else 2), 1)) for i in range(n_layers))
        if fused:
            self.cond_layer = norm(nn.Conv1d(n_mel, 2 * n_channels * n_layers, 1))
        else:
            self.cond_layers = nn.ModuleList(norm(nn.Conv1d(n_mel, 2 * n_channels, 1)) for _ in range(n_layers))
        self.end = nn.Conv1d(n_channels, 2 * dim, 1)

class WaveGlow(nn.Module):
    def __init__(self, channels, stride, normed, fused):
        super().__init__()
        norm = weight_norm if normed else (lambda conv: conv)
        self.n_flows, self.n_group, self.n_early_every, self.n_early_size = len(channels), 8, 4, 2
        self.upsample = nn.ConvTranspose1d(16, 16, 1024, stride=stride)
        self.convinv = nn.ModuleList(Invertible1x1Conv(torch.eye(c)) for c in channels)
        self.WN = nn.ModuleList(WN(c // 2, 128, 3, 16, norm, fused) for c in channels)
'''


@pytest.fixture
def foreign_glow(tmp_path: Path) -> Iterator[types.ModuleType]:
    """An importable module `glow`, whose classes a test pickles; it is removed after the test."""
    (tmp_path / "code").mkdir()
    (tmp_path / "code/glow.py").write_text(GLOW)
    sys.path.insert(0, str(tmp_path / "code"))
    try:
        yield importlib.import_module("glow")
    finally:
        sys.path.remove(str(tmp_path / "code"))
        sys.modules.pop("glow", None)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("is_fused", [True, False], ids=["fused", "per_layer"])
@pytest.mark.parametrize("normed", [True, False], ids=["weight_norm", "removed"])
def test_pickled_modules(
    foreign_glow: types.ModuleType, is_fused: bool, normed: bool, zipped: bool, tmp_path: Path
) -> None:
    weights = bare(golden("dle_waveglow.pt"))
    channels = [weights[f"convinv.{k}.conv.weight"].shape[0] for k in range(12)]
    model = foreign_glow.WaveGlow(channels, 256, normed, is_fused)
    weights = weights if normed else without_weight_norm(weights)
    model.load_state_dict(fused(weights) if is_fused else weights)
    content = {"model": model, "iteration": 5, "optimizer": {}, "learning_rate": 1e-4}
    torch.save(content, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    torch.save(model, tmp_path / "whole.pt", _use_new_zipfile_serialization=zipped)
    sys.modules.pop("glow")
    (tmp_path / "code/glow.py").write_text("raise SystemExit('imported')")
    for name in ("x.pt", "whole.pt"):
        torch.testing.assert_close(
            latent(load_model(tmp_path / name)), golden("dle_waveglow_io.pt")["z"], atol=1e-4, rtol=0
        )


def test_the_hop_length_of_a_pickled_module_is_its_own(foreign_glow: types.ModuleType, tmp_path: Path) -> None:
    torch.save({"model": foreign_glow.WaveGlow([8, 8], 200, False, True)}, tmp_path / "x.pt")
    config = load_model(tmp_path / "x.pt").config
    assert (config.hop_length, config.win_length, config.n_flows, config.n_early_every) == (200, 1024, 2, 4)


# ---- refused files ----


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["value", "weight", "attribute", "ours"])
@pytest.mark.fault(4)
def test_a_payload_is_refused_and_does_not_run(
    place: str, zipped: bool, foreign_glow: types.ModuleType, tmp_path: Path
) -> None:
    payload = Payload(tmp_path / "ran")
    state: dict[str, Any] = dict(golden("dle_waveglow.pt"))
    if place == "value":
        state["optimizer"] = payload
    elif place == "weight":
        state["state_dict"] = state["state_dict"] | {"upsample.weight": payload}
    elif place == "attribute":
        state["model"] = foreign_glow.WaveGlow([8], 256, False, True)
        state["model"].upsample.extra = payload
    else:
        state |= {"format": checkpoints.FORMAT, "model_name": "waveglow", "x": payload}
    torch.save(state, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(UserError, match=r"refused without running any of its code|refused, it holds more than tensors"):
        load_model(tmp_path / "x.pt")
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "x.pt", weights_only=False)
    assert (tmp_path / "ran").exists()  # the payload does run if it is unpickled


@pytest.mark.parametrize("name", ["builtins.eval", "builtins.getattr", "torch.load", "subprocess.Popen", "os.abort"])
@pytest.mark.parametrize("arguments", [b"(X\x01\x00\x00\x001tR", b")R"])
@pytest.mark.fault(4)
def test_no_name_outside_the_list_is_called(name: str, arguments: bytes) -> None:
    module, function = name.split(".")
    pickled = b"\x80\x02c" + f"{module}\n{function}\n".encode() + arguments + b"."
    with pytest.raises(Exception, match=f"would call {name}"):
        unpickle._load_pickle(io.BytesIO(pickled))


@pytest.mark.parametrize(
    "pickled",
    [
        b"(S'x'\nios\nsystem\n.",  # INST
        b"(cos\nsystem\nX\x01\x00\x00\x00xo.",  # OBJ
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nN(X\x01\x00\x00\x00xtNtR.",  # via a known name
    ],
)
@pytest.mark.fault(4)
def test_no_other_opcode_calls_a_name_outside_the_list(pickled: bytes) -> None:
    with pytest.raises(Exception, match=r"would call os\.system"):
        unpickle._load_pickle(io.BytesIO(pickled))


REBUILD = b"ctorch._utils\n_rebuild_tensor_v2\n"


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        (REBUILD, "function"),
        (b"ctorch._utils\n_rebuild_parameter\n", "function"),
        (b"ccollections\nOrderedDict\n", "type"),
        (b"cpathlib\nPosixPath\n", "type"),
        (b"ctorch\nfloat32\n", "dtype"),
        (b"cfoo\nBar\n", "_Inert"),
        (b"(lp0\n", "list"),
    ],
)
@pytest.mark.parametrize("state", [b"}U\x04evilI1\ns", b"N}U\x04evilI1\ns\x86"])
@pytest.mark.fault(36)
def test_a_pickle_sets_no_attributes_of_what_it_names(target: bytes, kind: str, state: bytes) -> None:
    """They would stay for the whole process."""
    with pytest.raises(Exception, match=f"would set attributes of a {kind}$"):
        unpickle._load_pickle(io.BytesIO(b"\x80\x02" + target + state + b"b."))
    assert not hasattr(torch._utils._rebuild_tensor_v2, "evil")


@pytest.mark.fault(36)
def test_the_attributes_of_a_foreign_instance_are_kept_apart() -> None:
    """None of them becomes a method that this program or the unpickler calls."""
    method = b"\x80\x02cfoo\nBar\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsbX\x01\x00\x00\x00xb."
    found = unpickle._load_pickle(io.BytesIO(method))
    assert list(found.attributes) == ["__setstate__"]
    slots = b"\x80\x02cfoo\nBar\n)\x81}U\x05itemsI1\ns}U\x01aI2\ns\x86b."
    found = unpickle._load_pickle(io.BytesIO(slots))
    assert (found.attributes, list(found.items())) == ({"items": 1, "a": 2}, [])
    loop = unpickle._load_pickle(io.BytesIO(b"\x80\x02cfoo\nBar\n)\x81q\x00}U\x08_modules}U\x01ah\x00ssb."))
    assert unpickle.flatten(loop) == ({}, {})  # a module that contains itself


@pytest.mark.fault(36)
def test_an_archive_with_a_pipe_does_not_hang(tmp_path: Path) -> None:
    """PyTorch would extract the pipe, and wait for someone to write to it."""
    with tarfile.open(tmp_path / "x.pt", "w") as archive:
        for name in ("storages", "tensors", "pickle"):
            member = tarfile.TarInfo(name)
            member.type = tarfile.FIFOTYPE
            archive.addfile(member)
    with pytest.raises(UserError, match=r"x.pt: in the tar format of PyTorch before 0.2.*save it again"):
        load_model(tmp_path / "x.pt")


@pytest.mark.fault(3)
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model_name", 3), ("model_config", "x"), ("model_config", [[]]), ("audio_config", None),
        ("text", torch.ones(2)), ("text", {"symbols": 5, "cleaners": "x"}), ("text", {"symbols": [1], "cleaners": "x"}),
        ("text", {"symbols": None, "cleaners": "x", "limit": 0}),
        ("text", {"symbols": None, "cleaners": "x", "limit": "1"}),
        ("state_dict", "x"), ("state_dict", {1: torch.ones(1)}), ("state_dict", {"embedding.weight": None}),
        ("average", 3), ("average", {"embedding.weight": 1.5}), ("average", torch.ones(2)), ("optimizer", [1]),
        ("scaler", torch.ones(2)), ("progress", {"step": "x"}), ("progress", {"x": 1}), ("rng", torch.ones(2)),
        ("rng", [3]), ("config", "x"),
    ],
)  # fmt: skip
def test_odd_fields_of_a_checkpoint_are_named(field: str, value: Any, waveglow_run: Path, tmp_path: Path) -> None:
    state = torch.load(checkpoints.find(waveglow_run), weights_only=True)
    torch.save(state | {field: value}, tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"x.pt: (incomplete|.*audio)"):
        load_model(tmp_path / "x.pt")


@pytest.mark.fault(3)
def test_odd_metadata_of_safetensors_are_named(tmp_path: Path) -> None:
    convert(golden_path("dle_tacotron2.pt"), tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for key, text in itertools.product(
        ("model_config", "audio_config", "text", "model_name"), ("", "[" * 100_000, "3")
    ):
        safetensors.torch.save_file(tensors, tmp_path / "y.safetensors", metadata | {key: text})
        with pytest.raises(UserError, match=r"y.safetensors: not a readable safetensors file"):
            load_model(tmp_path / "y.safetensors")
    for text in ("null", '{"symbols": ["a"], "cleaners": "english_cleaners"}'):
        safetensors.torch.save_file(tensors, tmp_path / "y.safetensors", metadata | {"text": text})
        with pytest.raises(UserError, match=r"y.safetensors: damaged, it does not name 148 symbols"):
            Synthesizer.load(tmp_path / "y.safetensors", device="cpu")


@pytest.mark.fault(3)
def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path) -> None:
    def error(content: Any) -> str:
        torch.save(content, tmp_path / "x.pt")
        with pytest.raises(UserError, match=re.escape(str(tmp_path / "x.pt"))) as caught:
            load_model(tmp_path / "x.pt")
        return str(caught.value)

    assert "no weights were found" in error([1, 2])
    assert "no weights were found" in error({"epoch": 3})
    assert "not those of a tacotron2 or a waveglow" in error({"state_dict": {"fc.weight": torch.ones(2)}})
    assert "not those of a tacotron2" in error(nn.Linear(2, 2))
    state = golden("dle_tacotron2.pt")
    lacking = {key: value for key, value in bare(state).items() if "location_conv" not in key}
    assert "lacks 'decoder.attention_layer.location_layer.location_conv.conv.weight'" in error({"state_dict": lacking})
    assert "unexpected gst.weight" in error({"state_dict": bare(state) | {"gst.weight": torch.ones(2)}})
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), tmp_path / "script.pt")
    with pytest.raises(UserError, match="TorchScript program"):
        load_model(tmp_path / "script.pt")
    for content in (b"", b"rubbish" * 99, golden_path("dle_tacotron2.pt").read_bytes()[:9999]):
        (tmp_path / "x.pt").write_bytes(content)
        with pytest.raises(UserError, match="not a readable checkpoint"):
            load_model(tmp_path / "x.pt")
    (tmp_path / "x.safetensors").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_model(tmp_path / "x.safetensors")


# ---- conversion ----


def convert(*arguments: object, expect: int = 0) -> Result:
    return run_here("scripts/convert_checkpoint.py", *arguments, expect=expect)


def equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return list(ours) == list(theirs) and all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize("name", ["dle_tacotron2.pt", "dle_waveglow.pt"])
def test_round_trips_are_exact(name: str, tmp_path: Path) -> None:
    """Convert with the script: reference -> ours -> reference, and ours -> safetensors -> ours."""
    for source, target in (
        (golden_path(name), "ours.pt"),
        (tmp_path / "ours.pt", "reference.pt"),
        (tmp_path / "ours.pt", "ours.safetensors"),
        (tmp_path / "ours.safetensors", "again.pt"),
        (tmp_path / "reference.pt", "back.pt"),
    ):
        convert(source, tmp_path / target)
    original = golden(name)
    written = torch.load(tmp_path / "reference.pt", weights_only=True)
    assert written.keys() == original.keys()
    assert written["epoch"] == original["epoch"]
    assert written["config"] == original["config"]
    assert equal(
        written["state_dict"], bare(original)
    )  # the same keys in the same order: the reference loads it with strict=True
    ours = checkpoints.load(tmp_path / "ours.pt")
    for other in ("again.pt", "back.pt"):
        state = checkpoints.load(tmp_path / other)
        assert equal(state.state_dict, ours.state_dict)
        assert state.description() == ours.description()
    with safetensors.safe_open(tmp_path / "ours.safetensors", "pt") as file:
        assert json.loads(file.metadata()["model_config"]) == ours.model_config
        assert json.loads(file.metadata()["audio_config"])["hop_length"] == 256
    model = load_model(tmp_path / "ours.safetensors")
    assert equal(model.state_dict(), ours.state_dict)


@pytest.mark.parametrize("script", ["convert_checkpoint", "average_checkpoints"])
def test_nothing_is_written_among_the_checkpoints_of_a_run(script: str, waveglow_run: Path, tmp_path: Path) -> None:
    """A run would try to resume from it."""
    checkpoints.link(checkpoints.find(waveglow_run), tmp_path / "step_00000004.pt")
    for target in (waveglow_run / "checkpoints/mean.pt", tmp_path / "step_00000099.pt"):
        arguments = (target, waveglow_run) if script == "average_checkpoints" else (waveglow_run, target)
        fails_with(run_here(f"scripts/{script}.py", *arguments, expect=1), f"{target} would be among the checkpoints")
        assert not target.exists()


def test_half_the_bytes(tmp_path: Path) -> None:
    source = golden_path("dle_tacotron2.pt")
    convert(source, tmp_path / "whole.safetensors")
    convert(source, tmp_path / "half.safetensors", "--half")
    sizes = [(tmp_path / name).stat().st_size for name in ("whole.safetensors", "half.safetensors")]
    assert sizes[1] < 0.55 * sizes[0]
    whole, half = (load_model(tmp_path / name).state_dict() for name in ("whole.safetensors", "half.safetensors"))
    for key, value in whole.items():
        assert half[key].dtype == value.dtype
        torch.testing.assert_close(half[key], value, rtol=1e-3, atol=1e-6)
    fails_with(
        convert(source, tmp_path / "other.pt", "--half", expect=1), "--half is for safetensors, not for layout ours"
    )


@pytest.mark.parametrize("run", ["tacotron2_run", "waveglow_run"])
def test_a_run_goes_to_the_reference_with_its_optimizer(
    run: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Parameters have the same order in the reference, so Adam's averages stay with the right ones."""
    run_dir = request.getfixturevalue(run)
    convert(run_dir, tmp_path / "x.pt")
    written = torch.load(tmp_path / "x.pt", weights_only=True)
    ours = checkpoints.load(checkpoints.find(run_dir))
    kept = {key: value for key, value in ours.state_dict.items() if not key.startswith("postfilter.")}
    assert equal(written["state_dict"], kept)
    order = [key.removeprefix("module.") for key in golden(f"dle_{run.removesuffix('_run')}.pt")["state_dict"]]
    theirs = [key for key in order if key in written["state_dict"]]  # the golden WaveGlow has more layers
    assert theirs == list(written["state_dict"])
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    parameters = [value for key, value in written["state_dict"].items() if not key.endswith(buffers)]
    state = written["optimizer"]["state"]
    assert len(state) == len(parameters)
    assert all(state[i]["exp_avg"].shape == parameter.shape for i, parameter in enumerate(parameters))
    assert written["random_rng_states_all"].shape[0] == written["cuda_rng_state_all"].shape[0] == 1


def test_settings_of_synthesis_are_named_when_lost(tmp_path: Path) -> None:
    state = interchange.load(golden_path("dle_waveglow.pt"), MODELS.values())
    for name, settings in (("a", {}), ("b", {"match_mel": 3, "sigma": 0.6})):
        changed = dataclasses.replace(state, model_config=state.model_config | settings)
        checkpoints.save(tmp_path / f"{name}.pt", changed)
        warned = convert(tmp_path / f"{name}.pt", tmp_path / f"{name}_theirs.pt").stdout
        for key in ("sigma=0.6", "match_mel=3"):
            assert (f"warning: this layout has no place for model.{key}\n" in warned) == bool(settings)


def test_models_outside_the_reference_are_refused(tmp_path: Path) -> None:
    state = interchange.load(golden_path("dle_tacotron2.pt"), MODELS.values())
    state.model_config["prenet_dropout"] = 0.25
    checkpoints.save(tmp_path / "x.pt", state)
    result = convert(tmp_path / "x.pt", tmp_path / "y.pt", expect=1)
    fails_with(result, "model.prenet_dropout=0.25", "always 0.5", "safetensors")
    (tmp_path / "mine.pt").write_text("mine")
    fails_with(convert(tmp_path / "x.pt", tmp_path / "mine.pt", expect=1), "mine.pt exists already")
    assert (tmp_path / "mine.pt").read_text() == "mine"
    fails_with(convert(tmp_path / "none.pt", tmp_path / "y.pt", expect=1), "none.pt: no such file")
    assert not (tmp_path / "y.pt").exists()


def test_symbols_and_audio_can_be_named(tmp_path: Path) -> None:
    """A reference file of a Tacotron 2 with other symbols does not store them; it is usable once they are given."""
    model = Tacotron2(Tacotron2Config(n_symbols=4, prenet_dim=8, decoder_rnn_dim=8))
    torch.save({"state_dict": model.state_dict(), "iteration": 1}, tmp_path / "x.pt")
    assert load_model(tmp_path / "x.pt").config.n_symbols == 4
    with pytest.raises(UserError, match=r"its 4 symbols are not the reference's.*--symbols"):
        Synthesizer.load(tmp_path / "x.pt", device="cpu")
    (tmp_path / "symbols.json").write_text('["_", "ä", "b", "c", "d"]')
    options = ("--symbols", tmp_path / "symbols.json", "--cleaners", "basic_cleaners", "--audio", "fmax=7600")
    result = convert(tmp_path / "x.pt", tmp_path / "y.pt", *options, expect=1)
    fails_with(result, "5 symbols, 5 of them different; the model needs 4")
    (tmp_path / "symbols.json").write_text('["_", "ä", "b", "c"]')
    convert(tmp_path / "x.pt", tmp_path / "y.pt", *options)
    voice = Synthesizer.load(tmp_path / "y.pt", device="cpu")
    voice.tacotron2.postfilter.gain[3] = 1.5
    state = dataclasses.replace(checkpoints.load(tmp_path / "y.pt"), state_dict=voice.tacotron2.state_dict())
    checkpoints.save(tmp_path / "measured.pt", state)
    warned = convert(tmp_path / "measured.pt", tmp_path / "back.pt").stdout
    for lost in ("audio.fmax=7600.0", "its postfilter", "its symbols", "cleaners basic_cleaners"):
        assert f"warning: this layout has no place for {lost}\n" in warned
    assert voice.audio.fmax == 7600
    assert voice.ids("Äb cä") == [1, 2, 3, 1]


def test_models_of_different_audio_are_not_chained(tmp_path: Path) -> None:
    """A Tacotron 2 with 80 mel channels does not fit a WaveGlow with 16."""
    with pytest.raises(UserError, match=r"cannot be chained: audio.n_mels is 80, the WaveGlow's 16"):
        Synthesizer.load(golden_path("dle_tacotron2.pt"), golden_path("dle_waveglow.pt"), device="cpu")


# ---- training from a checkpoint ----


def tiny_task(*overrides: str) -> tuple[Task, TrainConfig]:
    values = composed("train", "model=tacotron2", "data.root=x", "run_dir=x", *TINY, *overrides)
    config = from_dict(TrainConfig, values)
    return build_task(config), config


def target_of(task: Task, config: TrainConfig) -> Target:
    return Target(task.build_model(), task.spec, task.model_config, config.audio, task.text)


def start(*overrides: str, warm_start: bool = False) -> tuple[Tacotron2, str]:
    task, config = tiny_task(*overrides)
    target = target_of(task, config)
    note = initialize(target, str(golden_path("dle_tacotron2.pt")), warm_start)
    assert isinstance(target.model, Tacotron2)
    return target.model, note


def theirs() -> dict[str, Tensor]:
    return interchange.load(golden_path("dle_tacotron2.pt"), MODELS.values()).state_dict


def test_init_from_takes_all_weights() -> None:
    model, note = start()
    assert "all weights" in note
    assert equal(model.state_dict(), theirs())


@pytest.mark.fault(5)
def test_another_size_is_refused_with_its_cure(waveglow_run: Path) -> None:
    with pytest.raises(UserError, match=r"the checkpoint has .*model.prenet_dim=24.*warm_start=true"):
        start("model.prenet_dim=20")
    with pytest.raises(UserError, match=r"audio.fmax is 7600.0, in the checkpoint 8000.0"):
        start("audio.fmax=7600")
    with pytest.raises(
        UserError,
        match=r"the checkpoint has model.mel_mean=0.0 model.mel_std=1.0; set model.mel_mean=0.0 model.mel_std=1.0, or",
    ):
        start("model.mel_mean=-5.5", "model.mel_std=2")
    values = checkpoints.load(checkpoints.find(waveglow_run)).config
    values = values | {"model": values["model"] | {"mdct": True, "match_mel": 3}}
    task = build_task(config := from_dict(TrainConfig, values))
    with pytest.raises(UserError, match=r"the checkpoint has model.mdct=False; set model.mdct=False, or"):
        initialize(target_of(task, config), str(waveglow_run), False)


def test_files_of_a_later_version_are_refused(waveglow_run: Path, tmp_path: Path) -> None:
    convert(waveglow_run, tmp_path / "x.safetensors")
    with safe_open(tmp_path / "x.safetensors", "pt") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    found = checkpoints.FAMILY + "99"
    safetensors.torch.save_file(tensors, tmp_path / "y.safetensors", metadata | {"format": found})
    with pytest.raises(UserError, match=rf"y.safetensors: its format is '{found}', this version reads"):
        load_model(tmp_path / "y.safetensors")


def test_other_cleaners_are_reported() -> None:
    assert (
        "data.cleaners=english_arpabet, the checkpoint was trained with english_cleaners"
        in start("data.cleaners=english_arpabet")[1]
    )
    assert "cleaners" not in start()[1]


CHARACTERS = " abcdefghijklmnopqrstuvwxyzäß"


@pytest.mark.fault(5)
def test_warm_start_maps_symbols_one_by_one() -> None:
    difference = r"only this run has 'ä' 'ß', only the checkpoint has '-' '!' .*; set warm_start=true"
    with pytest.raises(UserError, match=difference):
        start(f"data.characters='{CHARACTERS}'")
    model, note = start(f"data.characters='{CHARACTERS}'", warm_start=True)
    expected = theirs()
    symbols = ["_", *CHARACTERS, *SYMBOLS[64:]]
    rows = model.embedding.weight.detach()
    assert len(rows) == len(symbols)
    for row, symbol in zip(rows, symbols, strict=True):
        if symbol in SYMBOLS:
            assert torch.equal(row, expected["embedding.weight"][SYMBOLS.index(symbol)]), symbol
        else:
            assert not (row == expected["embedding.weight"]).all(1).any(), symbol
    assert "new rows for 'ä' 'ß'" in note
    assert equal(
        {key: value for key, value in model.state_dict().items() if key != "embedding.weight"},
        {key: value for key, value in expected.items() if key != "embedding.weight"},
    )


@pytest.mark.fault(5)
def test_warm_start_onto_another_number_of_mels() -> None:
    with pytest.raises(UserError, match=r"audio.n_mels is 64, in the checkpoint 80"):
        start("audio.n_mels=64")
    with pytest.raises(UserError, match=r"set audio.n_mels=80 model.prenet_dim=24, or"):
        start("audio.n_mels=64", "model.prenet_dim=12")
    model, note = start("audio.n_mels=64", warm_start=True)
    expected = theirs()
    ours = model.state_dict()
    left = {key for key, value in ours.items() if value.shape != expected[key].shape}
    assert left == set(re.findall(r"^  not taken: (\S+) \(", note, re.MULTILINE))
    assert "decoder.linear_projection.linear_layer.weight (64, 72), the checkpoint's is (80, 72)" in note
    assert all(torch.equal(value, expected[key]) for key, value in ours.items() if key not in left)


WAVEGLOW = ["audio.n_mels=16", "model.n_channels=16", "model.n_layers=3"]


def test_a_waveglow_starts_from_a_pickled_module() -> None:
    def start_waveglow(*overrides: str, warm_start: bool = False) -> tuple[nn.Module, str]:
        values = composed("train", "model=waveglow", "data.root=x", "run_dir=x", *WAVEGLOW, *overrides)
        config = from_dict(TrainConfig, values)
        target = target_of(build_task(config), config)
        return target.model, initialize(target, str(golden_path("nvidia_waveglow_pickled.pt")), warm_start)

    model, _ = start_waveglow()
    torch.testing.assert_close(latent(model), golden("nvidia_waveglow_pickled_io.pt")["z"], atol=1e-4, rtol=0)
    with pytest.raises(UserError, match=r"the checkpoint has .*model.n_flows=12"):
        start_waveglow("model.n_flows=8")
    model, note = start_waveglow("model.n_flows=8", warm_start=True)
    assert "not taken: WN.8.start.bias, this model has none" in note
    expected = load_model(golden_path("nvidia_waveglow_pickled.pt"))
    assert torch.equal(model.get_parameter("upsample.weight"), expected.get_parameter("upsample.weight"))


def test_training_continues_from_a_reference_checkpoint(corpus: Path, tmp_path: Path) -> None:
    command = train_command(
        corpus, tmp_path / "run", ["model=tacotron2", *TINY], f"init_from={golden_path('dle_tacotron2.pt')}"
    )
    first = run_here(*command, "trainer.max_steps=1")
    assert f"initialized with all weights of {golden_path('dle_tacotron2.pt')}" in first.stdout
    second = run_here(*command, "trainer.max_steps=2")
    assert "resumed from" in second.stdout
    assert "was only for the start of the run" in second.stdout
    trained = load_model(tmp_path / "run").state_dict()
    theirs = bare(golden("dle_tacotron2.pt"))
    averages = ("running_mean", "running_var", "num_batches_tracked")
    moved = max(float((trained[key] - theirs[key]).abs().max()) for key in theirs if not key.endswith(averages))
    assert 0 < moved < 0.01  # two steps of Adam from there, not from random weights
    result = run_here(*train_command(corpus, tmp_path / "b", ["model=tacotron2"], "init_from=nowhere.pt"), expect=1)
    fails_with(result, "nowhere.pt: no such file")
    result = run_here(*train_command(corpus, tmp_path / "b", ["model=tacotron2"], "warm_start=true"), expect=1)
    fails_with(result, "warm_start=true", "init_from=CHECKPOINT")
