"""Recordings of any format are found and read in blocks; files that cannot be used are refused with their names."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from common.errors import UserError
from recordings.sources import Span, blocks, find_files, probe, read, refuse_changed, refuse_inside, stretches
from tests.helpers.corpus import tone

RATE = 22050
SPANS = [Span(0.0, 0.5), Span(0.4, 1.7), Span(5.0, 5.25), Span(24.9, 25.0)]


def write(path: Path, audio: np.ndarray, rate: int = RATE) -> Path:
    """Write audio in the format of the suffix, an hour ago, so that no file looks as if it were still written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix in (".m4a", ".webm"):
        import av

        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac" if path.suffix == ".m4a" else "libopus", rate=rate)
            stream.codec_context.layout = "mono"
            resampler = av.AudioResampler(format="fltp", layout="mono", rate=rate, frame_size=stream.frame_size or 960)
            frame = av.AudioFrame.from_ndarray(audio[None].astype(np.float32), format="fltp", layout="mono")
            frame.sample_rate = rate
            for part in [*resampler.resample(frame), *resampler.resample(None)]:
                container.mux(stream.encode(part))
            container.mux(stream.encode(None))
    elif path.suffix == ".opus":
        soundfile.write(path, audio, rate, format="OGG", subtype="OPUS")
    else:
        soundfile.write(path, audio, rate)
    os.utime(path, (time.time() - 3600,) * 2)
    return path


@pytest.fixture(scope="module")
def audio() -> np.ndarray:
    return tone(25.0, 0)


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".mp3", ".opus", ".m4a", ".webm", ".strange"])
def test_every_format_gives_the_same_sound(suffix: str, audio: np.ndarray, tmp_path: Path) -> None:
    rate = 48000 if suffix in (".opus", ".webm") else RATE
    path = write(tmp_path / f"one{suffix.replace('.strange', '.wav')}", audio, rate)
    if suffix == ".strange":
        path = path.rename(path.with_suffix(suffix))
    (found,) = probe(tmp_path, find_files(tmp_path))
    assert (found.name, found.path, found.sample_rate, found.channels) == ("one", path, rate, 1)
    assert found.seconds == pytest.approx(len(audio) / rate, abs=0.1)
    decoded = np.concatenate(list(blocks(found, 3.0)))
    assert len(decoded) == pytest.approx(len(audio), abs=0.1 * rate)
    near = min(  # codecs add some samples at the start
        float(np.abs(decoded[5000 + shift : 9000 + shift] - audio[5000:9000]).mean()) for shift in range(-10, 2400)
    )
    assert near < 0.02
    spans = [Span(start, end) for start, end in SPANS if end < found.seconds]
    for span, stretch in zip(spans, stretches(found, spans), strict=True):
        assert np.allclose(stretch, decoded[round(span.start * rate) : round(span.end * rate)], atol=1e-6)
    assert np.allclose(read(found, spans[2]), decoded[5 * rate : round(5.25 * rate)], atol=1e-6)


def test_channels_are_mixed_and_names_have_folders(audio: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "deep/in/two.wav", np.stack([audio, -0.5 * audio], 1))
    (tmp_path / "notes.txt").write_text("nothing to hear")
    write(tmp_path / ".hidden.wav", audio)
    (found,) = probe(tmp_path, find_files(tmp_path))
    assert (found.name, found.channels) == ("deep/in/two", 2)
    assert np.allclose(np.concatenate(list(blocks(found))), 0.25 * audio, atol=1e-4)


def test_blocks_are_small(audio: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", np.tile(audio, 4))
    (found,) = probe(tmp_path, find_files(tmp_path))
    assert max(map(len, blocks(found))) == 10 * RATE
    assert sum(map(len, blocks(found))) == 4 * len(audio)


def refused(folder: Path) -> str:
    with pytest.raises(UserError) as error:
        read_all(folder)
    return str(error.value)


def read_all(folder: Path) -> None:
    for found in probe(folder, find_files(folder)):
        for _ in blocks(found):
            pass


def test_a_folder_without_audio_says_what_is_there(tmp_path: Path) -> None:
    assert "it is empty" in refused(tmp_path)
    for name in ("a.txt", "b.txt", "c.pdf"):
        (tmp_path / name).write_text("x")
    assert "2 files with .txt, 1 file with .pdf" in refused(tmp_path)
    assert "no such folder" in refused(tmp_path / "absent")
    assert "a file, not a folder" in refused(tmp_path / "a.txt")


def test_names_that_collide(audio: np.ndarray, tmp_path: Path) -> None:
    write(tmp_path / "a.wav", audio)
    write(tmp_path / "a.flac", audio)
    write(tmp_path / "x/b c.wav", audio)
    write(tmp_path / "x/b_c.wav", audio)
    message = refused(tmp_path)
    assert "2 groups" in message
    assert "a.flac and a.wav" in message
    assert "x/b c.wav and x/b_c.wav" in message


def test_files_that_cannot_be_read_are_all_named(audio: np.ndarray, tmp_path: Path) -> None:
    for k in range(7):
        (tmp_path / f"bad{k}.mp3").write_bytes(b"no sound at all " * 99)
    (tmp_path / "empty.wav").touch()
    write(tmp_path / "good.wav", audio)
    message = refused(tmp_path)
    assert "bad0.mp3: not a readable audio file" in message
    assert "and 3 more files" in message
    assert "good.wav" not in message


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".m4a"])
def test_a_truncated_file(suffix: str, audio: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / f"a{suffix}", audio)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    assert str(path) in refused(tmp_path)


def test_a_header_that_promises_nothing_yet(tmp_path: Path) -> None:
    write(tmp_path / "a.wav", np.zeros(0, np.float32))
    assert "says that it has no samples" in refused(tmp_path)


def test_a_file_that_is_still_being_written(audio: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "growing.mp3"
    write(path, audio)
    end = threading.Event()

    def grow() -> None:
        while not end.wait(0.05):
            with open(path, "ab") as file:
                file.write(bytes(100))

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        time.sleep(0.1)
        assert "still being written" in refused(tmp_path)
    finally:
        end.set()
        thread.join()


def test_a_file_that_changes_later(audio: np.ndarray, tmp_path: Path) -> None:
    path = write(tmp_path / "a.wav", audio)
    (found,) = probe(tmp_path, find_files(tmp_path))
    refuse_changed(found)
    os.utime(path)
    with pytest.raises(UserError, match="still being written"):
        refuse_changed(found)
    path.unlink()
    with pytest.raises(UserError, match="not any more"):
        refuse_changed(found)


def test_samples_that_are_no_numbers(audio: np.ndarray, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.where(np.arange(len(audio)) == 9, np.nan, audio), RATE, subtype="FLOAT")
    assert "NaN" in refused(tmp_path)


def test_the_output_must_be_elsewhere(tmp_path: Path) -> None:
    refuse_inside(tmp_path / "a", tmp_path / "ab")
    for output in (tmp_path, tmp_path / "corpus"):
        with pytest.raises(UserError, match="inside of recordings="):
            refuse_inside(tmp_path, output)
    with pytest.raises(UserError, match=r"wavs: it is inside of work=.*, where files are replaced; move it"):
        refuse_inside(tmp_path / "corpus/wavs", tmp_path / "corpus", "work")
