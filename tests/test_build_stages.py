"""The stages of scripts/build_voice.py: what is run, run again, or kept; and how long a voice is trained."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import build_voice
import pytest

from common.data.mels import MANIFEST_FILE
from common.entry import text_option
from common.errors import UserError
from common.files import require_space
from recordings.stages import RECORD, Runner, Stage, duration, set_aside
from recordings.training import KNOWN, RATE_STEPS, expected_wer, planned_steps, schedule, wanted_steps
from tests.helpers import REPOSITORY, wait_until
from tests.helpers.commands import composed

COPY = "import shutil, sys; shutil.copyfile(*sys.argv[1:])"


def copying(folder: Path, name: str = "copy", **options: object) -> Stage:
    """A stage that copies the file `in` to the file `out`."""
    command = [sys.executable, "-c", COPY, str(folder / "in"), str(folder / "out")]
    return Stage(name, "copy a file", command, [folder / "in"], folder / "out", **options)  # type: ignore[arg-type]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "in").write_text("one")
    return tmp_path


def run(folder: Path, stage: Stage, capsys: pytest.CaptureFixture[str]) -> str:
    Runner(folder).run(stage, "1/1")
    return capsys.readouterr().out


def test_a_stage_runs_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "copy a file (about 6 seconds)\n$ " in run(folder, copying(folder), capsys)
    assert "done before" in run(folder, copying(folder), capsys)


def test_the_time_to_the_end_counts_the_stages_to_come(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runner = Runner(folder, {"copy": 50.0, "other": 3.0})
    runner.run(copying(folder, minutes=4.0), "1/2")
    assert "(about 4 minutes, 7 minutes to the end)" in capsys.readouterr().out
    runner.run(copying(folder, "other", minutes=5.0), "2/2")
    assert "(about 5 minutes)" in capsys.readouterr().out


def test_a_stage_whose_input_has_changed_runs_again_and_keeps_what_it_had_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder, copying(folder), capsys)
    (folder / "in").write_text("two")
    assert f"kept as {folder / 'out.old'}" in run(folder, copying(folder), capsys)
    assert [(folder / name).read_text() for name in ("out", "out.old")] == ["two", "one"]


def test_what_changes_no_result_makes_no_stage_stale(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Such as the name of the interpreter, or another spelling of a path."""
    stage = copying(folder, key=["copy"])
    run(folder, stage, capsys)
    assert "done before" in run(folder, dataclasses.replace(stage, command=["python3", *stage.command[1:]]), capsys)
    assert "kept as" in run(folder, dataclasses.replace(stage, key=["copy", "more"]), capsys)


def test_input_that_changed_while_a_stage_ran_is_new_input(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = f"{COPY}; open(sys.argv[1], 'w').write('two')"
    stage = dataclasses.replace(copying(folder), command=[sys.executable, "-c", code, *copying(folder).command[3:]])
    run(folder, stage, capsys)
    assert "kept as" in run(folder, stage, capsys)
    assert (folder / "out").read_text() == "two"


def test_a_stage_whose_output_is_gone_runs_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, copying(folder), capsys)
    (folder / "out").unlink()
    run(folder, copying(folder), capsys)
    assert (folder / "out").read_text() == "one"


def test_a_stage_that_was_interrupted_goes_on_with_what_it_had_made(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    append = (
        "import sys; given, out = sys.argv[1:]; open(out, 'a').write(open(given).read()); "
        "sys.exit(open(out).read() != 'oneone')"
    )
    command = [sys.executable, "-c", append, str(folder / "in"), str(folder / "out")]
    stage = Stage("append", "append", command, [folder / "in"], folder / "out")
    with pytest.raises(UserError, match=r"'append' ended with status 1; .* run the same command again"):
        Runner(folder).run(stage, "1/1")
    run(folder, stage, capsys)
    assert (folder / "out").read_text() == "oneone"
    assert not (folder / "out.old").exists()


def test_a_stage_that_cannot_go_on_begins_again(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It was killed after it wrote its file, before that was noted."""
    command = [sys.executable, "-c", "import sys; open(sys.argv[1], 'x')", str(folder / "out")]
    stage = Stage("make", "make", command, output=folder / "out", goes_on=False)
    run(folder, stage, capsys)
    record = json.loads((folder / RECORD).read_text())
    record["make"]["done"] = False
    (folder / RECORD).write_text(json.dumps(record))
    assert "kept as" in run(folder, stage, capsys)
    assert "done before" in run(folder, stage, capsys)


@pytest.mark.parametrize("end", ["os.kill(os.getpid(), signal.SIGTERM)", "sys.exit(143)", "sys.exit(130)"])
def test_a_stage_that_was_stopped_says_so_and_counts_its_time(folder: Path, end: str) -> None:
    command = [sys.executable, "-c", f"import os, signal, sys, time; time.sleep(0.1); {end}"]
    with pytest.raises(UserError, match=r"'wait' was stopped; run the same command again"):
        Runner(folder).run(Stage("wait", "wait", command), "1/1")
    record = json.loads((folder / RECORD).read_text())["wait"]
    assert record["done"] is False
    assert record["seconds"] >= 0.1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_reaches_the_stage_once(folder: Path, number: signal.Signals) -> None:
    """It may then save its work, as the training does, which a second Ctrl-C ends at once."""
    stage = (
        "import pathlib, signal, sys, time\n"
        "caught = []\n"
        f"signal.signal({number:d}, lambda *_: caught.append(1))\n"
        "pathlib.Path('ready').touch()\n"
        "while not caught: time.sleep(0.01)\n"
        "time.sleep(0.2)\n"
        "pathlib.Path('saved').write_text(str(len(caught)))\n"
        f"sys.exit(128 + {number:d})\n"
    )
    code = (
        f"import signal, sys; sys.path.insert(0, {str(REPOSITORY)!r})\n"
        f"signal.signal({number:d}, signal.default_int_handler if {number == signal.SIGINT} else signal.SIG_DFL)\n"
        "from recordings.stages import status_of\n"
        "sys.exit(status_of([sys.executable, '-c', sys.argv[1]]))"
    )
    with subprocess.Popen([sys.executable, "-c", code, stage], cwd=folder, start_new_session=True) as process:
        wait_until((folder / "ready").exists, seconds=30)
        os.killpg(process.pid, number)  # as a terminal does: to all in its group
        assert process.wait(30) == 128 + number
    assert (folder / "saved").read_text() == "1"


def test_a_stage_without_an_output_finds_out_itself(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stage = Stage("say", "say", [sys.executable, "-c", ""])
    assert all("$" in run(folder, stage, capsys) for _ in range(2))


def test_a_damaged_record_counts_as_none(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, copying(folder), capsys)
    (folder / RECORD).write_text("{")
    run(folder, copying(folder), capsys)
    assert (folder / "out.old").exists()
    assert json.loads((folder / RECORD).read_text())["copy"]["done"] is True


def test_names_of_what_is_kept_are_free(tmp_path: Path) -> None:
    for name in ("a", "a.old", "a.old2"):
        (tmp_path / name).write_text(name)
    set_aside(tmp_path / "a")
    assert (tmp_path / "a.old3").read_text() == "a"


def test_steps_follow_the_speech_and_the_minutes() -> None:
    for row in KNOWN:
        assert wanted_steps("tacotron2_small", row.minutes) == row.tacotron2_steps
        assert wanted_steps("waveglow_small", row.minutes) == row.waveglow_steps
        assert expected_wer(row.minutes) == pytest.approx(row.wer)
    assert KNOWN[0].tacotron2_steps < wanted_steps("tacotron2_small", 15) < KNOWN[1].tacotron2_steps
    assert wanted_steps("tacotron2_small", 120) > KNOWN[1].tacotron2_steps
    assert planned_steps("tacotron2_small", 34, 2.0, 10) == 300
    assert planned_steps("tacotron2_small", KNOWN[1].minutes, 2.0, 1000) == KNOWN[1].tacotron2_steps
    assert planned_steps("tacotron2_small", 34, 600.0, 1) == RATE_STEPS


def test_the_learning_rate_falls_at_parts_of_the_run() -> None:
    options = schedule("waveglow_small", 1000)
    assert options == [
        "trainer.learning_rate=0.0005",
        "trainer.max_steps=1000",
        "trainer.epochs=1000",
        "trainer.anneal_epochs=[]",
        "trainer.anneal_steps=[600,850]",
        "trainer.anneal_factors=[0.4,0.12]",
    ]
    assert schedule("tacotron2_small", 1000)[-2:] == ["task.adversary_weight=0.5", "task.adversary_from_step=600"]


@pytest.mark.parametrize(("minutes", "text"), [(90, "1.5 hours"), (3, "3 minutes"), (0.2, "12 seconds")])
def test_durations_are_words(minutes: float, text: str) -> None:
    assert duration(minutes) == text


def test_little_space_is_told_before_anything_is_made(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    require_space(tmp_path, free / 2, "work")
    with pytest.raises(UserError, match=r"^work=.* MB are free there, and about [\d,]+ MB are needed; .* work= to"):
        require_space(tmp_path, 2 * free + 1e9, "work")
    require_space(tmp_path / "not/yet", free / 2, "work")


def test_space_that_will_not_be_used_again_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    for folder in ("run", "run.old", "run.old2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "weights").write_bytes(os.urandom(100_000))
    os.link(tmp_path / "run/weights", tmp_path / "run/same")
    require_space(tmp_path, 90_000, "work")
    with pytest.raises(UserError, match="are needed"):
        require_space(tmp_path, 150_000, "work")


@pytest.mark.parametrize(
    "value",
    ["plain/path.x-1", "12_34", "1e5", "true", "null", "[2024] takes", "it's", "back\\slash\\", "\\'", "${HOME}",
     "a, b: c=d", " spaces ", "", "ünïcode", "-dash", "{a}", '"quoted"', "$x", "#", "~", "inf", "(x)",
     "/home/jörg/x", "a\\${b}", "a\\\\${HOME}\\", "'${x}'"],
)  # fmt: skip
def test_a_command_reads_the_value_that_was_given(value: str) -> None:
    option = text_option("recordings", value)
    assert composed("cut_recordings", option, "output=x")["recordings"] == value


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> build_voice.BuildConfig:
    monkeypatch.chdir(tmp_path)
    return build_voice.BuildConfig(recordings="recordings", voice="anna")  # its base is that of the repository


def refused(config: build_voice.BuildConfig) -> str:
    with pytest.raises(UserError) as error:
        build_voice.check(config)
    return str(error.value)


def test_folders_of_others_are_not_touched(config: build_voice.BuildConfig) -> None:
    build_voice.check(config)
    config.output.mkdir(parents=True)
    assert refused(config) == "voices/anna exists; choose another voice=NAME, or rename that folder"
    config.folder.mkdir(parents=True)
    (config.folder / RECORD).write_text(json.dumps({"pack": {"output": os.path.abspath("voices/anna")}}))
    build_voice.check(config)
    assert "voices/anna exists" in refused(dataclasses.replace(config, work="other"))
    bob = dataclasses.replace(config, voice="bob", work=str(config.folder))
    bob.output.mkdir()
    assert "voices/bob exists" in refused(bob)
    for name in build_voice.MODELS.values():
        (config.output / f"{name}.safetensors").touch()
    assert "that is what voice=anna makes" in refused(dataclasses.replace(config, base="voices/anna"))
    (config.folder.parent / "carl").mkdir()
    (config.folder.parent / "carl/build.log").touch()
    build_voice.check(dataclasses.replace(config, voice="carl"))
    Path("runs/tacotron2").mkdir()
    carl = dataclasses.replace(config, voice="carl")
    assert "work=runs: tacotron2 in it was not made by this command" in refused(dataclasses.replace(carl, work="runs"))
    assert "work=recordings/work: it is inside of recordings=" in refused(
        dataclasses.replace(carl, work="recordings/work")
    )
    assert "work=runs/voices/carl: it is inside of recordings=." in refused(dataclasses.replace(carl, recordings="."))
    elsewhere = dataclasses.replace(carl, recordings="voices", work="elsewhere")
    assert "voices/carl would be made inside of recordings=voices; move the recordings" in refused(elsewhere)
    inside = "runs/voices/carl/corpus/wavs"
    assert f"recordings={inside}: it is inside of work=" in refused(dataclasses.replace(carl, recordings=inside))


def test_a_training_is_the_same_with_and_without_judges(config: build_voice.BuildConfig) -> None:
    mels = config.folder / "corpus/mels"
    mels.mkdir(parents=True)
    (mels / MANIFEST_FILE).write_text('{"clip": "wavs/a.wav", "crc": 1, "mtime_ns": 5}\n')

    def fingerprint(**changes: object) -> str:
        changed = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
        return build_voice.training_stage(changed, "tacotron2_small", 100, 3.0).fingerprint()

    first = fingerprint()
    assert fingerprint(judge=False) == first
    assert fingerprint(base=str(REPOSITORY / "demo/voice")) == first
    (mels / MANIFEST_FILE).write_text('{"clip": "wavs/a.wav", "crc": 1, "mtime_ns": 6}\n')  # a copy
    assert fingerprint() == first
    (mels / MANIFEST_FILE).write_text('{"clip": "wavs/a.wav", "crc": 2, "mtime_ns": 6}\n')
    assert fingerprint() != first


def test_a_missing_package_is_named_before_anything_is_made(
    config: build_voice.BuildConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build_voice, "PACKAGES", {"eval": ["no_such_package"]})
    assert "no_such_package is not installed; run: pip install -e '.[eval]' in the repository" in refused(config)


def test_the_voice_is_judged_as_it_speaks() -> None:
    """By waveglow_matched, which build_voice names, with the WaveGlow's own number of passes."""
    speaking = composed("inference", "voice=v", "input=phrases.txt", "output=speech")
    assert composed("evaluate", "output=judged")["match_mel"] is speaking["match_mel"] is None
    assert composed("train", "model=waveglow_small", "data.root=corpus", "run_dir=run")["model"]["match_mel"] > 0
