"""Processor seconds of a process of ours that imports what it needs and ends, with Python's usual look for garbage
and with ``workbench.garbage``; in turns.

    python tests/bench/start_and_end.py [--turns 7]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

PROCESSES = {
    "calm train": ["workbench.runner", "workbench.tracking_mlflow"],
    "a study's worker": ["studies.worker", "workbench.runner"],
    "calm study run": ["studies.launch", "workbench.tracking_mlflow", "workbench.cli.study"],
    "calm report": ["analysis.report", "workbench.tracking_mlflow"],
}
OURS = "from workbench import garbage; garbage.start(); "


def seconds(code: str) -> float:
    """Of processor, of a process that runs ``code``."""
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split(":")[0] if __doc__ else None)
    parser.add_argument("--turns", type=int, default=7)
    turns = parser.parse_args().turns
    print(f"{'processor seconds, medians':28s}{'usual':>8s}{'ours':>8s}{'ratio':>8s}{'imports':>10s}{'end':>8s}")
    for name, modules in PROCESSES.items():
        load = f"import {', '.join(modules)}"
        cut = "; import os; os._exit(0)"
        forms = {"usual": load, "ours": OURS + load, "usual cut": load + cut, "ours cut": OURS + load + cut}
        found: dict[str, list[float]] = {form: [] for form in forms}
        for _ in range(turns):
            for form, code in forms.items():
                found[form].append(seconds(code))
        usual, ours, usual_cut, ours_cut = (statistics.median(values) for values in found.values())
        imports = f"{usual_cut:.2f}→{ours_cut:.2f}"
        end = f"{usual - usual_cut:.2f}→{ours - ours_cut:.2f}"
        print(f"{name:28s}{usual:8.2f}{ours:8.2f}{usual / ours:8.2f}  {imports:>12s}  {end:>12s}")


if __name__ == "__main__":
    main()
