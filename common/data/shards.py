"""Mels in a few large tar files in place of one file for each clip: for network disks and object stores.

    MEL_DIR/shards/00000.tar   members <clip>.npy, as they are in a folder; tar and WebDataset read them too

The manifest says where in a shard a mel is, so that a mel is one read, in any order. A shard is complete or not there.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from contextlib import ExitStack
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Generic, NamedTuple, Self, TypeVar, cast

import numpy as np

from common.files import make_directory, replacing

SHARD_BYTES = 256_000_000  # after which the next shard begins
MAX_OPEN = 64  # shards

Tag = TypeVar("Tag")


class Place(NamedTuple):
    """Where a member is."""

    shard: int
    offset: int  # bytes from the start of the shard to the member's content


def shard_path(directory: Path, shard: int) -> Path:
    return directory / "shards" / f"{shard:05}.tar"


class ShardWriter(Generic[Tag]):
    """Writes mels into new shards of `directory`, beside those that it has.

    `finished` is called with (tag, place) of all mels of a shard once that is complete. The last shard is completed at
    the end of the context, also if that is an interrupt; another error in the context leaves it out.
    """

    def __init__(
        self, directory: Path, finished: Callable[[list[tuple[Tag, Place]]], None], shard_bytes: int = SHARD_BYTES
    ) -> None:
        make_directory(shard_path(directory, 0).parent, "data.mel_dir")
        numbers = [int(path.stem) for path in shard_path(directory, 0).parent.glob("[0-9]*.tar")]
        self.directory, self.finished, self.shard_bytes = directory, finished, shard_bytes
        self.next, self.members = max(numbers, default=-1) + 1, list[tuple[Tag, Place]]()
        self.stack, self.tar = ExitStack(), cast(tarfile.TarFile | None, None)

    def add(self, tag: Tag, clip: str, mel: np.ndarray) -> None:
        """Write the mel (n_mels, T) of a clip."""
        if self.tar is None:
            temporary = self.stack.enter_context(replacing(shard_path(self.directory, self.next)))
            self.tar = self.stack.enter_context(tarfile.TarFile(temporary, "w"))
        content = BytesIO()
        np.save(content, np.ascontiguousarray(mel, np.float32))
        member = tarfile.TarInfo(f"{clip}.npy")
        member.size = content.tell()
        content.seek(0)
        self.tar.addfile(member, content)
        blocks = -(-member.size // tarfile.BLOCKSIZE)
        self.members.append((tag, Place(self.next, self.tar.offset - blocks * tarfile.BLOCKSIZE)))
        if self.tar.offset >= self.shard_bytes:
            self._finish()

    def _finish(self) -> None:
        self.stack.close()
        self.finished(self.members)
        self.next, self.members, self.tar = self.next + 1, [], None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.tar is not None and (kind is None or issubclass(kind, KeyboardInterrupt)):
            self._finish()
        else:
            self.stack.__exit__(kind, error, trace)


class ShardReader:
    """Reads members of the shards of `directory`. Processes may share one after a fork."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.open: dict[int, int] = {}  # file descriptors
        self.sizes: dict[int, int] = {}

    def holds(self, place: Place, size: int) -> bool:
        """Whether the shard is long enough for a member of `size` bytes. A shard is looked at once."""
        if place.shard not in self.sizes:
            path = shard_path(self.directory, place.shard)
            self.sizes[place.shard] = path.stat().st_size if path.is_file() else 0
        return place.offset + size <= self.sizes[place.shard]

    def read(self, place: Place, size: int) -> np.ndarray:
        """The array in a member of `size` bytes. Raises OSError or ValueError if it is not there."""
        if place.shard not in self.open:
            if len(self.open) == MAX_OPEN:
                self.close()
            self.open[place.shard] = os.open(shard_path(self.directory, place.shard), os.O_RDONLY)
        array: np.ndarray = np.load(BytesIO(os.pread(self.open[place.shard], size, place.offset)))
        return array

    def remove(self) -> None:
        """Delete all shards."""
        self.close()
        self.sizes.clear()
        for path in shard_path(self.directory, 0).parent.glob("[0-9]*.tar"):
            path.unlink()

    def close(self) -> None:
        for descriptor in self.open.values():
            os.close(descriptor)
        self.open.clear()

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "open": {}}  # open files stay with their process
