"""What every entry script does around its job: compose the Hydra config, and show errors without a traceback."""

from __future__ import annotations

import functools
import os
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import UserError, did_you_mean

FLAGS = ("-h", "--help", "--hydra-help", "--version", "-c", "--cfg", "-p", "--package", "--resolve", "--info")
CONF = Path(__file__).resolve().parent.parent / "conf"


def hydra_entry(config_name: str) -> Callable[[Callable[[dict[str, Any]], None]], Callable[[], None]]:
    """Decorator: call the function with the composed config of conf/<config_name>.yaml as plain containers.

    What the user can mend ends the process with status 1 and one message on standard error.
    """

    def decorate(function: Callable[[dict[str, Any]], None]) -> Callable[[], None]:
        @functools.wraps(function)
        def main() -> None:
            mistakes: list[str] = []  # raised through Hydra they would be printed twice

            def job(config: DictConfig) -> None:
                try:
                    function(_plain(config))
                except UserError as error:
                    mistakes.append(
                        str(error).rsplit("common.errors.UserError: ", 1)[-1]
                    )  # a loader adds its traceback

            warnings.showwarning = _show_warning
            if unknown := [a for a in sys.argv[1:] if a.startswith("-") and a.split("=")[0] not in FLAGS]:
                script = Path(sys.argv[0]).name
                fail(
                    f"unknown option {unknown[0]}: options are KEY=VALUE, python {script} ... --cfg job shows them "
                    'all; README.md, "Coming from the reference", has the new names of its flags'
                )
            sys.argv[1:] = [_quoted(argument) for argument in sys.argv[1:]]
            # Hydra would print its own report and leave; with this it raises, and we can say it in our words.
            os.environ["HYDRA_FULL_ERROR"] = "1"
            try:
                hydra.main(version_base="1.3", config_path=str(CONF), config_name=config_name)(job)()
            except (HydraException, OmegaConfBaseException) as error:
                fail(_explain(str(error), config_name))
            except KeyboardInterrupt:
                fail("interrupted", status=130)
            except RuntimeError as error:
                # A process of a distributed run whose peer has ended; the peer says why.
                if int(os.environ.get("WORLD_SIZE", "1")) > 1 and re.search(r"Connection (closed|reset)", str(error)):
                    fail("another process of this run has ended; see its message")
                raise
            if mistakes:
                fail(mistakes[0])

        return main

    return decorate


def _quoted(argument: str) -> str:
    """KEY=VALUE as Hydra takes it: paths may hold spaces, commas, brackets and the like, and start with ~."""
    key, equals, value = argument.partition("=")
    if not equals or not re.fullmatch(r"[+~\w./@-]+", key) or value[:1] in ("[", "{", "'", '"') or "${" in value:
        return argument
    value = os.path.expanduser(value)
    if re.fullmatch(r"[\w./:+-]*", value, re.ASCII):
        return f"{key}={value}"
    escaped = value.replace("'", "\\'")
    return f"{key}='{escaped}'"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """A warning as a line for the user, without the place in our code."""
    print(f"warning: {message}", file=sys.stderr, flush=True)


def _plain(config: DictConfig) -> dict[str, Any]:
    """Containers without interpolations; a UserError names every key that still needs a value."""
    missing: list[str] = []

    def visit(node: Any, key: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                visit(value, f"{key}.{name}" if key else str(name))
        elif node == "???":
            missing.append(key)

    visit(OmegaConf.to_container(config, resolve=False), "")
    if missing:
        raise UserError("\n".join(f"config key '{key}' has no value: set it with {key}=VALUE" for key in missing))
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def _explain(message: str, config_name: str) -> str:
    """Hydra's message in our words: to an unknown key it would suggest to append it, which is refused later."""
    if unknown := re.match(r"Could not override '([^']+)'", message):
        key = unknown[1]
        value = next((a.split("=", 1)[1] for a in sys.argv if a.lstrip("+~").startswith(f"{key}=")), "?")
        return f"unknown config key '{key}' (value {value}){did_you_mean(key, _known_keys(config_name))}"
    script = Path(sys.argv[0]).name
    return f"config: {message.strip()}\nSee all keys and their values with: python {script} ... --cfg job"


def _known_keys(config_name: str) -> list[str]:
    """The keys of conf/<config_name>.yaml and of the groups in its defaults list."""
    primary = OmegaConf.load(CONF / f"{config_name}.yaml")
    assert isinstance(primary, DictConfig)
    keys = [str(key) for key in primary if key not in ("defaults", "hydra")]
    for entry in primary.defaults:
        names = [str(name).removeprefix("optional ") for name in entry] if isinstance(entry, DictConfig) else []
        for group in (name for name in names if not name.startswith("override ")):
            keys.append(group)
            for file in sorted((CONF / group).glob("*.yaml")):
                names = [str(name) for name in OmegaConf.load(file) if name != "defaults"]
                keys += [f"{group}.{name}" for name in names if f"{group}.{name}" not in keys]
    return keys


def fail(message: str, status: int = 1) -> None:
    """End the process with one message."""
    rank = os.environ.get("RANK", "0")
    if rank != "0":  # rank 0 says it all; the others say so much that a fault of theirs alone is seen
        message = f"rank {rank}: {message.splitlines()[0]}"
    sys.stdout.flush()
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)
