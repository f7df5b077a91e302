"""scripts/speak.py: text in, a file, a pipe or the loudspeaker out; on this machine or by a server."""

from __future__ import annotations

import functools
import io
import os
import signal
import socketserver
import subprocess
import sys
import threading
import types
import wave
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from unittest import mock

import av
import numpy as np
import pytest
import soundfile
import torch

from inference import Synthesizer
from synthesis.audio_file import in_16_bits, wav_header
from synthesis.local_speech import LocalSpeech
from synthesis.scheduler.script import plain
from synthesis.sinks import FORMATS, STREAMED, to_stream
from tests.helpers import REPOSITORY, wait_until
from tests.helpers.commands import Result, fails_with, run_here
from tests.helpers.server import VOICE, Running, running

TEXT = "Hello there. It costs $5.20!"
SPEAK = "scripts/speak.py"


@pytest.fixture(scope="module")
def voice() -> Synthesizer:
    return Synthesizer.load(VOICE, device="cpu")


def expected(voice: Synthesizer, text: str, **options: float) -> np.ndarray:
    return in_16_bits(torch.cat(list(voice.stream(text, **options))))


def assert_close(found: np.ndarray, wanted: np.ndarray) -> None:
    """Equal within 2e-4 of full scale: what other chunks of the vocoder change."""
    assert found.shape == wanted.shape
    assert np.abs(found.astype(int) - wanted).max() <= 7


def samples(path: Path) -> np.ndarray:
    audio, rate = soundfile.read(path, dtype="int16")
    assert rate == 22050
    return audio


def duration(encoded: str | io.BytesIO) -> float:
    """Seconds."""
    with av.open(encoded) as file:
        frames = [(frame.samples, frame.sample_rate) for frame in file.decode(audio=0)]
    return sum(count / rate for count, rate in frames)


def speak(*arguments: object, expect: int = 0, stdin: bytes | None = None) -> Result:
    """Run it here; on the CPU, unless a server is asked."""
    where = () if "--url" in arguments else ("--device", "cpu")
    if stdin is None:
        return run_here(SPEAK, *arguments, *where, expect=expect)
    with piped(lambda write: write(stdin)) as reader, mock.patch.object(sys, "stdin", reader):
        return run_here(SPEAK, *arguments, *where, expect=expect)


@contextmanager
def piped(send: Callable[[Callable[[bytes], object]], object]) -> Iterator[io.TextIOWrapper]:
    """Standard input that `send` writes to, from a thread."""
    reader, writer = os.pipe()

    def run() -> None:
        with open(writer, "wb", buffering=0) as file:
            send(file.write)

    thread = threading.Thread(target=run)
    thread.start()
    with open(reader) as file:
        yield file
    thread.join()


# ---- on this machine ----


@pytest.mark.slow
def test_a_text_to_each_format(voice: Synthesizer, tmp_path: Path) -> None:
    wanted = expected(voice, TEXT)
    for kind in FORMATS:
        path = tmp_path / f"a.{kind.upper() if kind == 'wav' else kind}"
        assert speak(TEXT, "-o", path).stdout == f"{path}  {len(wanted) / 22050:.2f} s\n"
        if kind in ("wav", "flac"):
            assert_close(samples(path), wanted)
        assert duration(str(path)) == pytest.approx(len(wanted) / 22050, abs=0.15)
    assert len(list(tmp_path.iterdir())) == len(FORMATS)


def test_format_speed_and_seed(voice: Synthesizer, tmp_path: Path) -> None:
    options = ("--format", "flac", "--speed", 2, "--seed", 3, "--voice", VOICE)
    speak("Yes.", "-o", tmp_path / "a.bin", *options)
    assert (tmp_path / "a.bin").read_bytes()[:4] == b"fLaC"
    assert_close(samples(tmp_path / "a.bin"), expected(voice, "Yes.", speed=2.0, seed=3))


def test_standard_input_and_overwriting(voice: Synthesizer, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    path.write_text("old")
    fails_with(speak("Hi.", "-o", path, expect=1), f"{path} exists already", "--overwrite")
    assert path.read_text() == "old"
    speak("--overwrite", "-o", path, stdin=f"{TEXT}\nÄrger in\nthe café.\n".encode())
    assert_close(samples(path), expected(voice, f"{TEXT}\nÄrger in\nthe café.\n"))


def test_ssml(voice: Synthesizer, tmp_path: Path) -> None:
    """As an argument, and from standard input."""
    document = '<speak><break time="1s"/>Yes.</speak>'
    speak(document, "--ssml", "-o", tmp_path / "a.wav")
    speak("--ssml", "-o", tmp_path / "b.wav", stdin=document.encode())
    found, plain = samples(tmp_path / "a.wav"), expected(voice, "Yes.")
    assert_close(found[-len(plain) :], plain)
    assert len(found) - len(plain) == pytest.approx(22050, abs=256)
    np.testing.assert_array_equal(samples(tmp_path / "b.wav"), found)


def test_text_is_spoken_while_it_arrives(voice: Synthesizer) -> None:
    """A line is heard before the next one is written, and a sentence before its line has ended."""
    heard = [threading.Event() for _ in range(3)]

    def send(write: Callable[[bytes], object]) -> None:
        write("Hello th\u00e9".encode()[:-1])
        write("\u00e9".encode()[-1:] + b"re.\n")
        assert heard[0].wait(30)
        write(b"Yes. This is a sentence of which the end is not yet ")
        assert heard[1].wait(30)
        write(b"known.\n\n")
        assert heard[2].wait(30)

    whole = ("Hello th\u00e9re.", "Yes.", "This is a sentence of which the end is not yet known.")
    ends = np.cumsum([len(expected(voice, text)) for text in whole])
    with piped(send) as reader:
        speech, num_samples = LocalSpeech(voice, reader.fileno()), 0
        for audio in speech:
            num_samples += len(audio)
            for event, end in zip(heard, ends, strict=True):
                if num_samples >= end:
                    event.set()
        speech.close()
    assert num_samples > ends[2]  # by the pauses


def test_warnings(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="left out, because the model has no symbol for them: 😀"):
        speak("Yes 😀.", "-o", tmp_path / "a.wav")


@pytest.mark.slow
def test_wav_for_another_program(voice: Synthesizer, tmp_path: Path) -> None:
    command = [sys.executable, SPEAK, TEXT, "--device", "cpu", "-o", "-"]
    result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, timeout=60)
    assert (result.returncode, result.stderr) == (0, b"")
    with wave.open(io.BytesIO(result.stdout)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        assert_close(np.frombuffer(file.readframes(file.getnframes()), "<i2"), expected(voice, TEXT))


@pytest.mark.slow
def test_formats_for_another_program(voice: Synthesizer) -> None:
    wanted = expected(voice, TEXT)
    for kind in STREAMED:
        with to_stream(sent := io.BytesIO(), kind, 22050) as write:
            for part in voice.stream(TEXT):
                write(part)
        assert duration(io.BytesIO(sent.getvalue())) == pytest.approx(len(wanted) / 22050, abs=0.15)


@pytest.mark.slow
def test_an_interrupt_leaves_no_file(tmp_path: Path) -> None:
    catching = ["env", "--default-signal=INT"]  # the parent of these tests may ignore it
    command = [*catching, sys.executable, SPEAK, "--device", "cpu", "-o", str(tmp_path / "a.wav")]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdin.write(b"Hello there.\n")
    process.stdin.flush()
    temporary = tmp_path / ".a.wav.tmp"
    wait_until(lambda: process.poll() is not None or (temporary.exists() and temporary.stat().st_size >= 1000))
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, b"error: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_at_any_moment_stops_it(voice: Synthesizer) -> None:
    """The profiler raises where Python would: after a call or at the start of a function."""

    def interrupted(moment: int) -> bool:
        speech, moments = LocalSpeech(voice, [plain("Yes.")]), iter(range(moment))

        def profile(frame: types.FrameType, event: str, _: object) -> None:
            if event != "c_call" and next(moments, None) is None:
                sys.setprofile(None)
                raise KeyboardInterrupt

        with closing(speech):
            sys.setprofile(profile)
            try:
                for _ in speech:
                    pass
            except KeyboardInterrupt:
                return True
            finally:
                sys.setprofile(None)
        return False

    found = [in_time(functools.partial(interrupted, moment)) for moment in range(36)]
    assert sum(found) > 20


def in_time(function: Callable[[], bool]) -> bool:
    """What the function returns, if it ends."""
    results: list[bool] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive()
    return results[0]


# ---- by a server ----


def test_a_server_gives_the_same(speech_server: Running, voice: Synthesizer, tmp_path: Path) -> None:
    for kind in ("wav", "flac", "mp3"):
        speak(TEXT, "--url", speech_server.url, "--speed", 2, "-o", tmp_path / f"a.{kind}")
    speak("--url", f"{speech_server.url}/v1/", "--voice", "voice", "-o", tmp_path / "b.wav", stdin=TEXT.encode())
    speak("<speak>Yes.</speak>", "--ssml", "--url", speech_server.url, "-o", tmp_path / "c.wav")
    assert_close(samples(tmp_path / "a.wav"), expected(voice, TEXT, speed=2.0))
    assert_close(samples(tmp_path / "a.flac"), samples(tmp_path / "a.wav"))
    assert (tmp_path / "a.mp3").stat().st_size < (tmp_path / "a.wav").stat().st_size / 3
    assert_close(samples(tmp_path / "b.wav"), expected(voice, TEXT))
    assert_close(samples(tmp_path / "c.wav"), expected(voice, "Yes."))


def test_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    with running("0123456789abcdef", keys=str(tmp_path / "keys")) as server:
        by = ("--url", server.url, "--voice", "voice", "-o", tmp_path / "a.wav")
        fails_with(speak("Yes.", *by, expect=1), "a key is needed")
        fails_with(speak("Yes.", *by, "--key", "wrong", expect=1), "the key is wrong")
        fails_with(speak("Yes.", *by, "--key", "a\nb", expect=1), "the key has characters")
        assert not (tmp_path / "a.wav").exists()
        speak("Yes.", *by, "--key", server.key)
        monkeypatch.setenv("TTS_API_KEY", str(server.key))
        speak("Yes.", *by, "--overwrite")
        assert len(samples(tmp_path / "a.wav"))


class Strange(BaseHTTPRequestHandler):
    """A server that is no server of speech, or that ends in the middle."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path.startswith("/moved"):
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
        else:
            self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        if self.path.startswith("/cut"):
            self.wfile.write(b"%x\r\n" % 5000 + wav_header(22050, 10_000) + bytes(2000))
        else:
            self.wfile.write(b"5\r\nhello\r\n0\r\n\r\n")
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


def test_a_server_of_something_else(tmp_path: Path) -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Strange)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url, path = f"http://127.0.0.1:{server.server_address[1]}", tmp_path / "a.wav"
    fails_with(speak("Hi.", "--url", url, "-o", path, expect=1), "the answer is no speech")
    fails_with(speak("Hi.", "--url", f"{url}/moved", "-o", path, expect=1), "status 302", "no server of speech")
    by_name = ("--voice", "x", "-o", path)
    fails_with(speak("Hi.", "--url", url, *by_name, expect=1), "the answer is no speech")
    fails_with(speak("Hi.", "--url", f"{url}/cut", *by_name, expect=1), "ended in the middle of the audio")
    server.shutdown()
    server.server_close()
    fails_with(speak("Hi.", "--url", url, "-o", path, expect=1), "no server answers", "scripts/serve.py")
    assert list(tmp_path.iterdir()) == []


def answer(body: bytes, length: int | None = None, status: str = "200 OK", version: str = "1.1") -> bytes:
    """With a Content-Length, which may be wrong; negative: none."""
    length = len(body) if length is None else length
    header = f"Content-Length: {length}\r\n" if length >= 0 else ""
    return f"HTTP/{version} {status}\r\n{header}\r\n".encode() + body


@contextmanager
def scripted(data: bytes) -> Iterator[str]:
    """A server that sends `data` to whoever asks, and ends the connection; yields its address."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                length = int(line.split()[1]) if line.lower().startswith(b"content-length:") else length
            self.rfile.read(length)
            self.wfile.write(data)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


WAV = wav_header(22050, 2000) + bytes(2000)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (answer(WAV, len(WAV) + 1000), "in the middle of the audio"),
        (answer(WAV + b"1"), "in the middle of the audio"),
        (answer(WAV[:44]), "in the middle of the audio"),
        (answer(WAV, -1, version="1.0"), "HTTP/1.1"),
    ],
    ids=["too short", "half a sample", "only the header", "of no known length"],
)
def test_a_part_of_an_answer_is_not_taken_for_the_whole(data: bytes, message: str, tmp_path: Path) -> None:
    with scripted(data) as url:
        fails_with(speak("Hi.", "--url", url, "--voice", "x", "-o", tmp_path / "a.wav", expect=1), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (answer(b'{"voices": []}'), "has no voice"),
        (answer(b'{"voices"', 99), "no speech"),
        (answer(b"[" * 100_000), "no speech"),
        (answer(b"[" * 100_000, status="500 X"), "status 500"),
    ],
    ids=["empty", "too short", "deep", "an error"],
)
def test_a_list_of_voices_that_is_none(data: bytes, message: str, tmp_path: Path) -> None:
    with scripted(data) as url:
        fails_with(speak("Hi.", "--url", url, "-o", tmp_path / "a.wav", expect=1), message)


# ---- mistakes ----


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["-o", "{}/a.wav", "--voice", "nobody"], ["voice=nobody: no such folder or voice"]),
        (["-o", "{}/a.xyz"], ["its suffix names no audio format", "wav, flac, ogg"]),
        (["-o", "{}/a"], ["its suffix names no audio format"]),
        (["-o", "{}/none/a.wav"], ["create its directory"]),
        (["-o", "{}/a.wav", "--speed", "5"], ["--speed=5.0 must be at least 0.25 and at most 4"]),
        (["-o", "{}/a.wav", "--speed", "nan"], ["--speed=nan must be a finite number"]),
        (["-o", "-", "--format", "ogg"], ["ogg cannot be written to a pipe", "opus"]),
        (["-o", "{}/a.wav", "--key", "x"], ["--key is for a server"]),
        (["-o", "{}/a.wav", "--ssml"], ["line 1"]),
        (["--format", "mp3"], ["--format is not for the loudspeaker"]),
        (["-o", "{}/a.wav", "--url", "http://127.0.0.1:9", "--seed", "1"], ["--seed is not for a server"]),
        (["-o", "{}/a.wav", "--url", "file:///etc/passwd"], ["no address of a server", "http://127.0.0.1:8000"]),
        (["-o", "{}/a.wav", "--url", "http://127.0.0.1:x"], ["no server answers"]),
        (["-o", "{}/a.wav", "--url", "http://[::1"], ["no address of a server"]),
    ],
)
def test_mistakes(arguments: list[str], parts: list[str], tmp_path: Path) -> None:
    fails_with(run_here(SPEAK, "Hi.", *[a.format(tmp_path) for a in arguments], expect=1), *parts)
    assert list(tmp_path.iterdir()) == []


def test_texts_that_cannot_be_spoken(speech_server: Running, tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    fails_with(speak("...", "-o", path, expect=1), "no word that can be spoken")
    fails_with(speak("-o", path, stdin=b"", expect=1), "no word that can be spoken")
    fails_with(speak("-o", path, stdin=b"Hi\xff.", expect=1), "not UTF-8", "iconv")
    by = ("--url", speech_server.url, "-o", path)
    fails_with(speak("...", *by, expect=1), "no word that can be spoken")
    fails_with(speak("Hi.", "--voice", "nobody", *by, expect=1), "the voices are: voice")
    fails_with(speak("a" * 5000, *by, expect=1), "the limit is 4,096")
    fails_with(speak(*by, stdin=b"Hi\xff.", expect=1), "not UTF-8")
    assert list(tmp_path.iterdir()) == []


# ---- the loudspeaker ----


def test_the_loudspeaker(voice: Synthesizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that run tests have none, so a module stands for the package."""
    played: list[np.ndarray] = []

    class OutputStream:
        def __init__(self, samplerate: int, channels: int, dtype: str) -> None:
            assert (samplerate, channels, dtype) == (22050, 1, "int16")

        def __enter__(self) -> OutputStream:
            return self

        def __exit__(self, *_: object) -> None:
            played.append(np.zeros(0, np.int16))

        def write(self, part: np.ndarray) -> None:
            played.append(part)

    module = types.ModuleType("sounddevice")
    module.__spec__ = mock.Mock()
    module.__dict__.update(OutputStream=OutputStream, PortAudioError=RuntimeError)
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    assert speak(TEXT).stdout == ""
    assert_close(np.concatenate(played), expected(voice, TEXT))
    monkeypatch.setattr(module, "OutputStream", mock.Mock(side_effect=RuntimeError("no device")))
    fails_with(speak(TEXT, expect=1), "no loudspeaker can be used (no device)", "-o FILE")


def test_without_the_package_of_the_loudspeaker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    (tmp_path / "sounddevice.py").write_text('raise OSError("PortAudio library not found")')
    fails_with(speak(TEXT, expect=1), "PortAudio library not found", "libportaudio2", "-o FILE")
    with mock.patch("importlib.util.find_spec", return_value=None):
        fails_with(speak(TEXT, expect=1), "sounddevice is not installed; run: pip install sounddevice", "-o FILE")
