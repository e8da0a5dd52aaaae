"""What a running study shows: a live table on a terminal, a line per finished trial elsewhere."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from studies.progress import Snapshot, TrialRow
from studies.storage import is_alive

RECENT = 8
"""Finished trials in the live table."""
BEST = 10
"""Trials in the table at the end."""


class Display:
    """``update`` with every snapshot; a context manager, so that the terminal is left in order."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._told: set[tuple[str, str]] = set()
        self._first = True

    def __enter__(self) -> Self:
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, state: Snapshot) -> None:
        if self._live:
            self._live.update(live_view(self.name, state))
            return
        for row in state.of_state("complete", "pruned", "fail"):
            key = (row.label, row.run_id + row.state)
            if key not in self._told:
                self._told.add(key)
                if not self._first:  # what a resumed study had before is not news
                    self.console.print(Text(f"{line(row)}  [{progress_text(state)}]"), soft_wrap=True)
        self._first = False

    def note(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def line(row: TrialRow) -> str:
    """``trial 7 complete 2.31 chunk_size=4 … 41 s``."""
    state = {"fail": "failed"}.get(row.state, row.state)
    score = f" {row.score:.4g}" if row.score is not None else ""
    seconds = f" {duration(row.seconds)}" if row.seconds is not None else ""
    reason = f" ({row.reason})" if row.reason and row.state == "fail" else ""
    return f"{row.label} {state}{score} {row.params}".rstrip() + seconds + reason


def progress_text(state: Snapshot) -> str:
    """``5/12 trials, 1 pruned, 0 failed, 2 running, cells 3/6, about 6 min left``; without a search
    ``cells 3/16, 0 failed, 2 running, about 6 min left``."""
    cells = f"cells {state.cells.complete}/{state.cells_wanted}"
    both = [
        f"{state.search.failed + state.cells.failed} failed",
        f"{state.search.running + state.cells.running} running",
    ]
    if state.searches:
        trials = f"{state.search.complete}/{state.trials_wanted} trials"
        parts = [trials, f"{state.search.pruned} pruned", *both, cells]
    else:
        parts = [cells, *both]
    if not state.finished:
        left = "time left unknown" if state.seconds_left is None else f"about {duration(state.seconds_left)} left"
        parts.append(left)
    return ", ".join(parts)


def live_view(name: str, state: Snapshot) -> Group:
    done = state.search.complete + state.cells.complete
    total = max(1, state.trials_wanted + state.cells_wanted)
    head = Text.assemble((f"study {name}  ", "bold"), progress_text(state))
    best = state.best
    best_text = [Text(f"best so far: {line(best)}" if best else "best so far: none yet")] if state.searches else []
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("", "state", "score", "setting", "time"):
        table.add_column(column, justify="right" if column in ("score", "time") else "left", no_wrap=True)
    finished = state.of_state("complete", "pruned", "fail")[-RECENT:]
    for row in [*finished, *state.of_state("running")]:
        table.add_row(*_cells(row), style=_STYLE.get(row.state, ""))
    return Group(head, ProgressBar(total=total, completed=done, width=60), Text(), *best_text, table)


_STYLE = {"fail": "red", "pruned": "dim", "running": "cyan"}


def _cells(row: TrialRow) -> list[str]:
    return [
        row.label,
        {"fail": "failed"}.get(row.state, row.state),
        "" if row.score is None else f"{row.score:.4g}",
        row.reason if row.state == "fail" else row.params,
        "" if row.seconds is None else duration(row.seconds),
    ]


def final_table(state: Snapshot) -> Table:
    """The best trials and all cells; nothing is called best without a search, where cells may differ in text."""
    title = "best trials and fixed cells" if state.searches else "cells"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("", "score", "setting", "time", "run"):
        table.add_column(column, justify="right" if column in ("score", "time") else "left", overflow="fold")
    complete = state.of_state("complete")
    trials = [r for r in complete if r.label.startswith("trial ")]
    cells = [r for r in complete if not r.label.startswith("trial ")]
    for row in [*sorted(trials, key=lambda r: -(r.score or 0.0))[:BEST], *cells]:
        label, _, score, setting, seconds = _cells(row)
        table.add_row(label, score, setting, seconds, row.run_id)
    return table


def status_lines(state: Snapshot) -> list[str]:
    """For ``calm study status``: counts, best, who runs what, failures with their reasons."""
    lines = [progress_text(state) if not state.finished else f"finished: {progress_text(state)}"]
    if state.best:
        lines.append(f"best: {line(state.best)} (run {state.best.run_id})")
    for row in state.of_state("running"):
        worker = row.worker
        alive = {True: "alive", False: "dead", None: "on another host"}[is_alive(worker) if worker else None]
        who = f"worker {worker['index']} on {worker['host']}, process {worker['pid']}" if worker else "starting"
        lines.append(f"running: {row.label} {row.params} for {duration(row.seconds or 0.0)}; {who}: {alive}")
    waiting = len(state.of_state("waiting"))
    if waiting:
        lines.append(f"queued: {waiting}")
    lines += [f"failed: {row.label} {row.params}: {row.reason}" for row in state.of_state("fail")]
    return lines


def duration(seconds: float) -> str:
    """``41 s``, ``6 min``, ``2 h 05 min``, ``12 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes >= 3 * 24 * 60:
        return f"{minutes / (24 * 60):,.0f} days"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
