"""A tracking server that fails for a third of a study and more: what is lost, what is doubled, what it costs.

    python -m tests.chaos.tracking_outage

Runs a small real study twice against a real MLflow server: undisturbed, then while the server is killed and
started again, stopped and continued, and while a proxy before it answers with errors, drops answers or is slow.
Then ``calm sync``, once, and every point of every run folder is compared with the server's. Exit code 1 where
anything is lost or doubled, the study was not finished, or the server was well for more than two thirds of it.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from studies import launch as launching
from studies import prepare
from studies.display import Display
from studies.prepare import Options
from studies.spec import Study
from tests.suites.faulty_server import FAULTS, Server, Verdict, compare
from tests.suites.study_launch import tiny_study
from tests.suites.tiny_runs import BASELINE, tree, write_text
from workbench.home import open_home
from workbench.tracking_sync import sync


@dataclass
class Session:
    """One study and what became of it."""

    seconds: float
    """Of the study, until its command returned."""
    down: float
    faults: list[str]
    left: int
    """Runs of which something was left to calm sync."""
    verdict: Verdict
    finished: bool
    lost_answers: int = 0


def small_study(folder: Path, cells: int, steps: int) -> Study:
    """Token baselines of different widths, a few seconds each."""
    base: dict[str, Any] = tree(write_text(folder / "text.txt"))
    base["model"] = BASELINE["model"]
    base["train"] = {**base["train"], "train_tokens": steps * 128, "num_evaluations": 6}
    widths = {f"w{index}": {"model.backbone.width": 16 + 16 * (index % 4)} for index in range(cells)}
    return tiny_study(base=base, space={}, trials=0, checks={}, baselines=widths, seeds=2)


def run_study(folder: Path, study: Study, faults: tuple[str, ...], *, out: float, well: float) -> Session:
    """The study under ``folder``, its server too; without faults where none are given."""
    home = open_home(folder / "home")
    prepare.find_studies = lambda: {"tiny": study}
    display = Display(Console(file=io.StringIO()), "tiny")
    with Server(open_home(folder / "server")) as server:
        options = Options(name="tiny", tracking_uri=server.proxy.url, workers=2, threads=1)
        start = time.monotonic()
        with server.faults(faults, out=out, well=well) as done:
            result = launching.run(options, home, display)
            seconds = time.monotonic() - start
            down = server.down
        report = sync(home, server.proxy.url)
        left = sum(count for outcome, count in report.counts.items() if outcome.value != "complete")
        verdict = compare(server, home, "tiny-quick")
        return Session(seconds, down, done, left, verdict, result.state.finished, server.proxy.lost_answers)


def print_table(sessions: dict[str, Session]) -> None:
    rows = {
        "study, seconds": lambda s: f"{s.seconds:.1f}",
        "server out of order, seconds": lambda s: f"{s.down:.1f}",
        "share of the study": lambda s: f"{s.down / s.seconds:.0%}",
        "faults": lambda s: str(len(s.faults)),
        "answers dropped after the request went through": lambda s: str(s.lost_answers),
        "runs with something left to calm sync": lambda s: str(s.left),
        "runs": lambda s: str(s.verdict.runs),
        "points in the run folders": lambda s: f"{s.verdict.points:,}",
        "points lost": lambda s: str(len(s.verdict.lost)),
        "points doubled": lambda s: str(len(s.verdict.doubled)),
        "points sent again although they had arrived": lambda s: str(s.verdict.sent_twice),
        "runs doubled": lambda s: str(s.verdict.doubled_runs),
        "wrong status": lambda s: str(len(s.verdict.wrong_status)),
    }
    print(f"{'':48s}" + "".join(f"{name:>14s}" for name in sessions))
    for title, show in rows.items():
        print(f"{title:48s}" + "".join(f"{show(session):>14s}" for session in sessions.values()))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=4, help="of two runs each (%(default)s)")
    parser.add_argument("--steps", type=int, default=300, help="of a run (%(default)s)")
    parser.add_argument("--faults", default=",".join(FAULTS), help="%(default)s")
    parser.add_argument("--out", type=float, default=4.0, help="seconds of a fault, at least (%(default)s)")
    parser.add_argument("--well", type=float, default=3.0, help="seconds between two (%(default)s)")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    sessions: dict[str, Session] = {}
    with tempfile.TemporaryDirectory() as temporary:
        for name, faults in {"undisturbed": (), "disturbed": tuple(options.faults.split(","))}.items():
            folder = Path(temporary) / name
            folder.mkdir()
            study = small_study(folder, options.cells, options.steps)
            sessions[name] = run_study(folder, study, faults, out=options.out, well=options.well)
    print_table(sessions)
    disturbed = sessions["disturbed"]
    for problem in disturbed.verdict.lost[:10] + disturbed.verdict.doubled[:10] + disturbed.verdict.wrong_status:
        print(problem)
    print(f"faults: {' '.join(disturbed.faults)}")
    if options.json:
        shown = {name: {**vars(s), "verdict": vars(s.verdict)} for name, s in sessions.items()}
        options.json.write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")
    well = all(session.verdict.whole and session.finished for session in sessions.values())
    return 0 if well and disturbed.down >= disturbed.seconds / 3 else 1


if __name__ == "__main__":
    sys.exit(main())
