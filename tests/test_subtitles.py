"""Word timings as files: cues of readable length, strict syntax, and what inference.py writes."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path

import soundfile

from synthesis.subtitles import LINE, LINES, as_json, cues, srt, vtt
from synthesis.timings import WRITTEN, Word
from tests.helpers import REPOSITORY
from tests.helpers.commands import fails_with, run_here

TEXT = (
    "\u201cHello\u201d, he said <b>& left</b> --> \U0001f642 now. It was the best of times, it was the worst of times, "
    "it was the age of wisdom, it was the age of foolishness.  Yes. It has no mark but it goes on and on and on and on "
    "until it does not fit any more, and ends there."
)
SOUNDLESS = ("\U0001f642", "-->")
WORDS = [
    Word(match[0], 0.5 * k, 0.5 * k + 0.4, match.span())
    for k, match in enumerate(match for match in WRITTEN.finditer(TEXT) if match[0] not in SOUNDLESS)
]
ENDS = [TEXT.index(" It was"), TEXT.index("  Yes"), TEXT.index(" It has"), len(TEXT)]
CLOCK = r"(\d\d):([0-5]\d):([0-5]\d)[.,](\d{3})"


def seconds(clock: str) -> float:
    found = re.fullmatch(CLOCK, clock)
    assert found
    hours, minutes, whole, thousandths = map(int, found.groups())
    return 3600 * hours + 60 * minutes + whole + thousandths / 1000


def parsed(content: str, point: str, numbered: bool) -> list[tuple[float, float, str]]:
    """The cues of a file, strictly: blocks between empty lines, and nothing else."""
    assert content.endswith("\n")
    found = []
    for number, block in enumerate(content[:-1].split("\n\n"), 1):
        lines = block.split("\n")
        if numbered:
            assert lines.pop(0) == str(number)
        times = re.fullmatch(rf"([\d:]+{re.escape(point)}\d+) --> ([\d:]+{re.escape(point)}\d+)", lines[0])
        assert times
        assert 1 <= len(lines) - 1 <= LINES
        assert all(line.strip() == line and line for line in lines)
        found.append((seconds(times[1]), seconds(times[2]), " ".join(lines[1:])))
    assert all(a[0] < a[1] <= b[0] < b[1] for a, b in itertools.pairwise(found))
    return found


def test_cues_are_readable_and_show_the_whole_text() -> None:
    found = list(cues(TEXT, WORDS, ENDS))
    assert " ".join(line for cue in found for line in cue.lines) == " ".join(TEXT.split())
    assert all(len(cue.lines) <= LINES and max(map(len, cue.lines)) <= LINE for cue in found)
    assert (found[0].start, found[-1].end) == (WORDS[0].start, WORDS[-1].end)
    shown = [" ".join(cue.lines) for cue in found]
    assert shown[1].endswith("wisdom,")  # at the last mark that fits
    assert shown[2] == "it was the age of foolishness."
    assert shown[3] == "Yes."
    assert len(shown) == 6
    assert min(map(len, found[1].lines)) > LINE / 2  # lines of similar lengths


def test_a_word_that_is_longer_than_a_cue() -> None:
    text = f"See {'x' * 100} there"
    words = [Word(match[0], k, k + 1, match.span()) for k, match in enumerate(WRITTEN.finditer(text))]
    assert [len(cue.lines) for cue in cues(text, words, [len(text)])] == [1, 3, 1]


def test_the_files_have_the_cues() -> None:
    expected = [(cue.start, cue.end, " ".join(cue.lines)) for cue in cues(TEXT, WORDS, ENDS)]
    assert parsed(srt(TEXT, WORDS, ENDS), ",", numbered=True) == expected
    head, _, body = vtt(TEXT, WORDS, ENDS).partition("\n\n")
    assert head == "WEBVTT"
    escaped = parsed(body, ".", numbered=False)
    assert "he said &lt;b&gt;&amp; left&lt;/b&gt; --&gt;" in escaped[0][2]
    assert [cue[:2] for cue in escaped] == [cue[:2] for cue in expected]
    assert "01:01:01,500 --> 01:01:02,000" in srt("a", [Word("a", 3661.4999, 3661.9996, (0, 1))], [1])
    rows = json.loads(as_json(TEXT, WORDS, ENDS))
    assert rows["text"] == TEXT
    assert [TEXT[slice(*row["span"])] for row in rows["words"]] == [row["word"] for row in rows["words"]]


def test_inference_writes_them_beside_each_wav(tmp_path: Path) -> None:
    (tmp_path / "phrases.txt").write_text("* Yes. It rained.\n\U0001f642\n", encoding="utf-8")
    command = (
        "inference.py", f"tacotron2={REPOSITORY}/demo/voice/tacotron2.safetensors", "vocoder=griffin_lim",
        f"input={tmp_path}/phrases.txt", f"output={tmp_path}/out", "device=cpu",
    )  # fmt: skip
    run_here(*command, "timings=[json,srt,vtt]")
    names = {path.name for path in (tmp_path / "out").iterdir() if not path.name.startswith(".")}
    assert names == {"log.jsonl", *(f"0000.{suffix}" for suffix in ("wav", "png", "json", "srt", "vtt"))}
    words = json.loads((tmp_path / "out/0000.json").read_text(encoding="utf-8"))["words"]
    assert [row["word"] for row in words] == ["Yes.", "It", "rained."]
    shown = parsed((tmp_path / "out/0000.srt").read_text(encoding="utf-8"), ",", numbered=True)
    assert [cue[2] for cue in shown] == ["* Yes.", "It rained."]
    assert shown[-1][1] <= soundfile.info(tmp_path / "out/0000.wav").duration
    # the files of this run are known to the next
    (tmp_path / "out/0000.wav").unlink()
    fails_with(run_here(*command, expect=1), "out/0000.", "exists already")
    run_here(*command, "overwrite=true")
    assert not (tmp_path / "out/0000.srt").exists()
    fails_with(run_here(*command, "timings=[ass]", expect=1), "timings", "ass")
