"""Reads files that torch.save wrote elsewhere, without importing or running the code that they name.

A pickle can call any function by name, and set attributes of any object that it can name: of PyTorch's functions, for
the rest of the process. Here only functions on a short list can be called: they rebuild tensors and Python's
containers, or stand for values that are dropped (NumPy values, paths, dates). An instance of any other class becomes a
Foreign, a dict that keeps the instance's attributes apart and has no behavior. Any other call is refused, and so are
attributes of anything else. This way the weights of a pickled module can be read, but a payload never runs.
"""

from __future__ import annotations

import functools
import pickle
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from common.errors import UserError, first_line


class _RefusedError(pickle.UnpicklingError):
    """The pickle tries to make a call that is not allowed."""


class _Inert(type):
    """The metaclass of foreign classes. Instances need no call (NEWOBJ), so a call may be a payload and is refused."""

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise _RefusedError(f"it would call {cls.__name__}")


class Foreign(dict[Any, Any], metaclass=_Inert):
    """What is left of an instance of an unknown class: its items and its attributes."""

    attributes: Mapping[str, Any] = MappingProxyType({})

    def append(self, item: Any) -> None:
        """Ignore an item of a list subclass; no such list holds weights."""

    def extend(self, items: Any) -> None:
        """Ignore items, as `append` does."""


class _Ignored:
    """Replaces values that are not part of a weight: NumPy values, paths, dates."""

    def __init__(self, *_: Any) -> None:
        pass


def _tensor(data: Tensor, *_: Any) -> Tensor:
    """The tensor of a parameter, without gradients, hooks and attributes."""
    return data


def _of_type(function: Any, _: Any, arguments: tuple[Any, ...], __: Any) -> Any:
    """Rebuild a tensor that had attributes; `function` has passed `find_class` like everything else."""
    return function(*arguments)


def _empty_dict(*_: Any) -> dict[Any, Any]:
    """Return a plain dict in place of a defaultdict, whose factory is dropped."""
    return {}


_KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): _empty_dict,
    ("torch", "Size"): torch.Size,
    ("torch", "device"): torch.device,
    ("torch._utils", "_rebuild_tensor"): torch._utils._rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
    ("torch._utils", "_rebuild_parameter"): _tensor,
    ("torch._utils", "_rebuild_parameter_with_state"): _tensor,
    ("torch._tensor", "_rebuild_from_type_v2"): _of_type,
    **{(module, name): kind for module in ("builtins", "__builtin__") for name, kind in
       {"set": set, "frozenset": frozenset, "complex": _Ignored, "slice": _Ignored, "bytearray": _Ignored}.items()},
    **{(module, name): _Ignored for module, names in {
        "_codecs": ("encode",),
        "numpy": ("dtype",),
        "numpy.core.multiarray": ("scalar", "_reconstruct"),
        "numpy._core.multiarray": ("scalar", "_reconstruct"),
        "pathlib": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),
        "pathlib._local": ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath"),  # Python 3.13
        "datetime": ("datetime", "date", "timedelta"),
    }.items() for name in names},
}  # fmt: skip


class _Unpickler(pickle._Unpickler):
    """Written in Python, because what an opcode does cannot be changed in pickle.Unpickler, which is written in C."""

    stack: list[Any]

    def load_build(self) -> None:
        """The opcode that sets the attributes of an object."""
        state = self.stack.pop()
        built = self.stack[-1]
        if isinstance(built, Foreign):
            parts = state if isinstance(state, tuple) else (state,)  # of a class with slots, a second dict has theirs
            found = {str(k): v for part in parts if isinstance(part, dict) for k, v in part.items()}
            built.attributes = {**built.attributes, **found}
        elif not isinstance(built, OrderedDict | _Ignored):  # of these, no attribute is needed
            raise _RefusedError(f"it would set attributes of a {type(built).__name__}")

    dispatch: ClassVar[dict[int, Any]] = {**pickle._Unpickler.dispatch, pickle.BUILD[0]: load_build}

    def __setattr__(self, name: str, value: Any) -> None:
        """Wrap `persistent_load`, which torch.load sets to find storages and modules."""
        super().__setattr__(name, functools.partial(_without_source, value) if name == "persistent_load" else value)

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _KNOWN:
            return _KNOWN[module, name]
        if module == "torch" and isinstance(dtype := getattr(torch, name, None), torch.dtype):
            return dtype
        return _Inert(f"{module}.{name}", (Foreign,), {})


def _without_source(persistent_load: Any, saved_id: tuple[Any, ...]) -> Any:
    """Drop the source code that the old format stores with a module, because torch.load would warn about it."""
    is_module = saved_id[0] in ("module", b"module")
    return persistent_load((*saved_id[:2], None, None) if is_module else saved_id)


def _load_pickle(file: Any, **options: Any) -> Any:
    return _Unpickler(file, **options).load()


def load(path: Path) -> Any:
    """Load a file that torch.save wrote, in the zip format or the older one, on the CPU.

    Raise a UserError if the file cannot be read or would make a call that is not allowed.
    """
    try:
        if _is_tar(path):
            raise UserError(
                f"checkpoint {path}: in the tar format of PyTorch before 0.2, which is not read; load it with PyTorch "
                "and save it again"
            )
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                    raise UserError(f"checkpoint {path}: a TorchScript program, which is not run; save its state_dict")
        reader = SimpleNamespace(Unpickler=_Unpickler, load=_load_pickle, __name__="pickle")
        return torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    except UserError:
        raise
    except _RefusedError as error:
        raise UserError(
            f"checkpoint {path}: refused without running any of its code ({first_line(error)}); get it from another "
            "source, or save its state_dict alone"
        ) from error
    except Exception as error:  # damage can raise anything, from a zip error to an IndexError
        raise UserError(
            f"checkpoint {path}: not a readable checkpoint, because it is damaged or not written by torch.save "
            f"({first_line(error)}); use another one"
        ) from error


def _is_tar(path: Path) -> bool:
    """Whether torch.load would extract the file as an archive, which may hold links and pipes."""
    try:
        with tarfile.open(path, "r:"):
            return True
    except tarfile.TarError:
        return False


def flatten(module: Foreign) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (state_dict, settings) of a pickled nn.Module, by dotted names.

    state_dict holds its parameters and buffers, settings its attributes that are numbers, bools or tuples.
    """
    state_dict: dict[str, Tensor] = {}
    settings: dict[str, Any] = {}

    def items(node: Foreign, kind: str) -> Iterable[tuple[Any, Any]]:
        found = node.attributes.get(kind)
        return found.items() if isinstance(found, dict) else ()

    def visit(node: Foreign, prefix: str, outer: tuple[int, ...]) -> None:
        if id(node) in outer:  # it contains itself
            return
        for kind in ("_parameters", "_buffers"):
            for name, value in items(node, kind):
                if isinstance(value, Tensor):
                    state_dict[f"{prefix}{name}"] = value
        for name, value in node.attributes.items():
            if isinstance(value, int | float | tuple):
                settings[prefix + name] = value
        for name, child in items(node, "_modules"):
            if isinstance(child, Foreign):
                visit(child, f"{prefix}{name}.", (*outer, id(node)))

    visit(module, "", ())
    return state_dict, settings
