"""The road from a folder of recordings to a corpus, stage by stage.

The output's folder `work` keeps the results of each stage with what they depend on: an interrupted run goes on where it
was, and after a change only what depends on it is done again.

Memory grows with the words of the longest recording and with the number of clips (2 kB each), not with the audio.
"""

from __future__ import annotations

import csv
import dataclasses
import hashlib
import io
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from common.errors import UserError
from common.files import make_directory, write_text, writing
from common.lock import LOCK_FILE, locked
from common.wording import counted
from recordings import refusals
from recordings.checks import Measured, check_all, corpus_of, problem
from recordings.clips import Clip, Clips, cut_one, is_whole, refuse_same_clips
from recordings.hearing import Heard, hear_all, heard_fingerprint
from recordings.options import RecordingsConfig
from recordings.sources import Recording, clip_stem, find_files, probe, refuse_inside
from recordings.transcripts import Transcript, Transcripts, read_transcripts

WORK = "work"
HEARD, CUT, CHECKED, DONE = "heard", "clips", "checked", "done.json"
DROPPED_COLUMNS = ("clip", "recording", "start", "end", "reason", "text")


@dataclass(frozen=True)
class Found:
    """The recordings of a folder and their transcripts."""

    recordings: list[Recording]
    transcripts: Transcripts

    def transcript(self, recording: Recording) -> Transcript:
        return self.transcripts.of[recording.path]

    @property
    def seconds(self) -> float:
        return sum(recording.seconds for recording in self.recordings)


@dataclass(frozen=True)
class Dropped:
    """A clip that the corpus does not have, and why."""

    clip: Clip
    reason: str


@dataclass
class Corpus:
    """What `build` made."""

    found: Found
    kept: list[Clip]
    dropped: list[Dropped]
    is_new: bool = True  # False if all was there already
    stage_seconds: dict[str, float] = field(default_factory=dict)  # the time that each stage took


def find(folder: Path, speaker: str | None = None) -> Found:
    """Stage 1: the recordings of a folder, of one speaker, and their transcripts."""
    files = find_files(folder)
    transcripts = read_transcripts(folder, files, speaker)
    recordings = probe(folder, list(transcripts.of))
    refuse_same_clips(recordings)
    return Found(recordings, transcripts)


def hear(found: Found, work: Path, config: RecordingsConfig) -> list[Heard]:
    """Stage 2: what is said in the recordings that must be cut, without the words, which stay in `work`.

    Raises UserError if it is no speech, too little of it, or another language.
    """
    heard = []
    for _, one in hear_all(_to_hear(found), work / HEARD, config.whisper, config.language):
        heard.append(dataclasses.replace(one, words=[]))
    whole = sum(r.seconds for r in found.recordings if is_whole(r, found.transcript(r)))
    refusals.refuse_unheard(config.recordings, heard, whole, config.language)
    return heard


def _to_hear(found: Found) -> list[Recording]:
    return [recording for recording in found.recordings if not is_whole(recording, found.transcript(recording))]


def cut(found: Found, work: Path, config: RecordingsConfig) -> list[Clips]:
    """Stage 3: the clips of each recording, their audio in `work`.

    Raises UserError if the transcripts are those of other recordings.
    """
    make_directory(work / CUT, "output")
    heard = hear_all(_to_hear(found), work / HEARD, config.whisper, config.language)
    result = []
    for recording in found.recordings:
        transcript, words, before = found.transcript(recording), None, recording.fingerprint
        if not is_whole(recording, transcript):
            _, words = next(heard)
            before = heard_fingerprint(recording, config.whisper, config.language)
        result.append(cut_one(recording, transcript, words, work / CUT, config.loudness, before))
    refusals.refuse_other_transcripts(config.recordings, found.transcripts.layout, result)
    return result


def check(
    found: Found, clips: Sequence[Clips], work: Path, config: RecordingsConfig
) -> tuple[list[Clip], list[Dropped]]:
    """Stage 4: the clips to keep and those to drop.

    Raises UserError if most texts are wrong or if there are two speakers.
    """
    options = (config.whisper, config.language, config.num_processes)
    measured = check_all(clips, work / CUT, work / CHECKED, *options)
    every = [clip for one in clips for clip in one.clips]
    refusals.refuse_wrong_clips(config.recordings, found.transcripts.layout, list(measured.values()))
    refusals.refuse_speakers(config.recordings, every, measured)
    return judge(every, measured, config.language)


def judge(
    clips: Sequence[Clip], measured: dict[str, Measured], language: str = "en"
) -> tuple[list[Clip], list[Dropped]]:
    """Divide clips into those to keep and those to drop, from what was measured."""
    corpus = corpus_of(list(measured.values()))
    kept, dropped = [], []
    for clip in clips:
        reason = clip.problem or problem(clip, measured[clip.name], corpus, language)
        if reason:
            dropped.append(Dropped(clip, reason))
        else:
            kept.append(clip)
    return kept, dropped


def build(config: RecordingsConfig) -> Corpus:
    """All stages: make or complete the corpus `config.output`."""
    folder, output = Path(config.recordings), Path(config.output)
    refuse_inside(folder, output)
    times: dict[str, float] = {}
    with _timed(times, "find"):
        found = find(folder, config.speaker)
    work = output / WORK
    _refuse_other_folder(output)
    make_directory(work, "output")
    with locked(work, "output"):
        with _timed(times, "hear"):
            hear(found, work, config)
        with _timed(times, "cut"):
            clips = cut(found, work, config)
        with _timed(times, "check"):
            kept, dropped = check(found, clips, work, config)
        corpus = Corpus(found, kept, dropped, stage_seconds=times)
        with _timed(times, "write"):
            write(corpus, clips, output)
            _remove_stale(found, clips, work)
        refusals.refuse_few(config.recordings, kept, [one.reason.split(":")[0] for one in dropped])
    return corpus


@contextmanager
def _timed(times: dict[str, float], stage: str) -> Iterator[None]:
    start = time.monotonic()
    yield
    times[stage] = time.monotonic() - start


def _refuse_other_folder(output: Path) -> None:
    """Raise a UserError if the output exists and was not made by this command."""
    is_ours = any((output / WORK / name).exists() for name in (LOCK_FILE, HEARD, CUT, CHECKED, DONE))
    if output.exists() and not is_ours and (not output.is_dir() or any(output.iterdir())):
        raise UserError(
            f"{output} exists already, and is no corpus that this command made; choose another output or remove it"
        )


def write(corpus: Corpus, clips: Sequence[Clips], output: Path) -> None:
    """Stage 5: wavs/, metadata.csv, dropped.csv and report.txt, unless all are there and nothing has changed.

    metadata.csv is removed first and written last, so that a corpus that has one is complete.
    """
    done = output / WORK / DONE
    state = _state(corpus, clips)
    complete = all((output / "wavs" / f"{clip.name}.wav").is_file() for clip in corpus.kept)
    files = ("metadata.csv", "dropped.csv", "report.txt")
    if done.is_file() and done.read_text() == state and complete and all((output / file).is_file() for file in files):
        corpus.is_new = False
        return
    with writing(output):
        (output / "metadata.csv").unlink(missing_ok=True)
        done.unlink(missing_ok=True)
        _fill(output / "wavs", output / WORK / CUT, [f"{clip.name}.wav" for clip in corpus.kept])
    write_text(output / "dropped.csv", _table(corpus.dropped))
    write_text(output / "report.txt", "\n".join(report(corpus)) + "\n")
    write_text(output / "metadata.csv", "".join(f"{clip.name}|{clip.text}\n" for clip in corpus.kept))
    write_text(done, state)


def _state(corpus: Corpus, clips: Sequence[Clips]) -> str:
    kept = [(clip.name, clip.text) for clip in corpus.kept]
    dropped = [(one.clip.name, one.reason) for one in corpus.dropped]
    content = json.dumps([kept, dropped, [one.fingerprint for one in clips]])
    return hashlib.sha256(content.encode()).hexdigest()


def _fill(wavs: Path, source: Path, names: Sequence[str]) -> None:
    """Make `wavs` hold the files `names` of `source` and no others; links take no space where the disk has them."""
    part = wavs.with_name("wavs.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    for name in names:
        try:
            os.link(source / name, part / name)
        except OSError:
            shutil.copyfile(source / name, part / name)
    if wavs.exists():
        shutil.rmtree(wavs)
    part.rename(wavs)


def _remove_stale(found: Found, clips: Sequence[Clips], work: Path) -> None:
    """Remove results of recordings that are gone, and audio of clips that are cut in another way now."""
    heard = {f"{recording.name.replace('/', '~')}.json" for recording in found.recordings}
    cuts = {f"{clip_stem(recording.name)}.json" for recording in found.recordings}
    cuts |= {f"{clip.name}.wav" for one in clips for clip in one.clips if not clip.problem}
    for folder, names in ((work / HEARD, heard), (work / CUT, cuts)):
        for path in folder.iterdir() if folder.is_dir() else ():
            if path.name not in names:
                path.unlink(missing_ok=True)


def _table(dropped: Sequence[Dropped]) -> str:
    rows = io.StringIO()
    writer = csv.writer(rows, lineterminator="\n")
    writer.writerow(DROPPED_COLUMNS)
    for clip, reason in ((one.clip, one.reason) for one in dropped):
        writer.writerow([clip.name, clip.recording, f"{clip.start:.2f}", f"{clip.end:.2f}", reason, clip.text])
    return rows.getvalue()


def report(corpus: Corpus) -> list[str]:
    """What was found, kept and dropped, line by line."""
    found, kept = corpus.found, corpus.kept
    seconds = sorted(clip.seconds for clip in kept)
    texts = found.transcripts.num_texts
    lines = [
        f"recordings: {counted(len(found.recordings), 'file')}, {found.seconds / 60:.1f} minutes",
        f"transcripts: {found.transcripts.layout}, for {texts:,} of them" if texts else "transcripts: by Whisper",
        f"kept: {counted(len(kept), 'clip')}, {sum(seconds) / 60:.1f} minutes",
    ]
    if seconds:
        lines[-1] += f", of {seconds[0]:.1f} to {seconds[-1]:.1f} s, median {seconds[len(seconds) // 2]:.1f} s"
    lost = sum(one.clip.seconds for one in corpus.dropped)
    lines.append(
        f"dropped: {counted(len(corpus.dropped), 'clip')}, {lost / 60:.1f} minutes; dropped.csv has the reasons"
    )
    reasons = Counter(_kind(one.reason) for one in corpus.dropped)
    lines += [f"  {number:>6,}  {reason}" for reason, number in reasons.most_common()]
    slow = [recording for recording in found.recordings if recording.sample_rate < 16000]
    if slow:
        lines.append(
            f"note: {counted(len(slow), 'recording')} of less than 16,000 Hz, such as {slow[0].path.name}; the voice "
            "will sound as dull as they do"
        )
    return lines


def _kind(reason: str) -> str:
    """A reason without its values."""
    start = reason.split(":")[0]
    return start.split(" s ", 1)[1] if " s without" in start else "too short" if "less than 1 s" in start else start
