"""A pytest plugin (`pytest -p tests.fault_table`) that prints a table of the faults covered by tests marked `fault`."""

from __future__ import annotations

import pytest

FAULTS = {
    1: "killed in the middle of a save",
    2: "the newest checkpoint is damaged, or all are",
    3: "the given checkpoint is missing or bad",
    4: "a pickle with a payload",
    5: "different shapes or symbols; warm start",
    6: "a full disk, a directory that is not writable",
    7: "which checkpoints are kept; NaN is never the best",
    8: "two runs in one directory",
    9: "a resumed run equals an uninterrupted one",
    10: "kill -9 of a rank, restarted",
    11: "resume on a different number of ranks",
    12: "a whole node is killed",
    13: "SIGTERM and SIGUSR1 at any time",
    14: "NaN on one rank; a series of bad steps",
    15: "overflow under the loss scaler",
    16: "bad clips",
    17: "bad filelists",
    18: "a data loader process is killed; a rank hangs",
    19: "phrase files: empty, blank lines, bad bytes",
    20: "phrases: silent, unknown characters, very long",
    21: "the decoder does not stop",
    22: "output is not overwritten, file names are safe",
    23: "debug runs never remove a real one",
    24: "rows that leave the corpus, in every command",
    25: "divergence keeps the good checkpoints",
    26: "failures in validation, logs, pictures cost no step",
    27: "signals while no data comes",
    28: "NaN from a model or an option of synthesis",
    29: "mels of another config, damaged or replaced mels",
    30: "config typos, types of options",
    31: "two processes or two runs in one output folder",
    32: "killed or frozen processes, little shared memory",
    33: "short phrases of young models",
    34: "full disks in scripts",
    35: "a fuzz of every reader",
    36: "hostile names, pickles and archives",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for mark in item.iter_markers("fault"):
            item.user_properties += [("fault", group) for group in mark.args]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows: dict[int, list[float]] = {group: [0, 0, 0.0] for group in FAULTS}
    for outcome in ("passed", "failed", "error"):
        for report in terminalreporter.getreports(outcome):
            for name, group in report.user_properties:
                if name == "fault":
                    rows[group][0] += 1
                    rows[group][1] += outcome == "passed"
                    rows[group][2] += report.duration
    terminalreporter.section("faults")
    for group, (total, passed, seconds) in rows.items():
        result = "pass" if total and passed == total else "FAIL" if total else "none"
        terminalreporter.line(
            f"{group:>3}  {FAULTS[group]:<52} {int(passed):>3} of {int(total):<3} {seconds:6.1f} s  {result}"
        )
