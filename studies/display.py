"""What a running study shows: a live table on a terminal; elsewhere a line per finished trial, and now and then
one of those under way."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from studies.progress import Snapshot, TrialRow
from workbench import records, run_logs
from workbench.errors import RunError
from workbench.home import Home

RECENT = 8
"""Finished trials in the live table."""
BEST = 10
"""Trials in the table at the end."""
RUNNING_EVERY = 30.0
"""Seconds between lines of what is under way, without a terminal."""
MOST_RUNNING = 8
"""Of them in such a line."""


class Display:
    """``update`` with every snapshot; a context manager, so that the terminal is left in order."""

    def __init__(self, console: Console, name: str) -> None:
        self.console, self.name = console, name
        self.folder: Path | None = None
        """Of the launch, once it is there."""
        self.state: Snapshot | None = None
        """The last one."""
        self._live = Live(console=console, refresh_per_second=2, transient=True) if console.is_terminal else None
        self._waiting = console.status(Text(f"preparing {name}: texts, database, workers")) if self._live else None
        self._told: set[tuple[str, str]] = set()
        self._first = True
        self._said = -math.inf
        """When what is under way was told."""

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Until the table is shown something else moves on a terminal."""
        if self._waiting:
            self._waiting.start()
        try:
            yield
        finally:
            if self._waiting:
                self._waiting.stop()

    def __enter__(self) -> Self:
        if self._waiting:
            self._waiting.stop()
        if self._live:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live:
            self._live.stop()

    def update(self, state: Snapshot) -> None:
        self.state = state
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
        running = state.of_state("running")
        if running and time.monotonic() - self._said > RUNNING_EVERY:
            self._said = time.monotonic()
            text = f"{running_text(running, self.folder)}  [{progress_text(state)}]"
            self.console.print(Text(text), soft_wrap=True)

    def note(self, text: str) -> None:
        self.console.print(Text(text), soft_wrap=True)


def line(row: TrialRow) -> str:
    """``trial 7 complete score 2.31 chunk_size=4 … 41 s``: the score is what the search maximises, which is not
    BrierLM where an order of that is not told from 0."""
    state = {"fail": "failed"}.get(row.state, row.state)
    score = f" score {row.score:.4g}" if row.score is not None else ""
    seconds = f" {duration(row.seconds)}" if row.seconds is not None else ""
    reason = f" ({row.reason})" if row.reason and row.state == "fail" else ""
    return f"{row.label} {state}{score} {row.params}".rstrip() + seconds + reason


def running_text(rows: list[TrialRow], folder: Path | None) -> str:
    """``running: trial 7 step 120/303 loss 5.12 14,700 tokens/s; small for 41 s``. ``folder``: of the launch; the
    runs of other hosts need not be in it."""
    parts = [f"{row.label} {_where(row, folder)}".rstrip() for row in rows[:MOST_RUNNING]]
    more = f" and {len(rows) - MOST_RUNNING} more" if len(rows) > MOST_RUNNING else ""
    return f"running: {'; '.join(parts)}{more}"


def _where(row: TrialRow, folder: Path | None) -> str:
    """How far its run is; before its first step how long it has been under way."""
    point = run_logs.latest_point(folder / row.run_id) if folder is not None and row.run_id else None
    if point is None or folder is None:
        return "" if row.seconds is None else f"for {duration(row.seconds)}"
    try:
        of = f"/{records.read_record(folder / row.run_id).num_steps}"
    except RunError:
        of = ""
    return f"step {point.step}{of} loss {point.loss:.4g} {point.tokens_per_second:,.0f} tokens/s"


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
        escape(row.label),
        {"fail": "failed"}.get(row.state, row.state),
        "" if row.score is None else f"{row.score:.4g}",
        escape(row.reason if row.state == "fail" else row.params),
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
        table.add_row(label, score, setting, seconds, escape(row.run_id))
    return table


def ending_text(name: str, state: Snapshot, home: Home) -> str:
    """What there is to say of a study that has ended where something failed, or nothing completed; else empty.

    ``2 of 9 trials and cells of joint-quick failed, most often (2 times): ValueError: ...; all of them: calm study
    status joint-quick; the failed ones again: calm study retry joint-quick``."""
    failed = state.of_state("fail")
    if state.in_vain:
        rows = [row for row in state.of_state("fail", "pruned") if row.is_cell is not state.searches]
        counts = f"{sum(row.state == 'fail' for row in rows)} failed"
        counts += f", {sum(row.state == 'pruned' for row in rows)} were pruned" if state.searches else ""
        what = "trials" if state.searches else "cells"
        said = f"none of the {len(rows)} {what} of {name} completed ({counts})"
    elif failed:
        rows = failed
        what = "trials and cells" if state.searches else "cells"
        said = f"{len(rows)} of {len(state.rows)} {what} of {name} failed"
    else:
        return ""
    parts = [said + _commonest(rows), f"all of them: calm study status {home.named(name)}"]
    if failed:
        parts.append(f"the failed ones again, when it is mended: calm study retry {home.named(name)}")
    return "; ".join(parts)


def _commonest(rows: list[TrialRow]) -> str:
    """The reason of most, whatever their runs are called."""
    kinds: dict[str, list[str]] = {}
    for row in rows:
        kind = row.reason.partition("; ")[0]
        kinds.setdefault(kind.replace(row.run_id, "RUN") if row.run_id else kind, []).append(row.reason)
    kinds.pop("", None)
    most: list[str] = max(kinds.values(), key=len, default=[])
    times = "once" if len(most) == 1 else f"{len(most)} times"
    return f", most often ({times}): {most[0]}" if most else ""


def duration(seconds: float) -> str:
    """``41 s``, ``6 min``, ``2 h 05 min``, ``12 days``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes >= 3 * 24 * 60:
        return f"{minutes / (24 * 60):,.0f} days"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"
