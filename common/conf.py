"""The YAML files in conf/."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from common.errors import UserError

CONF = Path(__file__).resolve().parent.parent / "conf"
GLOBAL = "# @package _global_"  # the first line of a file whose keys are those of the whole config


def read_yaml(name: str) -> dict[str, Any]:
    """Load conf/<name>.yaml without resolving its interpolations. Raises UserError if it is not a YAML mapping."""
    import yaml
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    path = CONF / f"{name}.yaml"
    try:
        values = OmegaConf.to_container(OmegaConf.create(path.read_text(encoding="utf-8")))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{path}{line}: not YAML ({error.problem}); correct that line") from error
    except (OSError, ValueError, yaml.YAMLError, OmegaConfBaseException, RecursionError) as error:
        raise UserError(f"{path}: not readable as YAML ({_one_line(error)}); correct the file") from error
    if not isinstance(values, dict) or not isinstance(values.get("defaults", []), list):
        raise UserError(f"{path}: it must hold lines KEY: VALUE, and defaults, if it is there, a list")
    return {str(key): value for key, value in values.items()}


def bases(name: str) -> list[str]:
    """The names of the files that conf/<name>.yaml, a choice of a group, starts from."""
    defaults = read_yaml(name).get("defaults", [])
    return [f"{name.split('/')[0]}/{base}" for base in defaults if isinstance(base, str) and base != "_self_"]


def keys_of(name: str) -> set[str]:
    """The keys of conf/<name>.yaml, a choice of a group, with those of the files that it starts from."""
    return {*read_yaml(name)}.difference(["defaults"]).union(*map(keys_of, bases(name)))


def check_global(group: str, choice: str) -> None:
    """Raise a UserError if the keys of conf/<group>/<choice>.yaml would not be those of the whole config."""
    path = CONF / group / f"{choice}.yaml"
    if path.is_file() and not re.search(
        rf"^{GLOBAL}", path.read_text(encoding="utf-8", errors="replace"), re.MULTILINE
    ):
        raise UserError(f"{path}: its first line must be '{GLOBAL}', because its keys are those of the whole config")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
