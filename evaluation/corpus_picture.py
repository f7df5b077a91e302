"""The plots of scripts/check_dataset.py."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from evaluation.corpus import Row


def picture(rows: list[Row]) -> Figure:
    """Histograms of lengths, words, pauses, silence and peaks, and a scatter plot of text against speech."""
    figure = Figure(figsize=(14, 7), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3)
    sounds = [row.sound for row in rows]
    axes[0, 0].hist([sound.seconds for sound in sounds], bins=40)
    axes[0, 0].set(xlabel="clip length in seconds", ylabel="clips")
    words = [row.text.num_words for row in rows]
    edges = range(min(words, default=0), max(words, default=0) + 2, 1 + max(words, default=0) // 40)
    axes[0, 1].hist(words, bins=[*edges, edges[-1] + edges.step])  # whole numbers: bins of equally many
    axes[0, 1].set(xlabel="words per clip", ylabel="clips")
    axes[0, 2].scatter([sound.speech_seconds for sound in sounds], [row.text.num_symbols for row in rows], s=4)
    axes[0, 2].set(xlabel="seconds of speech, without pauses", ylabel="symbols")
    axes[1, 0].hist([pause for sound in sounds for pause in sound.pauses], bins=40)
    axes[1, 0].set(xlabel="length of a pause inside a clip in seconds", ylabel="pauses")
    silences = [[sound.silence_start for sound in sounds], [sound.silence_end for sound in sounds]]
    axes[1, 1].hist(silences, bins=40, label=["at the start", "at the end"])
    axes[1, 1].set(xlabel="silence in seconds", ylabel="clips")
    axes[1, 1].legend()
    axes[1, 2].hist([sound.peak for sound in sounds], bins=40)
    axes[1, 2].set(xlabel="peak, as a fraction of full scale", ylabel="clips")
    return figure
