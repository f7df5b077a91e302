"""Pictures of alignments and mels, drawn without a display."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def _figure(image: Tensor, xlabel: str, ylabel: str, title: str) -> Figure:
    figure = Figure(figsize=(7, 4), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    drawn = axes.imshow(image.detach().float().cpu().numpy(), aspect="auto", origin="lower", interpolation="none")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, parse_math=False)  # a phrase may hold dollar signs
    figure.colorbar(drawn, ax=axes)
    return figure


def alignment_figure(alignment: Tensor, title: str = "") -> Figure:
    """alignment (T, L)"""
    return _figure(alignment.T, "mel frame", "symbol", title)


def mel_figure(mel: Tensor, title: str = "") -> Figure:
    """mel (n_mels, T)"""
    return _figure(mel, "mel frame", "mel channel", title)
