"""The --help of commands with KEY=VALUE options: usage, groups and their files, and every key, its value and meaning.

The meaning of a key is the comment beside it in conf/, in the file that the others of its group start from. A file of a
group is described by its first comment.
"""

from __future__ import annotations

import re
import sys
from typing import Any, NamedTuple

from common.conf import CONF, bases
from common.entry import Command, fail, print_any_character, print_or_drop
from common.errors import UserError
from common.schema import REQUIRED

HELP = {"-h", "--help"}
DEFAULT = "default"  # the file of a group that the others start from
MAX_VALUE = 40  # characters
MEANING = re.compile(r"^ *(\w+):.*?  # (.+)$", re.MULTILINE)
DESCRIPTION = re.compile(r"^# (?!@package)(.+)$", re.MULTILINE)


class Row(NamedTuple):
    """A key, its value and its meaning; or a file of a group, "*" if it is in use, and its description."""

    name: str
    value: str
    meaning: str


class Section(NamedTuple):
    title: str
    rows: list[Row]


def show_help(config_name: str, usage: str | None) -> None:
    """If the command line asks for help, print it and end the process. Commands call it before their slow imports."""
    if HELP & set(sys.argv[1:]):
        print_any_character()
        lines = [(usage or "").strip()]
        try:
            command = Command(config_name, [argument for argument in sys.argv[1:] if argument not in HELP])
            for section in sections(command):
                lines += ["", section.title, *_table(section.rows)]
        except UserError as error:
            fail(str(error))
        print_or_drop("\n".join(lines) + "\n")
        sys.exit()


def sections(command: Command) -> list[Section]:
    """The groups, then the keys of the command and of its groups, with their values on this command line.

    A group that needs a choice and has none, and the groups that follow it, show the keys that all choices have in
    common: those of DEFAULT, or none.
    """
    groups, given = command.groups(), {argument.split("=")[0] for argument in command.arguments}
    needed = [group for group, choice in groups.items() if choice == REQUIRED and group not in given]
    follow = {f"${{{group}}}" for group in needed}  # as the defaults list writes it
    open_groups = [group for group, choice in groups.items() if group not in given and {choice} & {REQUIRED, *follow}]
    examples = {group: _files(group)[0] for group in needed}
    common = {group: DEFAULT for group in open_groups if DEFAULT in _files(group)}
    values, used = _composed(command, examples | common)
    used |= dict.fromkeys(open_groups)
    result = []
    if groups:
        files = [(f"{group}={file}", used[group] == file, group, file) for group in groups for file in _files(group)]
        rows = [Row(name, "*" * is_used, _description(f"{group}/{file}")) for name, is_used, group, file in files]
        result.append(Section("groups of keys: GROUP=FILE (* is used here)", rows))
    own = {name: value for name, value in values.items() if name not in groups}
    result.append(Section("keys: KEY=VALUE (null means not set)", _rows(own, _meanings(command.config_name))))
    for group in groups:
        file = used[group] or common.get(group)
        if group in values and file:
            title = f"{group}={file}" if used[group] else f"{group}: the choice of {needed[0]}= sets other values"
            result.append(Section(title, _rows(values[group], _meanings(f"{group}/{file}"), f"{group}.")))
        elif group in values:
            example = " ".join(f"{name}={file}" for name, file in examples.items())
            result.append(Section(f"{group}: its keys are shown by: python {sys.argv[0]} {example} --help", []))
    return result


def _composed(command: Command, choices: dict[str, str]) -> tuple[dict[str, Any], dict[str, str | None]]:
    """The values of the command line with `choices`, interpolations unresolved, and the file that each group uses."""
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    arguments = [argument for argument in command.arguments if not argument.startswith("-")]
    arguments += [f"{group}={file}" for group, file in choices.items()]
    with command.errors(), initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose(command.config_name, arguments, return_hydra_config=True)
    values: Any = OmegaConf.to_container(config, resolve=False)
    return values, values.pop("hydra")["runtime"]["choices"]


def _files(group: str) -> list[str]:
    return sorted(file.stem for file in (CONF / group).glob("*.yaml"))


def _text(name: str) -> str:
    return (CONF / f"{name}.yaml").read_text(encoding="utf-8")


def _description(name: str) -> str:
    found = DESCRIPTION.match(_text(name).removeprefix("# @package _global_\n"))
    return found[1] if found else ""


def _meanings(name: str) -> dict[str, str]:
    """Key -> meaning, from conf/<name>.yaml and the files that it starts from, whose comments are those of the key."""
    meanings = dict(MEANING.findall(_text(name)))
    for base in bases(name):
        meanings |= _meanings(base)
    return meanings


def _rows(values: dict[str, Any], meanings: dict[str, str], prefix: str = "") -> list[Row]:
    rows = []
    for name, value in values.items():
        if isinstance(value, dict):
            rows += _rows(value, meanings, f"{prefix}{name}.")
        else:
            rows.append(Row(prefix + name, _shown(value), meanings.get(name, "")))
    return rows


def _shown(value: Any) -> str:
    """A value as it is written in YAML, shortened."""
    if isinstance(value, list):
        text = f"[{', '.join(map(_shown, value))}]"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = "null" if value is None else str(value).replace(REQUIRED, "required")
    return text if len(text) <= MAX_VALUE else text[: MAX_VALUE - 3] + "..."


def _table(rows: list[Row]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [f"    {row.name:{widths[0]}}  {row.value:{widths[1]}}  {row.meaning}".rstrip() for row in rows]
