"""A page about a training run, in one HTML file.

It shows curves, alignments by training step, mels, sounds, the evaluation table and the config.
"""

from __future__ import annotations

import base64
import html
import io
import itertools
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import soundfile
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from common.data.filelist import AUDIO_SUFFIXES, scan_filelist
from common.errors import UserError, first_line
from common.files import read_json_lines
from evaluation.table import RECORDINGS, folder_name, table

SHOWN_STEPS = 6  # evenly spaced among those with samples, including the last
REAL_CLIPS = 3
LONGEST_GAP = 600  # seconds between two lines of the log; more means that the machine slept, and counts as this much
EVALUATED = 3  # utterances of each system to listen to
CURVES = {  # title -> keys of log.jsonl
    "loss": ("train_loss", "val_loss"),
    "learning rate": ("learning_rate",),
    "gradient norm": ("grad_norm",),
    "items per second": ("train_items_per_sec",),
    "words not understood (Whisper)": ("val_wer",),
    "naturalness, 1 to 5 (DistillMOS)": ("val_mos",),
    "similarity to the voice (Resemblyzer)": ("val_speaker",),
    "what the best checkpoint has least of": ("val_criterion",),
    "attention on the diagonal": ("train_diagonality", "val_diagonality"),
    "stops at the right time": ("train_gate_accuracy", "val_gate_accuracy"),
}
STYLE = """
:root { color-scheme: light dark; --line: #8884; --dim: #888; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1200px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; margin-bottom: 0; }
h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid var(--line); }
nav a { margin-right: 1em; } .dim { color: var(--dim); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1em; }
figure { margin: 0; } figure img, figure svg { width: 100%; height: auto; background: #fff; border-radius: 4px; }
figcaption { font-size: .85em; color: var(--dim); } audio { width: 220px; height: 32px; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .9em; }
td, th { border: 1px solid var(--line); padding: .3em .6em; text-align: left; vertical-align: top; }
pre { background: #8881; padding: 1em; overflow-x: auto; font-size: .85em; } summary { cursor: pointer; }
"""


def read_log(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of log.jsonl, except one that a crash has cut off."""
    try:
        rows = read_json_lines(run_dir / "log.jsonl")
    except OSError as error:
        raise UserError(
            f"{run_dir}/log.jsonl: {error.strerror}; RUN_DIR must be the run_dir that train.py was given"
        ) from error
    rows = [row for row in rows if _is_valid(row)]
    if not any("config" in row for row in rows):
        raise UserError(f"{run_dir}/log.jsonl: no line holds the config; was this written by train.py?")
    return rows


def _is_valid(row: dict[str, Any]) -> bool:
    """Whether what the page shows of a line is of the right types: a log may be damaged, or of another program."""
    curves = [row.get(key) for key in itertools.chain(*CURVES.values())]
    try:
        return (
            _is_number(row["time"])
            and _is_number(row.get("step", 0))
            and all(value is None or _is_number(value) for value in curves)
            and all(isinstance(sentence, str) for sentence in row.get("sentences", []))
            and ("config" not in row or _is_config(row["config"]))
        )
    except (KeyError, TypeError, AttributeError):
        return False


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and -1e300 < value < 1e300


def _is_config(config: Any) -> bool:
    data = config["data"]
    texts = (data["root"], data["val_filelist"], *(data.get("sentences") or []))
    return isinstance(config["model"], dict) and "follow_links" in data and all(isinstance(t, str) for t in texts)


def training_hours(rows: Sequence[dict[str, Any]]) -> float:
    """How long the run has trained. Each start logs the config, so the time before such a line is a pause."""
    gaps = (after["time"] - before["time"] for before, after in itertools.pairwise(rows) if "config" not in after)
    return float(sum(min(max(gap, 0), LONGEST_GAP) for gap in gaps)) / 3600


def data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def picture(path: Path) -> str:
    return f'<img loading="lazy" alt="{html.escape(path.stem)}" src="{data_uri("image/png", path.read_bytes())}">'


def player(path: Path) -> str:
    """A player with the sound as MP3, which every browser plays, at about a tenth of the size of a WAV."""
    try:
        audio, rate = soundfile.read(path, dtype="float32")
        sound = io.BytesIO()
        soundfile.write(sound, audio, rate, format="MP3")
    except (soundfile.LibsndfileError, OSError) as error:
        return f'<span class="dim">{html.escape(first_line(error))}</span>'
    return f'<audio controls preload="none" src="{data_uri("audio/mpeg", sound.getvalue())}"></audio>'


def curve(title: str, keys: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    """A plot over the steps as SVG, empty if no row has any of the keys.

    Steps that were repeated after a restart are drawn once.
    """
    points = {
        key: {row["step"]: row[key] for row in rows if row.get(key) is not None and "step" in row} for key in keys
    }
    if not any(points.values()):
        return ""
    figure = Figure(figsize=(5, 3), layout="constrained")
    FigureCanvasSVG(figure)
    axes = figure.add_subplot(xlabel="step", title=title)
    for key, by_step in points.items():
        steps = sorted(by_step)
        marker = "o" if len(steps) < 30 else ""
        axes.plot(steps, [by_step[step] for step in steps], label=key, marker=marker, markersize=3, linewidth=1)
    if "loss" in title and all(y > 0 for by_step in points.values() for y in by_step.values()):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    drawn = io.StringIO()
    figure.savefig(drawn, format="svg", metadata={"Date": None})
    svg = drawn.getvalue()
    return f"<figure>{svg[svg.index('<svg') :]}</figure>"


def evenly(steps: Iterable[int]) -> list[int]:
    """At most SHOWN_STEPS of `steps`, evenly spaced, including the first and the last."""
    ordered = sorted(steps)
    last = len(ordered) - 1
    return (
        [ordered[round(k * last / (SHOWN_STEPS - 1))] for k in range(SHOWN_STEPS)] if last >= SHOWN_STEPS else ordered
    )


def samples(run_dir: Path) -> dict[str, dict[int, Path]]:
    """The files of run_dir/samples, as name -> step -> path."""
    found: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in sorted((run_dir / "samples").glob("*")):
        if match := re.fullmatch(r"(.+)_(\d{8})\.(png|wav)", path.name):
            found[f"{match[1]}.{match[3]}"][int(match[2])] = path
    return found


def pictures_section(found: dict[str, dict[int, Path]]) -> str:
    """For each kind of picture, one picture per shown step; then the mels of the last two steps side by side."""
    parts = []
    for name, by_step in found.items():
        if not name.endswith(".png") or name.startswith("mel_"):
            continue
        shown = "".join(
            f"<figure>{picture(by_step[step])}<figcaption>step {step:,}</figcaption></figure>"
            for step in evenly(by_step)
        )
        parts.append(f'<h3>{html.escape(name[:-4].replace("_", " "))}</h3><div class="grid">{shown}</div>')
    mels = {name: by_step for name, by_step in found.items() if name.startswith("mel_") and name.endswith(".png")}
    if mels:
        shown = "".join(
            f"<figure>{picture(by_step[step])}<figcaption>{html.escape(name[:-4].replace('_', ' '))}, step {step:,}"
            "</figcaption></figure>"
            for step in evenly(set.union(*(set(by_step) for by_step in mels.values())))[-2:]
            for name, by_step in mels.items()
            if step in by_step
        )
        parts.append(f'<h3>mels side by side</h3><div class="grid">{shown}</div>')
    return "".join(parts)


def sounds_section(found: dict[str, dict[int, Path]], config: dict[str, Any], sentences: Sequence[str]) -> str:
    """A row for each sentence, a column for each step; then clips of the corpus."""
    sounds = {name: by_step for name, by_step in found.items() if name.endswith(".wav")}
    rows = []
    if sounds:
        steps = evenly(set.union(*(set(by_step) for by_step in sounds.values())))
        rows.append("<tr><th></th>" + "".join(f"<th>step {step:,}</th>" for step in steps) + "</tr>")
        for name, by_step in sounds.items():
            label = name[:-4]
            if match := re.fullmatch(r"sentence_(\d+)", label):
                label = dict(enumerate(sentences)).get(int(match[1]), label)
            cells = (player(by_step[step]) if step in by_step else "" for step in steps)
            rows.append(f"<tr><th>{html.escape(label)}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    data = config["data"]
    try:
        clips, _ = scan_filelist(data["val_filelist"], data["root"], data["follow_links"])
    except UserError:  # the corpus has moved since
        clips = []
    for clip in [clip for clip in clips if clip.suffix in AUDIO_SUFFIXES][:REAL_CLIPS]:
        rows.append(f"<tr><th>recording: {html.escape(clip.text)}</th><td>{player(clip.file)}</td></tr>")
    return f'<div class="scroll"><table>{"".join(rows)}</table></div>' if rows else ""


def evaluation_section(folder: Path) -> str:
    """The table of an evaluation and some of its utterances."""
    path = folder / "evaluation.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
        head, *rows = table(result["summary"])
        spoken = _examples(folder, result["utterances"])
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise UserError(f"{path}: not an evaluation ({error!r}); write it with scripts/evaluate.py") from error
    lines = ["<tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    lines += ["<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows]
    heard = "<tr><th>system</th><th>text</th><th>heard by Whisper</th><th></th></tr>" + "".join(spoken)
    listen = f'<h3>examples</h3><div class="scroll"><table>{heard}</table></div>' if spoken else ""
    name = html.escape(folder.name)
    return f'<h3>{name}</h3><div class="scroll"><table>{"".join(lines)}</table></div>{listen}'


def _examples(folder: Path, utterances: dict[str, Any]) -> list[str]:
    """Rows of a table with the first utterances of each system, which need the wavs in its folder."""
    spoken = []
    for system, said in utterances.items():
        wavs = folder / folder_name(system)
        for utterance in said[:EVALUATED]:
            wav = wavs / f"{utterance['name']}.wav"
            if system != RECORDINGS and wav.exists():
                cells = (system, utterance["text"] or "", utterance["heard"])
                spoken.append(
                    "<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + f"<td>{player(wav)}</td></tr>"
                )
    return spoken


def page(run_dir: Path, evaluations: Sequence[Path]) -> str:
    """The HTML of a run directory, with the evaluations in the given folders."""
    rows = read_log(run_dir)
    config = next(row["config"] for row in reversed(rows) if "config" in row)
    title = html.escape(run_dir.resolve().name)
    found = samples(run_dir)
    # Earlier versions did not log which sentences they synthesized.
    logged = (row["sentences"] for row in reversed(rows) if "sentences" in row)
    sentences = next(logged, config["data"].get("sentences") or [])
    steps = [row["step"] for row in rows if "step" in row]
    curves = "".join(curve(title, keys, rows) for title, keys in CURVES.items())
    keys = html.escape(json.dumps(config, indent=2))
    sections = {
        "Curves": f'<div class="grid">{curves}</div>' if curves else "",
        "Evaluation": "".join(map(evaluation_section, evaluations)),
        "Sounds": sounds_section(found, config, sentences),
        "Pictures": pictures_section(found),
        "Config": f"<details><summary>all keys</summary><pre>{keys}</pre></details>",
    }
    shown = {title: body for title, body in sections.items() if body}
    name = html.escape(str(config["model"].get("name", "")))
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        f"<meta name=viewport content='width=device-width'><style>{STYLE}</style>"
        f"<h1>{title}</h1><p class=dim>{name}, step {max(steps, default=0):,}, {training_hours(rows):.1f} hours "
        f"of training, corpus {html.escape(str(config['data']['root']))}</p><nav>"
        + "".join(f"<a href='#{title}'>{title}</a>" for title in shown)
        + "</nav>"
        + "".join(f"<h2 id='{title}'>{title}</h2>{body}" for title, body in shown.items())
        + "</html>\n"
    )
