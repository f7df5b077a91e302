"""Typed options: dataclasses built from dictionaries, every value checked against its type and its range.

The type of an option says which values it accepts: int, float (always finite), bool, str, a Literal of choices, one of
the ranges below, `X | None`, `list[X]`, `dict`, or another dataclass. A wrong key or value raises a UserError with the
key and the cure.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from common.errors import UserError, did_you_mean

T = TypeVar("T")
UNIONS = (types.UnionType, typing.Union)
LARGEST_FLOAT = sys.float_info.max
LARGEST_INT = 2**63 - 1  # PyTorch's integers have 64 bits
REQUIRED = "???"  # marks a key in a YAML file that the user must set


@dataclass(frozen=True)
class Range:
    """The bounds of a number. `above` and `below` are excluded, `least` and `most` are included."""

    least: float | None = None
    above: float | None = None
    below: float | None = None
    most: float | None = None

    def problem(self, value: float) -> str:
        """Describe what is wrong with `value`; empty if it is within the bounds."""
        bounds = {
            "at least": (self.least, self.least is None or value >= self.least),
            "more than": (self.above, self.above is None or value > self.above),
            "less than": (self.below, self.below is None or value < self.below),
            "at most": (self.most, self.most is None or value <= self.most),
        }
        if all(holds for _, holds in bounds.values()):
            return ""
        return "must be " + " and ".join(
            f"{word} {bound:,}" for word, (bound, _) in bounds.items() if bound is not None
        )


Count = Annotated[int, Range(least=1)]
Index = Annotated[int, Range(least=0)]  # or a count that may be 0
Positive = Annotated[float, Range(above=0)]
NonNegative = Annotated[float, Range(least=0)]
Probability = Annotated[float, Range(least=0, below=1)]  # below 1, because dropout must not drop everything
Share = Annotated[float, Range(least=0, below=1)]  # a part of a whole, and not all of it
Seed = Annotated[int, Range(least=0, most=2**32 - 1)]


class Options:
    """Base class of option dataclasses. `section` is the config group that messages name."""

    section: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            check(getattr(self, name), hint, key(type(self), name))


def key(cls: type[Any], name: str) -> str:
    """The name of an option as the user writes it: "trainer.batch_size"."""
    return f"{cls.section}.{name}" if cls.section else name


def from_dict(cls: type[T], values: Mapping[str, Any]) -> T:
    """Build the Options class `cls`; an int is accepted for a float or str, nothing else is converted."""
    hints = _hints(cls)
    for name, value in values.items():
        if name not in hints:
            near = did_you_mean(key(cls, name), [key(cls, known) for known in hints])
            raise UserError(f"unknown config key '{key(cls, name)}' (value {value!r}){near}")
    arguments = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type] # cls is a dataclass
        if field.name in values:
            arguments[field.name] = _convert(values[field.name], hints[field.name], key(cls, field.name))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(missing(key(cls, field.name)))
    return cls(**arguments)


def missing(name: str) -> str:
    """The message for an option that has no value."""
    return f"config key '{name}' has no value; set it with {name}=VALUE"


def _hints(cls: type[Any]) -> dict[str, Any]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def _convert(value: Any, hint: Any, name: str) -> Any:
    """Convert `value` to the type `hint`; ranges and choices are checked when the dataclass is created."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(value, str) and value == REQUIRED:
        raise UserError(missing(name))
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise UserError(f"config key '{name}' is {value!r}; it is a group of keys: set {name}.KEY=VALUE")
        return from_dict(typing.cast(type[Any], hint), value)
    if origin is Annotated:
        return _convert(value, arguments[0], name)
    if origin is Literal:
        return _convert(value, str, name)
    if origin in UNIONS:  # only `X | None` is used
        return None if value is None else _convert(value, arguments[0], name)
    if origin is list and isinstance(value, list | tuple):
        return [_convert(item, arguments[0], f"{name}[{i}]") for i, item in enumerate(value)]
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if hint is float and type(value) is int:
        return float(value) if abs(value) <= LARGEST_FLOAT else math.inf  # which `check` refuses
    if hint is str and type(value) is int:  # run_dir=2024
        return str(value)
    if hint is str and value == "":
        raise UserError(f"config key '{name}' is empty; set it with {name}=VALUE")
    if origin is None and type(value) is hint:
        return value
    expected = getattr(hint, "__name__", str(hint))
    quotes = f"; put text that looks like a number in quotes: {name}='\"1e5\"'" if hint is str else ""
    raise UserError(f"config key '{name}' is {value!r} ({type(value).__name__}); it must be of type {expected}{quotes}")


def check(value: Any, hint: Any, name: str) -> None:
    """Raise a UserError if `value` is infinite, NaN, or outside the range or choices of its type."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    is_number = isinstance(value, numbers.Real)  # also one of NumPy's
    if value is None:
        return
    if origin in UNIONS:
        check(value, arguments[0], name)
    elif origin is list:
        for i, item in enumerate(value):
            check(item, arguments[0], f"{name}[{i}]")
    elif origin is Literal and value not in arguments:
        raise UserError(f"{name}={value!r} is unknown{did_you_mean(str(value), arguments)}")
    elif is_number and not -math.inf < value < math.inf:
        raise UserError(f"{name}={value} must be a finite number")
    elif isinstance(value, int) and abs(value) > LARGEST_INT:
        raise UserError(f"{name} must be at most {LARGEST_INT:,}; its value has {len(str(value))} digits")
    elif origin is Annotated and not is_number:
        raise UserError(f"{name}={value!r} must be a number")
    elif origin is Annotated and (problem := arguments[1].problem(value)):
        raise UserError(f"{name}={value} {problem}")
