"""The options and the output of inference.py: one wav and one picture for each phrase, and a log.

Several processes may share a job. A process that ends early, however it ends, loses no line: see synthesis/records.py.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from common.checkpoint import files
from common.config import AudioConfig
from common.device import resolve_device
from common.errors import UserError
from common.files import make_directory, sync, writing
from common.lock import LOCK_FILE, locked
from common.tracking.jsonl import JsonLines
from common.wording import counted
from synthesis import records
from synthesis.job_options import NOT_READ_RIGHT, InferenceConfig, Shard, flat
from synthesis.line import SUFFIXES, Line
from synthesis.phrases import Phrase, PhraseFile
from synthesis.synthesizer import SORTED_BATCHES
from synthesis.utterance import Part

LARGEST_FLAT = 1000  # lines; of a longer file, the output is in folders of 100 lines
PATIENCE = 10.0  # seconds: after a restart, the earlier process may still be ending
BEGINNING = 2**20  # bytes
WHOLE = Shard()


class Job:
    """Writes the results of a phrase file: 0000.wav and 0000.png for the first line, and so on, and log.jsonl.

    With more than LARGEST_FLAT lines, 00/00/000000.wav is the first, and 12/34/123456.wav an example of others.
    """

    def __init__(self, config: InferenceConfig, phrases: PhraseFile, shard: Shard = WHOLE) -> None:
        self.config, self.phrases, self.shard, self.output = config, phrases, shard, Path(config.output)
        self.is_flat = phrases.num_phrases <= LARGEST_FLAT
        self.is_shared = shard.total > 1
        self.log_path = self.output / (f"log.{shard.number}.jsonl" if self.is_shared else "log.jsonl")
        self.line: Line | None = None  # that is being written
        self.logs = records.Logs(self.output, phrases.last_line)
        self.done = records.Lines(phrases.last_line)
        self.seconds = self.audio_seconds = 0.0
        self.num_wrong = 0  # lines of this process that are not read right
        self.status = 0  # to exit with
        self.earlier = 0  # bytes of the log of earlier runs, whose files are still to be removed

    @functools.cached_property
    def identity(self) -> dict[str, Any]:
        """What decides the audio: options, the content of files, and the kind of device. It is equal when resuming."""
        contents = {key: _digest(key, path) for key, path in self.config.sources().items()}
        contents["input"] = self.phrases.digest[:16]
        return self.config.compared() | {"device": resolve_device(self.config.device).type, "contents": contents}

    # ---- what is there ----

    def check(self) -> None:
        """Raise a UserError if the output has files of an earlier run, and the user has not said what to do with them.

        Otherwise find out which lines are done.
        """
        logs = self.logs.read()
        others = [log for log in logs if log.path != self.output / "log.jsonl"]
        if self.config.overwrite:
            if self.is_shared or others:
                raise UserError(
                    f"overwrite=true: only one process can overwrite the files of another; remove {self.output}, or "
                    "choose another output=DIR"
                )
            return
        if not self.config.resume:
            started = [log for log in logs if log.num_rows and (log.path == self.log_path or not self.is_shared)]
            if started and (self.is_shared or started[0] in others):
                raise UserError(f"{started[0].path} exists already; {self._cure()}")
        if not (self.config.resume or self.is_shared):
            return self._refuse_files()
        for log in logs:
            if log.num_rows:
                _compare(log, self.identity, self.config)
        if not any(
            log.num_rows or (log.header and _differences(log.header, self.identity, self.config) == []) for log in logs
        ):
            self._refuse_files()
        self.done = self.logs.done()
        self.num_wrong = sum(log.num_wrong for log in logs if log.path == self.log_path)

    def _cure(self) -> str:
        overwrite = "" if self.is_shared else ", or overwrite=true to replace it"
        return f"choose another output=DIR, set resume=true to complete that run{overwrite}"

    def _refuse_files(self) -> None:
        """Raise a UserError if there is a file or folder with a name that this job would use."""
        for name in sorted(os.listdir(self.output)) if self.output.is_dir() else []:
            stem, suffix = os.path.splitext(name)
            taken = stem.isdecimal() and suffix in SUFFIXES and self._is_name(stem)
            if taken if self.is_flat else re.fullmatch(r"\d{2,}", name):
                raise UserError(f"{self.output / name} exists already; {self._cure()}")

    def _is_name(self, stem: str) -> bool:
        return stem == f"{int(stem):04d}" and int(stem) < self.phrases.num_phrases

    # ---- writing ----

    @contextmanager
    def opened(self, audio: AudioConfig) -> Iterator[None]:
        """Hold the output directory, which only the processes of one job may write to, and the log in it."""
        self.audio = audio
        make_directory(self.output, "output")
        with self.locked():
            self.check()  # another process may have written some since
            with writing(self.log_path):
                records.repair(self.log_path)
                self.log = JsonLines(self.log_path)
            self.earlier = self._of_earlier_runs() if self.config.overwrite else 0
            if num_done := len(self.done):
                print(f"{self.output}: {num_done:,} of {counted(self.phrases.num_phrases, 'line')} are done already")
            given = {key: self.identity[key] for key in ("device", "contents")}
            self._log(config=dataclasses.asdict(self.config), **given, **({"resumed": True} if num_done else {}))
            try:
                yield
            except UserError:  # such as NaN from the model: the line is not worth keeping
                if self.line and self.line.temporary.exists():
                    self.line.discard()
                raise
            except BaseException:
                if self.line:
                    self.line.keep()
                raise
            self._summarize()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Let no other process write to the output, except those with other shares of the same job."""
        if not self.is_shared:
            with locked(self.output, "output"):
                yield
            return
        job = hashlib.sha256(repr((self.identity, self.config.batch_size)).encode()).hexdigest()[:8]
        group = f"job {job} of {self.shard.total} processes"
        own = f"{LOCK_FILE}.{self.shard.number}"
        with locked(self.output, "output", PATIENCE, group=group), locked(self.output, "output", PATIENCE, own):
            yield

    def _of_earlier_runs(self) -> int:
        """The size of the log that earlier runs wrote. A warning names other files that look like theirs."""
        size = self.log_path.stat().st_size
        matches = (re.fullmatch(r"(\d{4,})(\.\w+)", name) for name in os.listdir(self.output))
        files_of_lines = (match for match in matches if match and match[2] in SUFFIXES)
        alike = {match[0] for match in files_of_lines if not (self.is_flat and self._is_name(match[1]))}
        for name in records.listed_files(self.log_path, size) if alike else ():
            alike -= {f"{Path(name).stem}{suffix}" for suffix in SUFFIXES}
        if alike:
            print(
                f"warning: {self.output}: {', '.join(sorted(alike))} are not of this run; log.jsonl does not list them"
            )
        return size

    def _remove_earlier(self) -> None:
        num_removed, folder = 0, self.output
        for name in records.listed_files(self.log_path, self.earlier) if self.earlier else ():
            path = self.output / name
            if path.parent != folder and folder != self.output:
                _remove_empty(folder, self.output)
            folder = path.parent
            for file in (path.with_suffix(suffix) for suffix in SUFFIXES):
                with suppress(FileNotFoundError):
                    file.unlink()
                    num_removed += 1
        if self.earlier:
            _remove_empty(folder, self.output)
            (self.output / records.MANIFEST).unlink(missing_ok=True)
        if num_removed:
            print(f"{self.output}: removed {counted(num_removed, 'file')} of earlier runs")
        self.earlier = 0

    def _log(self, **values: Any) -> None:
        with writing(self.log_path):
            self.log.write(**values)

    def batches(self) -> Iterator[list[Phrase]]:
        """Yield the phrases of this process that are not done, in batches of lines.

        Which lines are together does not depend on what is done, nor on the number of processes: the other lines of a
        batch change a result by rounding errors.
        """
        size = self.config.batch_size * (SORTED_BATCHES if self.config.batch_size > 1 else 1)
        phrases = iter(self.phrases)
        for number in itertools.count():
            batch = list(itertools.islice(phrases, size))
            if not batch:
                return
            if number % self.shard.total == self.shard.number and not all(phrase.line in self.done for phrase in batch):
                yield batch

    def write(self, phrase: Phrase, part: Part) -> None:
        """Add a piece to the result of its line, and finish the line with its last piece."""
        if phrase.line in self.done:
            return
        if self.line is None:
            path, where = self._path(phrase.number), f"{self.config.input}:{phrase.line}"
            pauses = self.config.pauses.at(self.config.speed)
            self.line = Line(path, where, phrase.text, self.audio, pauses, self.config.timings, self.config.loudness)
        with self.line.keeping():
            self.line.add(part)
        if part.is_last:
            self._finish(self.line, phrase)
            self.done.add(phrase.line)
            self.line = None

    def _path(self, number: int) -> Path:
        path = self.output / f"{line_name(number, self.is_flat)}.{self.config.format}"
        if not path.parent.is_dir():
            with writing(path):
                path.parent.mkdir(parents=True, exist_ok=True)
                for folder in (path.parent.parent, self.output):
                    sync(folder)
        return path

    def _finish(self, line: Line, phrase: Phrase) -> None:
        self._remove_earlier()  # only now, when there is something in their place
        stats = line.finish(self.config.advice, self.config.pictures)
        given = {"id": phrase.id, "speaker": phrase.speaker}
        named = {key: value for key, value in given.items() if value is not None}
        common = {"line": phrase.line, **named, "text": phrase.text}
        if stats is None:
            return self._log(**common, silent=True)
        self.num_wrong += bool(line.faults)
        self._log(
            file=line.path.relative_to(self.output).as_posix(),
            **common,
            pieces=line.num_pieces,
            truncated=line.truncated > 0,
            faults=[{"kind": fault.kind, "words": fault.words} for fault in line.faults],
            **stats,
        )
        self.seconds += stats["latency"]
        self.audio_seconds += stats["audio_seconds"]
        speeds = "  ".join(
            f"{key.removesuffix('_items_per_sec')} {value:,.0f} items/s"
            for key, value in stats.items()
            if key.endswith("_items_per_sec")
        )
        print(
            f"{line.path}  {stats['audio_seconds']:.2f} s  {speeds}  RTF {stats['rtf']:.3f} "
            f"({stats['times_real_time']:.2f} x real time)",
            flush=True,
        )

    def _summarize(self) -> None:
        if self.audio_seconds:
            rtf = self.seconds / self.audio_seconds
            print(f"total {self.audio_seconds:.2f} s of speech, RTF {rtf:.3f} ({1 / rtf:.2f} x real time)")
        if self.num_wrong:
            print(f"{counted(self.num_wrong, 'line')} not read right, see the warnings and {self.log_path}", flush=True)
        is_complete = self._write_manifest() if self.is_shared or not self.is_flat else True
        # A process that ends with an error ends those that torchrun started with it, so only the last one tells.
        num_wrong = sum(log.num_wrong for log in self.logs.read()) if self.is_shared else self.num_wrong
        self.status = NOT_READ_RIGHT if num_wrong and is_complete else 0

    def _write_manifest(self) -> bool:
        """Write the table of all lines if all are done, by this process and by all others; return whether they are."""
        logs = self.logs.read()
        num_done = len(self.logs.done())
        if num_done < self.phrases.num_phrases:
            print(f"{self.output}: {num_done:,} of {counted(self.phrases.num_phrases, 'line')} are done")
            return False
        path = self.output / records.MANIFEST
        turn = (
            locked(self.output, "output", 60 * PATIENCE, f"{LOCK_FILE}.manifest") if self.is_shared else nullcontext()
        )
        with turn:  # two processes may finish at once
            records.write_manifest(path, logs, self.phrases.last_line)
        print(f"{path}: all {counted(self.phrases.num_phrases, 'line')} are done")
        return True


def line_name(number: int, is_flat: bool) -> str:
    """The name of a line's files in the output: "0012", or in folders of 100 lines "12/34/123456"."""
    if is_flat:
        return f"{number:04d}"
    return f"{number // 10_000:02d}/{number // 100 % 100:02d}/{number:06d}"


def _differences(header: dict[str, Any], identity: dict[str, Any], config: InferenceConfig) -> list[str]:
    """What a job has that the one with this header in its log had not."""
    earlier = flat(header.get("config", {})) | {"device": header.get("device"), "contents": header.get("contents", {})}
    found = [
        f"{key}={value} instead of {earlier.get(key)}"
        for key, value in identity.items()
        if key != "contents" and value != earlier.get(key)
    ]
    contents = identity["contents"]
    for key in sorted(contents.keys() | earlier["contents"].keys()):
        if contents.get(key) != earlier["contents"].get(key):
            source = config.input if key == "input" else config.sources().get(key)
            found.append(f"another content of {key}={source}")
    return found


def _compare(log: records.Log, identity: dict[str, Any], config: InferenceConfig) -> None:
    """Raise a UserError unless the log is of the same job."""
    if log.header is None or "contents" not in log.header:
        raise UserError(
            f"{log.path}: an earlier version of this program wrote it: it cannot be resumed; choose another output=DIR"
        )
    if found := _differences(log.header, identity, config):
        raise UserError(
            f"{log.path}: its lines were made by another job; this one has {', '.join(found)}; change that back, "
            "or choose another output=DIR"
        )


def _digest(key: str, path: str | Path) -> str:
    """A checksum of the file, of the newest checkpoint in a run directory, or of an engine's model."""
    try:
        if key == "engine.model":
            return _digest_model(str(path))
        found = Path(path) if key.endswith(("lexicon", "engine.voice")) else files.find(path)
        with open(found, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except UserError as error:
        raise UserError(f"{key}: {error}") from error
    except OSError as error:
        raise UserError(f"{key} {path}: {error.strerror or error}; check the path") from error


def _digest_model(name: str) -> str:
    """A checksum of the beginnings of a folder's files, which may have GBs; of a model on the hub, that of its name."""
    digest = hashlib.sha256(b"" if Path(name).is_dir() else name.encode())
    for file in sorted(path for path in Path(name).rglob("*") if path.is_file()):
        with open(file, "rb") as content:
            digest.update(f"{file.relative_to(name)} {file.stat().st_size}".encode() + content.read(BEGINNING))
    return digest.hexdigest()[:16]


def _remove_empty(folder: Path, top: Path) -> None:
    """Remove a folder that is empty, and those above it that are then empty, below `top`."""
    with suppress(OSError):
        while folder != top:
            folder.rmdir()
            folder = folder.parent
