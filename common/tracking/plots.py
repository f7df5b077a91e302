"""Pictures of alignments and mels, drawn without a display."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor


def _figure(image: Tensor, xlabel: str, ylabel: str, title: str) -> Figure:
    # Fixed places take half the time of layout="constrained", which draws everything twice.
    figure = Figure(figsize=(7, 4))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.09, 0.13, 0.78, 0.79))
    drawn = axes.imshow(image.detach().float().cpu().numpy(), aspect="auto", origin="lower", interpolation="none")
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.set_title(title, parse_math=False)  # a phrase may hold dollar signs
    figure.colorbar(drawn, cax=figure.add_axes((0.89, 0.13, 0.03, 0.79)))
    return figure


def alignment_figure(alignment: Tensor, title: str = "") -> Figure:
    """alignment (T, L)"""
    return _figure(alignment.T, "mel frame", "symbol", title)


def mel_figure(mel: Tensor, title: str = "") -> Figure:
    """mel (n_mels, T)"""
    return _figure(mel, "mel frame", "mel channel", title)
