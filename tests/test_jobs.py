"""Many phrases: several processes, resuming after any end, folders, and memory."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import yaml

from common.errors import UserError
from common.lock import locked
from common.schema import from_dict
from common.tracking.jsonl import JsonLines
from synthesis import jobs, records
from synthesis.job_options import NOT_READ_RIGHT, InferenceConfig, Shard
from synthesis.jobs import Job, line_name
from synthesis.phrases import Phrase, PhraseFile
from tests.helpers import REPOSITORY, wait_until
from tests.helpers.commands import Result, composed, fails_with, run_here

NUM_LINES = 7
TEXT = "".join(f"Line {'very ' * (k % 4)}{k}.\n\n" for k in range(NUM_LINES - 1)) + "###\n"  # the last has no sound


@pytest.fixture(autouse=True, scope="module")
def small_shares() -> Iterator[None]:
    """Shares have every N-th 2 lines, which is one batch of them."""
    with mock.patch.object(jobs, "SORTED_BATCHES", 1):
        yield


@pytest.fixture
def phrases(tmp_path: Path) -> Path:
    (tmp_path / "phrases.txt").write_text(TEXT)
    return tmp_path / "phrases.txt"


def speak(
    run: Path, phrases: Path, output: Path, *options: str, expect: int | tuple[int, ...] = (0, NOT_READ_RIGHT)
) -> Result:
    """With a voice that has hardly been trained, and reads nothing right."""
    return run_here(
        "inference.py", f"tacotron2={run}", "vocoder=griffin_lim", f"input={phrases}", f"output={output}",
        "max_decoder_steps=4", "attempts=1", "batch_size=2", "device=cpu", *options, expect=expect,
    )  # fmt: skip


def shard(number: int, total: int) -> tuple[str, str, str]:
    return f"shard={number}", f"num_shards={total}", "resume=true"


def audible(output: Path) -> dict[str, bytes]:
    """The content of all files but logs and locks."""
    files = (path for path in output.rglob("*") if path.suffix in (".wav", ".png"))
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


def lines_of(path: Path) -> list[int]:
    return [row["line"] for row in map(json.loads, path.read_text().splitlines()) if "line" in row]


@pytest.fixture(scope="module")
def undisturbed(tacotron2_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one process."""
    folder = tmp_path_factory.mktemp("undisturbed")
    (folder / "phrases.txt").write_text(TEXT)
    speak(tacotron2_run, folder / "phrases.txt", folder / "out")
    assert len(audible(folder / "out")) == 2 * (NUM_LINES - 1)
    return folder / "out"


# ---- several processes ----


def test_several_processes_give_the_files_of_one(
    tacotron2_run: Path, phrases: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The second as under torchrun. They may also run one after the other, and do not need resume=true."""
    out = tmp_path / "out"
    printed = speak(tacotron2_run, phrases, out, "shard=0", "num_shards=2", expect=0).stdout
    assert not (out / "manifest.jsonl").exists()
    assert "lines are done" in printed
    with mock.patch.dict(os.environ, RANK="1", WORLD_SIZE="2"):
        printed = speak(tacotron2_run, phrases, out, expect=NOT_READ_RIGHT).stdout  # for both
    assert f"{out}/manifest.jsonl: all {NUM_LINES} lines are done" in printed
    assert audible(out) == audible(undisturbed)
    assert lines_of(out / "manifest.jsonl") == list(range(1, 2 * NUM_LINES, 2))
    assert sorted(lines_of(out / "log.0.jsonl") + lines_of(out / "log.1.jsonl")) == lines_of(out / "manifest.jsonl")
    assert json.loads((out / "manifest.jsonl").read_text().splitlines()[-1])["silent"] is True


@pytest.mark.fault(31)
def test_processes_of_one_job_exclude_others(tacotron2_run: Path, phrases: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "out", tmp_path / "other.txt"
    other.write_text("Other.\n")
    config = InferenceConfig(tacotron2=str(tacotron2_run), vocoder="griffin_lim", input=str(phrases), output=str(out))
    out.mkdir()
    first, second = (Job(config, PhraseFile(phrases), Shard(k, 2)) for k in (0, 1))
    with mock.patch.object(jobs, "PATIENCE", 0.1), first.locked(), second.locked():
        same = Job(config, PhraseFile(phrases), Shard(1, 2))
        for job in (same, Job(config, PhraseFile(phrases), Shard(2, 3)), Job(config, PhraseFile(other), Shard(1, 2))):
            with pytest.raises(UserError, match="is in use by another command"):
                job.locked().__enter__()
        with pytest.raises(UserError, match=r"in use by another command \(job \w+ of 2 processes\)"):
            locked(out, "output").__enter__()
    with locked(out, "output"):
        pass


def test_shares(tmp_path: Path) -> None:
    def config(**options: Any) -> InferenceConfig:
        return InferenceConfig(tacotron2="t", vocoder="griffin_lim", input="i", output="o", **options)

    environment = {"RANK": "2", "WORLD_SIZE": "4"}
    assert Shard.of(config(), {}) == (0, 1)
    assert Shard.of(config(), environment) == (2, 4)
    assert Shard.of(config(shard=1, num_shards=3), environment) == (1, 3)
    for options, message in (({"shard": 1}, "set both"), ({"shard": 3, "num_shards": 3}, "shards count from 0")):
        with pytest.raises(UserError, match=message):
            config(**options)
    with pytest.raises(UserError, match="set one of them"):
        config(overwrite=True, resume=True)


# ---- resuming ----


def run_and_kill(run: Path, phrases: Path, output: Path, kills: random.Random) -> None:
    """Start two processes of three, and end each at a random moment behind its first lines, by a random signal."""
    children = []
    for number in kills.sample(range(3), 2):
        if not (child := os.fork()):
            try:
                speak(run, phrases, output, *shard(number, 3))
            finally:
                os._exit(0)
        children.append((child, output / f"log.{number}.jsonl"))
    for child, log in children:
        before, deadline = log.stat().st_size if log.exists() else 0, time.monotonic() + 20
        while time.monotonic() < deadline and not (log.exists() and log.stat().st_size > before + 1000):
            if os.waitpid(child, os.WNOHANG)[0]:
                break
            time.sleep(0.002)
        else:
            time.sleep(kills.random() * 0.2)
            os.kill(child, kills.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT]))
            os.waitpid(child, 0)


@pytest.mark.fault(32)
def test_killed_at_any_moment(tacotron2_run: Path, phrases: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Real processes; forked, since a new one imports for seconds. Then the rest is made by two, not three."""
    out, kills = tmp_path / "out", random.Random(0)
    for _ in range(3):
        run_and_kill(tacotron2_run, phrases, out, kills)
    assert records.Logs(out, 99).read()
    for number in range(2):
        speak(tacotron2_run, phrases, out, *shard(number, 2))
    assert audible(out) == audible(undisturbed)
    assert not list(out.glob(".*.tmp"))
    assert not list(out.glob("*.partial.wav"))
    assert lines_of(out / "manifest.jsonl") == list(range(1, 2 * NUM_LINES, 2))
    assert sorted(line for log in out.glob("log.*.jsonl") for line in lines_of(log)) == lines_of(out / "manifest.jsonl")
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.wav")}
    assert (
        f"{NUM_LINES} of {NUM_LINES} lines are done already" in speak(tacotron2_run, phrases, out, *shard(0, 2)).stdout
    )
    assert times == {path: path.stat().st_mtime_ns for path in out.glob("*.wav")}


@pytest.mark.fault(32)
def test_a_row_that_a_power_failure_cuts_off(
    tacotron2_run: Path, phrases: Path, undisturbed: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    speak(tacotron2_run, phrases, out)
    log = out / "log.jsonl"
    rows = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join(rows[:6]) + rows[6][:-9] + b"\0" * 70_000)
    (out / "0005.wav").write_bytes(b"RIFF")
    fails_with(speak(tacotron2_run, phrases, out, expect=1), "exists already", "resume=true", "overwrite=true")
    printed = speak(tacotron2_run, phrases, out, "resume=true").stdout
    assert f"5 of {NUM_LINES} lines are done already" in printed
    assert audible(out) == audible(undisturbed)
    assert lines_of(log) == list(range(1, 2 * NUM_LINES, 2))


def test_another_job_is_not_resumed(tacotron2_run: Path, phrases: Path, tmp_path: Path) -> None:
    out, lexicon, model = tmp_path / "out", tmp_path / "words.txt", tmp_path / "model.pt"
    lexicon.write_text("very\tvary\n")
    phrases.write_text("One.\n")
    model.write_bytes((tacotron2_run / "checkpoints/best.pt").read_bytes())
    options = "resume=true", f"lexicon={lexicon}"
    speak(model, phrases, out, *options)

    def refused(*parts: str, more: tuple[str, ...] = options) -> None:
        fails_with(speak(model, phrases, out, *more, expect=1), f"{out}/log.jsonl: its lines were made by", *parts)

    refused("seed=1 instead of 0", "pauses=", "choose another output=DIR", more=(*options, "seed=1", "pauses.clause=1"))
    refused("another content of lexicon=None", more=("resume=true",))
    lexicon.write_text("very\tverry\n")
    refused(f"another content of lexicon={lexicon}")
    lexicon.write_text("very\tvary\n")
    phrases.write_text("One\n")
    refused(f"another content of input={phrases}")
    phrases.write_text("One.\n")
    model.write_bytes((tacotron2_run / "checkpoints/step_00000004.pt").read_bytes() + b"\n")
    refused(f"another content of tacotron2={model}")
    speak(tacotron2_run, phrases, tmp_path / "shared", "shard=0", "num_shards=2")
    again = speak(tacotron2_run, phrases, tmp_path / "shared", "shard=0", "num_shards=2", expect=1)
    fails_with(again, "log.0.jsonl exists already", "resume=true")
    for more in ((), ("shard=1", "num_shards=2")):
        result = speak(tacotron2_run, phrases, tmp_path / "shared", "overwrite=true", *more, expect=1)
        fails_with(result, "only one process can overwrite", f"remove {tmp_path}/shared")
    row = json.loads((out / "log.jsonl").read_text().splitlines()[0])
    (tmp_path / "old").mkdir()
    JsonLines(tmp_path / "old/log.jsonl").write(config=row["config"])
    JsonLines(tmp_path / "old/log.jsonl").write(file="0000.wav", line=1)
    fails_with(speak(model, phrases, tmp_path / "old", "resume=true", expect=1), "earlier version", "another output")


# ---- files ----


def test_json_lines(tacotron2_run: Path, tmp_path: Path) -> None:
    phrases = tmp_path / "phrases.jsonl"
    phrases.write_text('{"text": " One. ", "id": "../a", "more": 1}\n\n{"text": "", "id": 7}\n{"text": "Two.\\n"}\n')
    assert list(PhraseFile(phrases)) == [Phrase(0, 1, "One.", "../a"), Phrase(1, 3, "", 7), Phrase(2, 4, "Two.")]
    speak(tacotron2_run, phrases, tmp_path / "out", "pictures=false")
    rows = [json.loads(row) for row in (tmp_path / "out/log.jsonl").read_text().splitlines()][1:]
    assert [row.get("id") for row in rows] == ["../a", 7, None]
    assert sorted(audible(tmp_path / "out")) == ["0000.wav", "0002.wav"]


@pytest.mark.fault(19)
@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('["text"]', "not an object with a text"),
        ('{"txt": "a"}', "not an object with a text"),
        ('{"text": 1}', "not an object with a text"),
        ('{"text": "a"', "not an object with a text"),
        ("[" * 100_000, "not an object with a text"),
        ('{"text": "\\ud800"}', "surrogate"),
        ('{"text": "a", "id": {"line": 1}}', "its id is"),
        ('{"text": "a", "id": true}', "its id is"),
    ],
)
def test_json_lines_that_cannot_be_used(row: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text(f'{{"text": "a"}}\n{row}\n')
    with pytest.raises(UserError, match=rf"input .*bad\.jsonl:2: .*{message}"):
        PhraseFile(tmp_path / "bad.jsonl")


@pytest.mark.fault(19)
def test_a_file_that_changes_while_it_is_read(phrases: Path) -> None:
    file = PhraseFile(phrases)
    read = iter(file)
    next(read)
    phrases.write_text(TEXT.replace("Line", "Word") + "More.\n")
    with pytest.raises(UserError, match=r"phrases.txt: the file has changed"):
        list(read)


def test_phrases_from_a_pipe() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"\xef\xbb\xbfone\r\n\r\ntwo\rthree")
    os.close(writer)
    phrases = PhraseFile(f"/dev/fd/{reader}")
    os.close(reader)
    assert list(phrases) == [Phrase(0, 1, "one"), Phrase(1, 3, "two"), Phrase(2, 4, "three")]


def test_folders(tacotron2_run: Path, phrases: Path, undisturbed: Path, tmp_path: Path) -> None:
    """Of more than 1,000 lines, here of more than 3. Only the names differ."""
    out = tmp_path / "out"
    with mock.patch.object(jobs, "LARGEST_FLAT", 3):
        speak(tacotron2_run, phrases, out)
        assert audible(out) == {f"00/00/00{name}": data for name, data in audible(undisturbed).items()}
        assert lines_of(out / "manifest.jsonl") == lines_of(out / "log.jsonl")
        fails_with(speak(tacotron2_run, phrases, out, expect=1), f"{out}/00 exists already", "resume=true")
        phrases.write_text("One.\nTwo.\n")
        printed = speak(tacotron2_run, phrases, out, "overwrite=true").stdout
    assert f"removed {2 * (NUM_LINES - 1)} files" in printed
    assert sorted(path.name for path in out.iterdir()) == [
        ".lock", "0000.png", "0000.wav", "0001.png", "0001.wav", "log.jsonl",
    ]  # fmt: skip
    assert line_name(7, True) == "0007"
    assert [line_name(number, False) for number in (7, 123_456, 12_345_678)] == [
        "00/00/000007", "12/34/123456", "1234/56/12345678",
    ]  # fmt: skip


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_lines(tacotron2_run: Path, tmp_path: Path) -> None:
    """From 300 lines to 100 times as many, of which all but the last two are done."""

    def peak(num_lines: int) -> int:
        output = tmp_path / f"out{num_lines}"
        output.mkdir()
        path = tmp_path / f"{num_lines}.txt"
        path.write_text("".join(f"This is line {k}, as long as others.\n" for k in range(num_lines)))
        config = InferenceConfig(
            tacotron2=str(tacotron2_run), vocoder="griffin_lim", input=str(path), output=str(output), resume=True
        )
        job = Job(config, PhraseFile(path), Shard(0, 2))
        contents = {"device": job.identity["device"], "contents": job.identity["contents"]}
        header = {"config": dataclasses.asdict(config), **contents}
        with open(output / "log.1.jsonl", "w") as log:
            for row in (header, *({"line": line, "text": "x" * 40} for line in range(1, num_lines - 1))):
                log.write(json.dumps({"time": 1.5, **row}) + "\n")
        tracemalloc.start()
        job = Job(config, PhraseFile(path), Shard(0, 2))
        job.check()
        assert [phrase.line for batch in job.batches() for phrase in batch] == [num_lines - 1]
        logs = records.Logs(output, num_lines)
        records.write_manifest(output / "manifest.jsonl", logs.read(), num_lines)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert len(lines_of(output / "manifest.jsonl")) == num_lines - 2
        return most

    peak(100)  # what is imported or cached once
    few, many = peak(300), peak(30_000)
    assert many - few < 10 * 29_700, (few, many)  # bytes: the manifest's table has 8 for each line


# ---- clusters ----


def stub(folder: Path, name: str, content: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\n{content}\n")
    (folder / name).chmod(0o755)


def test_the_kubernetes_recipe_runs_a_valid_command(tmp_path: Path) -> None:
    """Each pod has a share, and all that is written is on the shared volume. A stub prints what would be run."""
    job = yaml.safe_load((REPOSITORY / "scripts/kubernetes/speak.yaml").read_text())["spec"]
    container = job["template"]["spec"]["containers"][0]
    stub(tmp_path / "bin", "python", 'printf "%s\\n" "$@"')
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    assert int(environment["NUM_SHARDS"]) == job["completions"] == job["parallelism"]
    environment |= {"JOB_COMPLETION_INDEX": "3", "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    command = container["command"] + container["args"]
    script, *options = subprocess.run(command, env=environment, capture_output=True, text=True).stdout.splitlines()
    assert script == "inference.py"
    config = from_dict(InferenceConfig, composed("inference", *options))
    assert Shard.of(config, {}) == (3, job["completions"])
    assert config.resume
    assert config.output.startswith(container["volumeMounts"][0]["mountPath"] + "/")
    assert container["volumeMounts"][0]["name"] == job["template"]["spec"]["volumes"][0]["name"]


@pytest.mark.slow
@pytest.mark.fault(13)
def test_slurm_queues_again_after_a_signal(tacotron2_run: Path, phrases: Path, tmp_path: Path) -> None:
    """The batch script with real processes, two of an array from 4 to 6 in steps of 2; a stub replaces scontrol."""
    out = tmp_path / "out"
    stub(tmp_path / "bin", "scontrol", f'echo "$@" >> {tmp_path}/requeued')
    stub(tmp_path / "bin", "python", f'exec {sys.executable} "$@"')
    environment = os.environ | {
        "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SLURM_ARRAY_TASK_COUNT": "2", "SLURM_ARRAY_TASK_MIN": "4",
        "SLURM_ARRAY_TASK_STEP": "2", "SLURM_JOB_ID": "42", "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    phrases.write_text("A line.\n" * 200)
    options = f"tacotron2={tacotron2_run}", "vocoder=griffin_lim", f"input={phrases}", f"output={out}", "device=cpu"
    command = "bash", "scripts/slurm/speak.sbatch", *options, "max_decoder_steps=2", "attempts=1", "pictures=false"

    def start(task: int) -> subprocess.Popen[str]:
        task_environment = environment | {"SLURM_ARRAY_TASK_ID": str(task)}
        return subprocess.Popen(command, cwd=REPOSITORY, env=task_environment, stdout=subprocess.PIPE, text=True)

    tasks = [start(4), start(6)]
    wait_until(lambda: tasks[0].poll() is not None or (out / "0000.wav").exists())
    assert tasks[0].poll() is None
    tasks[0].send_signal(signal.SIGUSR1)
    assert "requeueing" in tasks[0].communicate()[0]
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"
    tasks[1].communicate()
    again = start(4)
    printed = again.communicate()[0]
    assert [task.returncode for task in (*tasks, again)] == [0, 0, NOT_READ_RIGHT]
    assert "lines are done already" in printed
    assert lines_of(out / "manifest.jsonl") == list(range(1, 201))
    assert len(audible(out)) == 200
    assert (tmp_path / "requeued").read_text() == "requeue 42\n"  # a finished task is not queued again
