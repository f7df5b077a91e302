"""Mels in shards: a few large tar files in place of one file for each clip."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.data.filelist import Clip, read_filelist
from common.data.mels import Entry, MelDirectory
from common.data.shards import Place, ShardReader, ShardWriter
from common.errors import UserError
from tests.helpers.commands import run_here
from tests.helpers.corpus import tone
from tests.test_data import AUDIO, full_disk


def prepare_shards(root: Path, expect: int = 0) -> str:
    result = run_here("scripts/prepare_mels.py", f"data.root={root}", "num_processes=1", "shards=true", expect=expect)
    return result.stdout + result.stderr


@pytest.fixture
def sharded(corpus: Path, tmp_path: Path) -> Path:
    """A corpus whose mels were files of their own and have moved into a shard."""
    root = tmp_path / "sharded"
    shutil.copytree(corpus, root)
    assert "0 mels computed, 8 were up to date" in prepare_shards(root)
    return root


def train_clips(root: Path) -> list[Clip]:
    return read_filelist(root / "filelists/train.txt", root)


def test_shards_hold_the_same_mels(corpus: Path, sharded: Path) -> None:
    mels, files, clips = MelDirectory(sharded / "mels"), MelDirectory(corpus / "mels"), train_clips(sharded)
    assert mels.check(clips, AUDIO) == files.check(train_clips(corpus), AUDIO)
    for clip in reversed(clips):
        assert np.array_equal(mels.load(clip), files.load(clip))
    assert not list(sharded.glob("mels/wavs/*.npy"))
    with tarfile.open(sharded / "mels/shards/00000.tar") as tar:
        assert sorted(tar.getnames()) == [f"wavs/clip{i}.wav.npy" for i in range(8)]
        member = tar.extractfile(f"{clips[0].path}.npy")
        assert member is not None
        assert np.array_equal(np.load(io.BytesIO(member.read())), mels.load(clips[0]))
    copy = pickle.loads(pickle.dumps(mels))  # for a loader process
    assert np.array_equal(copy.load(clips[0]), mels.load(clips[0]))


def test_a_changed_clip_gets_a_place_in_another_shard(sharded: Path) -> None:
    clips = train_clips(sharded)
    soundfile.write(clips[1].file, tone(2.0, 5), 22050)
    with pytest.raises(UserError, match="1 of 7 mels is missing"):
        MelDirectory(sharded / "mels").check(clips, AUDIO)
    assert "1 mel computed, 7 were" in prepare_shards(sharded)
    mels = MelDirectory(sharded / "mels")
    assert mels.load(clips[1]).shape == (80, mels.check(clips, AUDIO)[1])
    assert sorted(path.name for path in sharded.glob("mels/shards/*")) == ["00000.tar", "00001.tar"]
    # without shards=true, new mels are files again, and both kinds are read
    soundfile.write(clips[2].file, tone(2.0, 6), 22050)
    run_here("scripts/prepare_mels.py", f"data.root={sharded}", "num_processes=1")
    assert (sharded / f"mels/{clips[2].path}.npy").exists()
    mels = MelDirectory(sharded / "mels")
    assert [mels.load(clip).shape[1] for clip in clips] == mels.check(clips, AUDIO)


@pytest.mark.fault(29)
def test_a_damaged_shard_is_named_and_computed_again(sharded: Path) -> None:
    shard, clips, mels = sharded / "mels/shards/00000.tar", train_clips(sharded), MelDirectory(sharded / "mels")
    mels.check(clips, AUDIO)
    place = mels.entries[clips[2].path].place
    assert place is not None
    content = bytearray(shard.read_bytes())
    content[place.offset + 4000] ^= 1
    shard.write_bytes(content)
    with pytest.raises(UserError, match=rf"the mel of {clips[2].path} in .*00000.tar is not the mel that was prepared"):
        mels.load(clips[2])
    mels.load(clips[3])
    os.truncate(shard, place.offset + 300)
    with pytest.raises(UserError, match=r"the mel of .* in .*00000.tar is not a readable mel"):
        mels.load(clips[2])
    with pytest.raises(UserError, match=r"of 7 mels are missing.*prepare_mels"):
        MelDirectory(sharded / "mels").check(clips, AUDIO)
    shard.unlink()
    with pytest.raises(UserError, match="7 of 7 mels are missing"):
        MelDirectory(sharded / "mels").check(clips, AUDIO)
    assert "8 mels computed" in prepare_shards(sharded)
    MelDirectory(sharded / "mels").check(clips, AUDIO)


@pytest.mark.fault(34)
def test_a_full_disk_while_a_shard_is_written(sharded: Path) -> None:
    shutil.rmtree(sharded / "mels")
    with full_disk(60_000):
        output = prepare_shards(sharded, expect=1)
    assert "shards/00000.tar: not written (" in output
    assert not list(sharded.glob("mels/shards/*"))
    assert "8 mels computed" in prepare_shards(sharded)


def test_another_audio_config_deletes_the_shards(sharded: Path) -> None:
    run_here("scripts/prepare_mels.py", f"data.root={sharded}", "num_processes=1", "audio.fmax=7600")
    assert not list(sharded.glob("mels/shards/*"))
    assert len(list(sharded.glob("mels/wavs/*.npy"))) == 8


def test_shards_end_at_their_size_and_an_interrupt_loses_nothing(tmp_path: Path) -> None:
    finished: list[tuple[str, Place]] = []
    mels = [np.full((80, length), length, np.float32) for length in (3, 40, 5)]

    def write(reason: BaseException) -> None:
        with ShardWriter[str](tmp_path, finished.extend, shard_bytes=9000) as writer:
            for number, mel in enumerate(mels):
                writer.add(str(number), f"{'long name ' * 20}{number}", mel)
            raise reason

    with pytest.raises(ValueError, match="damaged"):
        write(ValueError("damaged"))
    assert [(tag, place.shard) for tag, place in finished] == [("0", 0), ("1", 0)]
    finished.clear()
    with pytest.raises(KeyboardInterrupt):
        write(KeyboardInterrupt())
    assert [(tag, place.shard) for tag, place in finished] == [("0", 1), ("1", 1), ("2", 2)]
    reader = ShardReader(tmp_path)
    for (_, place), mel in zip(finished, mels, strict=True):
        assert np.array_equal(reader.read(place, 128 + mel.nbytes), mel)


@pytest.mark.parametrize("change", [{"shard": 1}, {"offset": 1}, {"shard": "1", "offset": 1}, {"shard": True}])
@pytest.mark.fault(29)
def test_an_entry_with_half_a_place_is_left_out(change: dict[str, object]) -> None:
    row: dict[str, object] = {"clip": "a.wav", "frames": 3, "size": 4, "mtime_ns": 5}
    assert Entry.parse(row) is not None
    assert Entry.parse(row | change) is None
