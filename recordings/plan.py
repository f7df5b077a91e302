"""The dry run: what is in a folder of recordings, and what would be made of it. It writes nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from tqdm import tqdm

from common.wording import counted
from evaluation.judges import RATE
from recordings.clips import is_whole
from recordings.corpus import find
from recordings.hearing import pieces, speech_seconds
from recordings.options import RecordingsConfig
from recordings.refusals import MIN_SPEECH_SECONDS
from recordings.sources import refuse_inside


def plan(config: RecordingsConfig) -> list[str]:
    """The lines to print. All audio is read once, to find the speech in it."""
    folder, output = Path(config.recordings), Path(config.output)
    refuse_inside(folder, output)
    found = find(folder, config.speaker)
    kinds = Counter(recording.path.suffix.lower() for recording in found.recordings)
    rates = Counter(recording.sample_rate for recording in found.recordings)
    speech = audio = 0.0
    for recording in tqdm(found.recordings, unit="file", disable=None):
        for _, samples in pieces(recording):
            speech, audio = speech + speech_seconds(samples), audio + len(samples) / RATE
    whole = sum(is_whole(recording, found.transcript(recording)) for recording in found.recordings)
    texts = found.transcripts.num_texts
    return [
        f"recordings: {counted(len(found.recordings), 'file')} "
        f"({', '.join(f'{n:,} {kind}' for kind, n in kinds.most_common())}), "
        f"{', '.join(f'{rate:,} Hz' for rate, _ in rates.most_common(4))}",
        f"audio: {_duration(audio)}, speech in it: {_duration(speech)}"
        + (f", too little for a voice: {MIN_SPEECH_SECONDS:.0f} s are needed" if speech < MIN_SPEECH_SECONDS else ""),
        f"transcripts: {found.transcripts.layout}" + (f", for {texts:,} of {len(found.recordings):,}" if texts else ""),
        f"would stay whole: {counted(whole, 'recording')}; would be cut at pauses: {len(found.recordings) - whole:,}, "
        + ("with the words of their transcripts" if texts else "with the words that Whisper hears"),
        f"would be written: {output / 'wavs'}, {output / 'metadata.csv'}, {output / 'dropped.csv'}",
    ]


def _duration(seconds: float) -> str:
    return f"{seconds / 3600:.2f} hours" if seconds >= 3600 else f"{seconds / 60:.1f} minutes"
