"""Gives damaged files to every reader of files from outside.

    python -m tests.helpers.fuzz CORPUS RUN DIR [CASES SEED]

A reader may succeed or raise a UserError; anything else is printed as a failure. The process limits its own memory, and
a case may take 10 seconds.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from hydra.core.global_hydra import GlobalHydra

from common import conf
from common.audio import load_audio
from common.checkpoint import formats
from common.conf import CONF
from common.config import AudioConfig, DataConfig, TrainConfig
from common.data.filelist import scan_filelist
from common.data.mels import MelDirectory
from common.data.metadata import read_metadata
from common.entry import hydra_entry
from common.errors import UserError
from common.schema import from_dict
from evaluation.page import evaluation_section, read_log
from tacotron2.spec import TACOTRON2
from tests.helpers.commands import composed
from tests.helpers.golden import golden_path
from waveglow.spec import WAVEGLOW

SPECS = (TACOTRON2, WAVEGLOW)
SECONDS = 10  # for a case
MEMORY = 3 << 30  # bytes beyond those of the imports
PIECES = (
    b"\x00", b"\xff", b"|", b"\n", b"\r", b"..", b"/", b"{", b"}", b"[", b'"', b"null", b"-1", b"1e999", b"NaN",
    b"9" * 40, b"\xef\xbb\xbf", b"\xed\xa0\x80", b"a" * 300, "\u0308\u202e".encode(), b"../../outside", b"\x1b[2J",
)  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """`data` with one to four changes: bytes replaced, inserted, removed, repeated or swapped."""
    out = bytearray(data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(len(out) + 1)
        end = min(len(out), at + rng.choice((1, 2, 4, 16, 200)))
        kind = rng.randrange(6)
        if kind == 0:
            out[at:end] = rng.randbytes(end - at)
        elif kind == 1:
            out[at:at] = rng.choice(PIECES)
        elif kind == 2:
            out[at:end] = rng.choice(PIECES)
        elif kind == 3:
            del out[at : rng.choice((end, len(out)))]
        elif kind == 4:
            out[at:at] = out[at:end] * rng.choice((1, 2, 50))
        else:
            other = rng.randrange(len(out) + 1)
            out[at:at] = out[other : other + 16]
    return bytes(out)


def damaged_archive(data: bytes, rng: random.Random) -> bytes:
    """A zip file with right checksums around a damaged pickle, or a damaged zip file."""
    if rng.random() < 0.2:
        return damaged(data, rng)
    result = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as source, zipfile.ZipFile(result, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            is_chosen = name.endswith("data.pkl") or rng.random() < 0.02
            target.writestr(name, damaged(content, rng) if is_chosen else content)
    return result.getvalue()


class Reader:
    """Reads a file `name` in a directory; `seed` is an undamaged one."""

    def __init__(
        self,
        name: str,
        seed: bytes,
        read: Callable[[Path], object],
        share: float,
        damage: Callable[[bytes, random.Random], bytes] = damaged,
    ) -> None:
        self.name, self.seed, self.read, self.share, self.damage = name, seed, read, share, damage


def readers(corpus: Path, run_dir: Path, directory: Path) -> list[Reader]:
    """All readers; `share` is how often each is tried, relative to the others."""
    root = directory / "corpus"
    shutil.copytree(corpus, root)
    mels = root / "mels"
    clips, _ = scan_filelist(root / "filelists/train.txt", root)

    def mel_directory(path: Path) -> None:
        MelDirectory(mels).check(clips, AudioConfig())

    def mel(path: Path) -> None:
        mel_directory(path)
        MelDirectory(mels).load(clips[0])

    def filelist(path: Path) -> None:
        scan_filelist(path, root)

    def checkpoint(path: Path) -> None:
        found = formats.load(path, SPECS)
        formats.build(found, path, SPECS)

    @hydra_entry("train")
    def read_config(values: dict[str, Any]) -> None:
        from_dict(TrainConfig, values)

    def config(path: Path) -> None:
        command = ["train.py", "model=waveglow", "experiment=demo", "run_dir=x"]
        with mock.patch.object(conf, "CONF", directory / "conf"), mock.patch.object(sys, "argv", command):
            GlobalHydra.instance().clear()
            try:
                read_config()
            except SystemExit as error:  # it has printed the message of a UserError
                raise UserError("refused") from error

    def options(path: Path) -> None:
        arguments = path.read_bytes().decode("utf-8", "replace").split("\n")
        from_dict(DataConfig, data | dict(argument.partition("=")[::2] for argument in arguments))

    shutil.copytree(CONF, directory / "conf")
    demo = (CONF / "experiment/demo.yaml").read_bytes()
    data = composed("train", "model=waveglow", f"data.root={root}", "run_dir=x")["data"]
    ours = (run_dir / "checkpoints/best.pt").read_bytes()
    loaded = formats.load(run_dir / "checkpoints/best.pt", SPECS)
    formats.save_safetensors(loaded, directory / "seed.safetensors")
    mel_file = f"corpus/mels/{clips[0].path}.npy"
    return [
        Reader("corpus/metadata.csv", (root / "metadata.csv").read_bytes(), lambda path: read_metadata(root), 20),
        Reader("corpus/filelists/train.txt", (root / "filelists/train.txt").read_bytes(), filelist, 20),
        Reader("corpus/mels/manifest.jsonl", (mels / "manifest.jsonl").read_bytes(), mel_directory, 15),
        Reader("corpus/mels/audio.json", (mels / "audio.json").read_bytes(), mel_directory, 10),
        Reader(mel_file, (directory / mel_file).read_bytes(), mel, 15),
        Reader("log.jsonl", (run_dir / "log.jsonl").read_bytes(), lambda path: read_log(directory), 10),
        Reader("a.wav", clips[0].file.read_bytes(), lambda path: load_audio(path, AudioConfig(), True), 10),
        Reader("a.flac", FLAC.read_bytes(), lambda path: load_audio(path, AudioConfig(), True), 3),
        Reader("conf/experiment/demo.yaml", demo, config, 0.5),
        Reader("evaluation.json", EVALUATION, lambda path: evaluation_section(directory), 10),
        Reader("options", b"num_workers=2\nlimit=3\nconvert_audio=true", options, 10),
        Reader("ours.pt", ours, checkpoint, 1, damaged_archive),
        Reader("m.safetensors", (directory / "seed.safetensors").read_bytes(), checkpoint, 4, damaged_header),
        Reader("reference.pt", golden_path("dle_tacotron2.pt").read_bytes(), checkpoint, 2, damaged_archive),
        Reader("pickled.pt", golden_path("nvidia_waveglow_pickled.pt").read_bytes(), checkpoint, 0.3, damaged_archive),
    ]


EVALUATION = json.dumps({
    "summary": {"recordings": {"utterances": 1, "wer": {"mean": 3.5, "low": 1.0, "high": None}}},
    "utterances": {"text": [{"name": "0000", "text": "It was.", "heard": "It was."}], "recordings": []},
}).encode()  # fmt: skip
FLAC = Path(__file__).resolve().parent.parent / "golden/LJ001-0002.flac"


def damaged_header(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file with a damaged header of the right length."""
    if rng.random() < 0.2:
        return damaged(data, rng)
    size = int.from_bytes(data[:8], "little")
    header = damaged(data[8 : 8 + size], rng)
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


def too_slow(*_: object) -> None:
    raise TimeoutError(f"more than {SECONDS} s")


def listing(directory: Path) -> dict[str, int]:
    return {str(path): path.stat().st_size for path in sorted(directory.rglob("*")) if path.is_file()}


def main(corpus: str, run_dir: str, directory: str, cases: str = "20000", seed: str = "0") -> None:
    warnings.simplefilter("ignore")
    inside = Path(directory) / "inside"
    inside.mkdir(parents=True)
    outside = Path(directory) / "outside"
    outside.write_text("not to be touched")
    all_readers = readers(Path(corpus), Path(run_dir), inside)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    signal.signal(signal.SIGALRM, too_slow)
    rng, results, failures = random.Random(int(seed)), Counter[str](), Counter[str]()
    slowest, started = 0.0, time.monotonic()
    before = listing(Path(directory))
    for case in range(int(cases)):
        (reader,) = rng.choices(all_readers, [reader.share for reader in all_readers])
        path = inside / reader.name
        content = reader.damage(reader.seed, rng)
        path.write_bytes(content)
        signal.alarm(SECONDS)
        begun = time.monotonic()
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                reader.read(path)
            results["read"] += 1
        except UserError:
            results["refused"] += 1
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(where.filename).name}:{where.lineno}"
            kind = f"{reader.name}: {type(error).__name__}: {str(error)[:100]} ({place})"
            failures[kind] += 1
            if failures[kind] == 1:
                print(f"case {case}: {kind}", flush=True)
                (Path(directory).parent / f"failed_{case}_{Path(reader.name).name}").write_bytes(content)
        finally:
            signal.alarm(0)
        slowest = max(slowest, time.monotonic() - begun)
        if "/" in reader.name:  # which others read too
            path.write_bytes(reader.seed)
    same = {name: size for name, size in listing(Path(directory)).items() if name in before} == before
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{cases} cases in {time.monotonic() - started:.0f} s: {results['read']} read, {results['refused']} refused, "
        f"{sum(failures.values())} failed; slowest {slowest:.2f} s; peak {peak:.0f} MB; other files untouched: {same}"
    )
    sys.exit(bool(failures) or not same)


if __name__ == "__main__":
    main(*sys.argv[1:])
