"""Filelists: text files with a row `path|transcript` for each clip, or `path|transcript|speaker` if the corpus has
several speakers. Paths are relative to the data root.

Other columns, such as LJSpeech's `id|raw|normalized`, are refused; scripts/prepare_filelists.py converts them.
"""

from __future__ import annotations

import itertools
import os
import shlex
import stat
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, BinaryIO

from common.errors import UserError
from common.wording import counted

if TYPE_CHECKING:
    from common.config import DataConfig  # imports PyTorch, which an ONNX export does without

AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
ROW = "a row is path|transcript, or path|transcript|speaker"
SAME = 0.5  # a column with at most this fraction of different values holds labels, one with more holds texts


@dataclass(frozen=True, slots=True)  # with slots, because a large corpus has many of them
class Clip:
    """One row of a filelist: a path in its normal form, below the folder `root`, and a text."""

    path: str
    text: str
    root: Path
    filelist: str
    line: int
    speaker: str = ""  # "": the rows name none

    @property
    def file(self) -> Path:
        """The file on this machine."""
        return self.root / self.path

    @property
    def suffix(self) -> str:
        """Of the file, such as ".wav"."""
        return os.path.splitext(self.path)[1]

    def stat(self) -> os.stat_result:
        """Of the file."""
        return os.stat(f"{self.root}/{self.path}")

    @property
    def where(self) -> str:
        """FILELIST:LINE, for messages."""
        return f"{self.filelist}:{self.line}"


def read_lines(path: str | Path, what: str) -> list[tuple[int, str]]:
    """(line number from 1, line) of each non-blank line of a UTF-8 text file; errors call the file `what`."""
    path = Path(path)
    with open_text(path, what) as file:
        lines = list(decoded(file, path, what))
    if not lines:
        raise UserError(f"{what} {path}: the file holds no line of text")
    return lines


def open_text(path: Path, what: str) -> BinaryIO:
    """Open a text file for `decoded`. A UserError calls it `what`."""
    try:
        return open(path, "rb")
    except OSError as error:
        raise UserError(f"{what} {path}: {error.strerror or error}; check the path") from error


def decoded(file: BinaryIO, path: Path, what: str) -> Iterator[tuple[int, str]]:
    """Yield what `read_lines` returns, for the lines of an open file, in memory that does not grow with their number.

    `path` and `what` name the file in errors.
    """
    number = 0
    try:
        head = file.read(200)
        _refuse_other_files(head, what, path)
        head = head.removeprefix(b"\xef\xbb\xbf")
        for block in itertools.chain([head + file.readline()], file):
            for line in block.splitlines():  # also at a carriage return
                number += 1
                try:
                    text = line.decode("utf-8").strip()
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{what} {path}:{number}: byte 0x{line[error.start]:02x} is not UTF-8; save the file as UTF-8 "
                        f"(iconv -f latin1 -t utf-8)"
                    ) from error
                if text:
                    yield number, text
    except OSError as error:  # of reading: the path is a directory, or the disk is broken
        raise UserError(f"{what} {path}: {error.strerror or error}; check the path") from error


def _refuse_other_files(raw: bytes, what: str, path: Path) -> None:
    """Raise a UserError that names the cure for a spreadsheet, and for text in UTF-16, as Excel writes it."""
    if raw.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        raise UserError(
            f"{what} {path}: a spreadsheet (Excel or LibreOffice), not a text file; open it there, save it as CSV "
            "in UTF-8 and run this again, which then says how to convert its columns"
        )
    endian = "le" if raw[1:2] == b"\0" else "be"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")) or raw[:200].count(b"\0") > 20:
        code = "utf-16" if raw[:1] in (b"\xff", b"\xfe") else f"utf-16{endian}"
        raise UserError(
            f"{what} {path}: the file is in UTF-16; convert it to UTF-8: iconv -f {code} -t utf-8 {path} > new.txt && "
            f"mv new.txt {path}"
        )


def normal(name: str) -> str:
    """A relative path without `./` and repeated slashes, so that a clip has one name."""
    is_normal = not ("//" in name or "./" in name or name.endswith(("/", "/.")) or name == ".")
    return name if is_normal else str(PurePosixPath(name))


def leaves(name: str) -> bool:
    """True if the path of a row, as written, may lead out of the folder that it is relative to."""
    return name.startswith("/") or (".." in name and ".." in PurePosixPath(name).parts)


def shown(name: str | Path) -> str:
    """A path for a message: cut if it is very long, quoted if it contains what a terminal cannot show."""
    text = str(name) if len(str(name)) <= 200 else f"{str(name)[:200]}..."
    return text if text.isprintable() else repr(text)


def file_problem(file: str | Path) -> str:
    """Why no file can be read under this name; "" if one can be opened."""
    try:
        mode = os.stat(file).st_mode
    except FileNotFoundError:
        return "does not exist"
    except OSError as error:  # an unreadable folder, links in a circle, a name that is too long
        return f"cannot be read ({error.strerror})"
    except ValueError:
        return "cannot be the name of a file: it contains a NUL byte"
    return "" if stat.S_ISREG(mode) else "is not a file"


class _Links:
    """Finds links to outside of `root`, a path without links. Each folder is resolved once."""

    def __init__(self, root: str) -> None:
        self.root = root
        self.inside: dict[str, bool] = {}

    def leave(self, file: str) -> bool:
        """True if `file`, which exists, lies outside."""
        if os.path.islink(file):
            return not self._is_inside(file)
        folder = os.path.dirname(file)
        if folder not in self.inside:
            self.inside[folder] = self._is_inside(folder)
        return not self.inside[folder]

    def _is_inside(self, path: str) -> bool:
        return Path(os.path.realpath(path)).is_relative_to(self.root)


def filelists(data: DataConfig) -> dict[str, str]:
    """The filelists of a corpus by name: train, val, and test unless it is missing or empty."""
    lists = {"train": data.train_filelist, "val": data.val_filelist}
    if data.test_filelist and os.path.isfile(data.test_filelist) and os.path.getsize(data.test_filelist):
        lists["test"] = data.test_filelist
    return lists


def read_filelist(path: str | Path, root: str | Path, follow_links: bool = False) -> list[Clip]:
    """The clips of a filelist. Raise a UserError that lists the first ten rows that `scan_filelist` rejects, if any."""
    clips, problems = scan_filelist(path, root, follow_links)
    raise_problems(problems)
    return clips


def scan_filelist(path: str | Path, root: str | Path, follow_links: bool = False) -> tuple[list[Clip], list[str]]:
    """The valid rows of a filelist, and a message for each other row.

    A row is invalid if it does not have two columns, or three as the first row, one of them is empty, its path is
    absolute, contains `..`, leaves `root` through a link (unless `follow_links`) or is repeated, or its file is missing
    or cannot be read.
    """
    problems, clips, seen = [], [], dict[str, int]()
    root = Path(root)
    if not os.path.isdir(root):
        raise UserError(f"data.root={root}: no such directory; set data.root=DIR to the folder that holds the clips")
    if Path(path).parent == root / "filelists" and not os.path.exists(path) and os.path.isfile(root / "metadata.csv"):
        cure = f"bash scripts/prepare_dataset.sh {shlex.quote(str(root))}"
        raise UserError(f"filelist {path}: no such file; to write it, run: {cure}")
    links, filelist = _Links(os.path.realpath(root)), str(path)
    lines = read_lines(path, "filelist")
    first, width = lines[0][0], 3 if lines[0][1].count("|") == 2 else 2
    for number, line in lines:
        where = f"{path}:{number}"
        columns = line.split("|")
        if len(columns) != width:
            alike = f"; all rows must be like line {first}" if len(columns) in (2, 3) else ""
            problems.append(f"{where}: {counted(len(columns), 'column')} in {line[:60]!r}; {ROW}{alike}")
            continue
        name, text, speaker = normal(columns[0].strip()), columns[1].strip(), columns[2].strip() if width == 3 else ""
        file = f"{root}/{name}"
        if not name:
            problems.append(f"{where}: the row names no clip; {ROW}")
        elif not text:
            problems.append(f"{where}: the transcript of {shown(name)} is empty; write what is said, or remove the row")
        elif width == 3 and not speaker:
            problems.append(f"{where}: the speaker of {shown(name)} is empty; write who speaks, or remove the row")
        elif leaves(name):
            problems.append(
                f"{where}: {shown(name)} is not a path below data.root={root}; write it relative to that, without '..'"
            )
        elif name in seen:
            problems.append(f"{where}: {shown(name)} is already on line {seen[name]}; remove one of the rows")
        elif problem := file_problem(file):
            problems.append(f"{where}: {shown(file)} {problem}; check the row, or data.root={root}")
        elif not follow_links and links.leave(file):
            problems.append(
                f"{where}: {name} is a link out of data.root={root}; set data.follow_links=true to allow it"
            )
        else:
            seen[name] = number
            clips.append(Clip(name, text, root, filelist, number, sys.intern(speaker)))
    return clips, problems or _too_many_speakers(path, clips)


def _too_many_speakers(path: str | Path, clips: list[Clip]) -> list[str]:
    """Say so if the third column holds texts: nearly each value is another one."""
    speakers = {clip.speaker for clip in clips}
    if len(clips) < 4 or len(speakers) <= SAME * len(clips):
        return []
    return [
        f"filelist {path}: its third column holds {counted(len(speakers), 'value')} in {len(clips):,} rows, such as "
        f"{clips[0].speaker[:40]!r}; it must name the speaker of each clip. {ROW}"
    ]


def raise_problems(problems: list[str], shown: int = 10) -> None:
    """If there are problems, raise a UserError that lists the first `shown` and counts the rest."""
    if problems:
        rest = [f"... and {len(problems) - shown} more"] if len(problems) > shown else []
        raise UserError("\n".join(problems[:shown] + rest))
