"""The start of every command: the options from conf/ if it uses Hydra, and user errors without a traceback."""

from __future__ import annotations

import errno
import functools
import io
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, TextIO

from common import conf
from common.conf import read_yaml
from common.errors import UserError, did_you_mean
from common.schema import REQUIRED, missing
from common.threads import after_imports, watch

if TYPE_CHECKING:
    from omegaconf import DictConfig

FLAGS = ("--hydra-help", "--version", "-c", "--cfg", "-p", "--package", "--resolve", "--info")
# Hydra must not write log files or change the directory: the commands manage run_dir and output.
QUIET = ("hydra/job_logging=none", "hydra/hydra_logging=none", "hydra.output_subdir=null", "hydra.run.dir=.")
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)  # a write failed
NO_TEXT = ("true", "false", "null", "nan", "inf")  # words that Hydra reads as something else
Job = Callable[[dict[str, Any]], None]


def hydra_entry(config_name: str) -> Callable[[Job], Callable[[], None]]:
    """Decorator: call the function with the options of conf/<config_name>.yaml and the command line, as plain
    containers.

    A user mistake ends the process with status 1 and one message on standard error.
    """

    def decorate(function: Job) -> Callable[[], None]:
        @functools.wraps(function)
        def main() -> None:
            after_imports()
            print_any_character()
            warnings.showwarning = _show_warning
            warnings.filterwarnings("ignore", message="torch.quantize_per_")  # deprecated; precision=int8 uses it
            try:
                command = Command(config_name, sys.argv[1:])
                watch()
                _run(command, function)
            except UserError as error:
                fail(str(error))
            except KeyboardInterrupt:
                fail("interrupted", status=130)
            except RuntimeError as error:
                # In a distributed run this means that another rank has ended; its own message says why.
                if int(os.environ.get("WORLD_SIZE", "1")) > 1 and re.search(r"Connection (closed|reset)", str(error)):
                    fail("another process of this run has ended; see its message")
                raise
            finally:
                print_or_drop("")

        return main

    return decorate


def _run(command: Command, function: Job) -> None:
    if command.flags:  # Hydra prints what they ask for, and runs nothing
        command.show()
        return
    values = command.with_present_names(command.compose())
    try:
        function(values)
    except UserError as error:
        message = str(error).rsplit("common.errors.UserError: ", 1)[-1]  # a loader process adds its traceback
        raise UserError(message) from error
    except OSError as error:
        if not (message := _explained(error)):
            raise
        raise UserError(message) from error


class Command:
    """The command line: KEY=VALUE arguments and a few flags."""

    def __init__(self, config_name: str, arguments: list[str]) -> None:
        self.config_name = config_name
        self.flags = [argument for argument in arguments if argument.startswith("-")]
        script = sys.argv[0]
        if unknown := [flag for flag in self.flags if flag.split("=")[0] not in FLAGS]:
            fail(
                f"unknown option {unknown[0]}: options are KEY=VALUE (python {script} --help explains them all); "
                'docs/reference.md, "Flags", has the new names of old flags'
            )
        if hydras := [a for a in arguments if re.match(r"[+~]*hydra\b", a)]:
            fail(f"{hydras[0]}: Hydra's own settings are fixed; for several runs, run the command several times")
        self.help = f"See all keys with: python {script} --help"
        self.known = self._known()
        self.renamed = {old: new for old, new in read_yaml("renamed").items() if new in self.known}
        self.arguments = [self._with_present_name(_quoted(a, self._is_text(a))) for a in arguments]
        for group in [group for group, choice in self.groups().items() if choice is None]:
            for chosen in [a.split("=", 1)[1] for a in self.arguments if a.startswith(f"{group}=")]:
                conf.check_global(group, chosen)

    def _known(self) -> dict[str, Any]:
        """The keys of the command's YAML file and of the groups in its defaults list, each with a value from there."""
        known = {key: value for key, value in read_yaml(self.config_name).items() if key != "defaults"}
        for group in self.groups():
            known[group] = None
            for file in sorted((conf.CONF / group).glob("*.yaml")):
                for name, value in read_yaml(f"{group}/{file.stem}").items():
                    if name != "defaults":
                        known.setdefault(f"{group}.{name}", value)
        return known

    def _is_text(self, argument: str) -> bool:
        """Whether the value of KEY=VALUE is text, because conf/ has text there, even if it looks like a number."""
        value = self.known.get(argument.split("=")[0].lstrip("+"))
        return isinstance(value, str) and not re.fullmatch(r"\$\{[^}]*\}", value)

    def groups(self) -> dict[str, str | None]:
        """The groups in the command's defaults list, each with its usual choice."""
        entries = [entry for entry in read_yaml(self.config_name).get("defaults", []) if isinstance(entry, dict)]
        return {name: choice for entry in entries for name, choice in entry.items()}

    def compose(self) -> dict[str, Any]:
        """The values of the config, by key."""
        import hydra
        from hydra.core.hydra_config import HydraConfig
        from omegaconf import open_dict

        with self.errors():
            with hydra.initialize_config_dir(str(conf.CONF), version_base="1.3"):
                config = hydra.compose(self.config_name, self.arguments, return_hydra_config=True)
            HydraConfig.instance().set_config(config)  # conf/debug has the chosen model from it
            with open_dict(config):
                del config.hydra
            return _plain(config)

    def show(self) -> None:
        """Let Hydra do what its flags say, such as --cfg job."""
        import hydra

        options_first = sorted(self.arguments, key=lambda a: a.startswith("-") or "=" not in a)  # Hydra wants them so
        sys.argv[1:] = [*QUIET, *options_first]
        os.environ["HYDRA_FULL_ERROR"] = "1"  # let Hydra raise its errors instead of printing them
        with self.errors():
            hydra.main(version_base="1.3", config_path=str(conf.CONF), config_name=self.config_name)(lambda _: None)()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Raise a UserError with one message if Hydra refuses the command line."""
        try:
            yield
        except UserError:
            raise
        except Exception as error:  # of many kinds, for YAML that Hydra does not expect, or model=1
            raise UserError(self.explain(str(error))) from error

    def explain(self, message: str) -> str:
        """Rewrite Hydra's message. For an unknown key, Hydra suggests appending it, which would be refused later."""
        if missing := re.search(r"Could not (?:find|load) '([^/']+)/([^']*)'", message):
            group, choice = missing.groups()
            choices = sorted(file.stem for file in (conf.CONF / group).glob("*.yaml"))
            return f"config: {group}={choice} is unknown{did_you_mean(choice, choices)}"
        if not (unknown := re.match(r"Could not override '([^']+)'", message)):
            return f"config: {message.strip()}\n{self.help}"
        key = unknown[1]
        value = next((a.split("=", 1)[1] for a in self.arguments if a.lstrip("+~").startswith(f"{key}=")), "?")
        group, _, name = key.partition(".")
        files = sorted((conf.CONF / group).glob("*.yaml"))
        owners = [file.stem for file in files if name in conf.keys_of(f"{group}/{file.stem}")]
        if owners and group in self.known:
            chosen = [a for a in self.arguments if a.split("=")[0] in ("model", group)]
            return (
                f"config key '{key}' (value {value}) is not an option of {' '.join(chosen) or f'this {group}'}; "
                f"only these have it: {', '.join(f'{group}={owner}' for owner in owners)}"
            )
        return f"unknown config key '{key}' (value {value}){did_you_mean(key, self.known)}"

    def _with_present_name(self, argument: str) -> str:
        key, equals, value = argument.partition("=")
        new = self.renamed.get(key.lstrip("+"))
        if not equals or new is None:
            return argument
        _note_renamed(key, new)
        return f"{new}={value}"

    def with_present_names(self, values: dict[str, Any]) -> dict[str, Any]:
        """Return `values` with the old keys of a user's YAML file moved to their present names."""
        given = {argument.split("=")[0] for argument in self.arguments}
        for old, new in self.renamed.items():
            place, name = _find(values, old)
            if name in place:
                value = place.pop(name)
                _note_renamed(old, new)
                place, name = _find(values, new)
                if new not in given:  # the command line wins
                    place[name] = value
        return values


def _find(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The dictionary that holds a dotted key, and the last part of the key."""
    *groups, name = key.split(".")
    for group in groups:
        values = values.get(group, {})
        if not isinstance(values, dict):  # refused later
            return {}, name
    return values, name


def _note_renamed(old: str, new: str) -> None:
    print(f"note: {old} is now called {new}; the old name will be an error in version 0.3", file=sys.stderr)


def _quoted(argument: str, is_text: bool = False) -> str:
    """Quote KEY=VALUE for Hydra, so that a path may contain spaces, commas and brackets, and may start with ~.

    With `is_text`, also so that 1e5 and true stay text.
    """
    key, equals, value = argument.partition("=")
    if not equals or not re.fullmatch(r"[+~\w./@-]+", key) or value[:1] in ("[", "{", "'", '"') or "${" in value:
        return argument
    value = os.path.expanduser(value)
    if re.fullmatch(r"[\w./:+-]*", value, re.ASCII) and (not is_text or value.lower() in ("", "null")):
        return f"{key}={value}"
    return text_option(key, value)


def text_option(key: str, value: str) -> str:
    """KEY=VALUE as Hydra reads it to the same text, whatever signs it has."""
    if re.fullmatch(r"[A-Za-z_/][\w/.+-]*", value, re.ASCII) and value.lower() not in NO_TEXT:
        return f"{key}={value}"
    escaped = re.sub(r"(\\+)(?='|\Z)", r"\1\1", value).replace("'", r"\'")
    escaped = re.sub(r"(\\*)\$\{", r"\1\1\\${", escaped)
    return f"{key}='{escaped}'"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    """Print a warning as one line, without its source location. What it is about goes on, also if nothing reads it."""
    with suppress(OSError):
        print(f"warning: {message}", file=sys.stderr, flush=True)


def _plain(config: DictConfig) -> dict[str, Any]:
    """Convert to plain containers and resolve interpolations; a UserError names all keys that still need a value."""
    from omegaconf import OmegaConf

    required: list[str] = []

    def visit(node: Any, key: str) -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                visit(value, f"{key}.{name}" if key else str(name))
        elif node == REQUIRED:
            required.append(key)

    visit(OmegaConf.to_container(config, resolve=False), "")
    if required:
        raise UserError("\n".join(map(missing, required)))
    values = OmegaConf.to_container(config, resolve=True)
    assert isinstance(values, dict)
    return {str(key): value for key, value in values.items()}


def fail(message: str, status: int = 1) -> None:
    """End the process with one message."""
    rank = os.environ.get("RANK", "0")
    if rank != "0":  # rank 0 prints the whole message, the others its first line, in case only they fail
        message = f"rank {rank}: {message.splitlines()[0]}"
    for stream, text in ((sys.stdout, ""), (sys.stderr, f"error: {message}\n")):
        try:
            print(text, end="", file=stream, flush=True)
        except OSError:  # its reader has gone, or its disk is full
            _drop(stream)
    sys.exit(status)


def _drop(stream: TextIO) -> None:
    """Let what is still in the buffer of `stream`, and all that follows, go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _explained(error: OSError) -> str:
    """The message for a file that cannot be used, a full disk, or a reader of the output that has gone; else empty."""
    if isinstance(error, BrokenPipeError):
        return "nothing reads the output any more; the command has stopped"
    if error.filename is None and error.errno not in DISK:
        return ""
    name = "" if error.filename is None else f"{error.filename}: "
    return f"{name}{error.strerror or error}; free some space, or check the path and its permissions"


def run_command(main: Callable[[], None]) -> None:
    """Run the main function of a command without Hydra; a UserError ends the process with status 1 and its message."""
    after_imports()
    print_any_character()
    warnings.showwarning = _show_warning
    watch()
    try:
        main()
    except UserError as error:
        fail(str(error))
    except KeyboardInterrupt:
        fail("interrupted", status=130)
    except OSError as error:
        if not (message := _explained(error)):
            raise
        fail(message)
    finally:
        print_or_drop("")  # argparse's --help is still in the buffer


def print_any_character() -> None:
    """Print characters that the console does not have, as with LC_ALL=C, as \\xfc instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_or_drop(text: str) -> None:
    """Print `text`, and drop the output to a reader that has gone: head, or a closed terminal.

    Text that cannot be written stays in the buffer, and Python would end with status 120 because of it.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            print(text if stream is sys.stdout else "", end="", file=stream, flush=True)
        except OSError as error:
            _drop(stream)
            if error.errno not in (errno.EPIPE, errno.EIO):
                fail(_explained(error) or str(error))
