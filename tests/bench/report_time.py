"""Time, memory and size of a report on many runs with many checkpoints, beside the limits that were set for it.

    python tests/bench/report_time.py [--runs 1000] [--checkpoints 50] [--seeds 1] [--home BENCH] [--profile]

Makes a home of hand-made run folders (K x latent dimension x KL floor x rate, every 25th run a token
baseline), which is not timed and is kept under ``--home`` for the next call. Then it writes the report in a
process of its own and prints its wall time, imports included, its peak resident memory, and the sizes of what
was written. ``--seeds 3`` makes a third of the settings, each with three seeds. Ends with exit code 1 where a
limit is exceeded.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # run as a script, python looks in tests/bench only

from tests.suites.run_folders import make_run_folder
from tests.suites.synthetic_study import known, make_bottleneck
from workbench import files, records

SECONDS, MEGABYTES, PAGE_MEGABYTES = 15.0, 1000.0, 10.0
"""The limits: wall time, peak resident memory, report.html."""
NAME = "many"
BASELINE_EVERY = 25
CELLS = list(
    itertools.product(
        (1, 2, 4, 8), (8, 16, 32, 64, 128), (0.0, 0.25, 0.5, 1.0), [1e-4 * (i + 1) for i in range(50)]
    )
)
"""(K, latent dimension, KL floor, rate)."""
STRIDE = 1511
"""Prime to the number of cells: neighbours in time differ in everything."""

MEASURED = """
import json, resource, sys, time
began = time.perf_counter()
from analysis.report import write_reports
(written,) = write_reports(sys.argv[1], None, sys.argv[2])
seconds = time.perf_counter() - began
usage = resource.getrusage(resource.RUSAGE_SELF)
cpu = usage.ru_utime + usage.ru_stime
peak = usage.ru_maxrss / 1000
print(json.dumps({"seconds": seconds, "peak": peak, "cpu": cpu, "html": str(written.html)}))
"""


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    arguments.add_argument("--runs", type=int, default=1000)
    arguments.add_argument("--checkpoints", type=int, default=50)
    arguments.add_argument("--seeds", type=int, default=1)
    arguments.add_argument("--home", type=Path, help="Keep the run folders here; default: a temporary folder.")
    arguments.add_argument("--out", type=Path, help="Keep the report here.")
    arguments.add_argument("--profile", action="store_true", help="Print where the time goes.")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        base = options.home or Path(temporary)
        home = base / f"{options.runs}x{options.checkpoints}x{options.seeds}" / "runs"
        make_home(home, options.runs, options.checkpoints, options.seeds)
        out = options.out or Path(temporary) / "report"
        return measure(home, out, profile=options.profile)


def measure(home: Path, out: Path, *, profile: bool) -> int:
    root = str(Path(__file__).resolve().parents[2])
    environment = {**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}
    how = ["-m", "cProfile", "-s", "cumulative"] if profile else []
    script = out.parent / "measured.py"
    out.parent.mkdir(parents=True, exist_ok=True)
    script.write_text(MEASURED)
    command = [sys.executable, *how, str(script), str(home), str(out)]
    found = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    script.unlink()
    first, _, rest = found.stdout.partition("\n")
    if profile:
        print("\n".join(rest.splitlines()[:120]))
    result = json.loads(first)
    page = Path(result["html"]).stat().st_size / 1e6
    everything = sum(path.stat().st_size for path in out.rglob("*") if path.is_file()) / 1e6
    rows = [
        ("wall time, imports included", result["seconds"], SECONDS, "s"),
        ("peak resident memory", result["peak"], MEGABYTES, "MB"),
        ("report.html", page, PAGE_MEGABYTES, "MB"),
    ]
    for name, value, limit, unit in rows:
        print(f"{name:<30}{value:8.1f} {unit:<3} limit {limit:.0f} {unit}{'' if value < limit else '   EXCEEDED'}")
    print(f"{'processor time':<30}{result['cpu']:8.1f} s   (what the wall time is on a quiet machine)")
    print(f"{'all files':<30}{everything:8.1f} MB")
    return 0 if all(value < limit for _, value, limit, _ in rows) else 1


def make_home(home: Path, num_runs: int, num_checkpoints: int, num_seeds: int) -> None:
    """Unless it is there already."""
    if (home / "made").exists():
        return
    shutil.rmtree(home, ignore_errors=True)
    began = time.perf_counter()
    folder = home / NAME
    folder.mkdir(parents=True)
    parameters = {
        "model.chunk_size": {"choices": [1, 2, 4, 8]},
        "autoencoder.latent_dim": {"choices": [8, 16, 32, 64, 128]},
        "autoencoder.kl_floor": {"choices": [0.0, 0.25, 0.5, 1.0]},
        "optim.lr": {"low": 1e-4, "high": 5e-3},
    }
    spec = {"name": NAME, "study": "joint", "preset": "gpu", "question": "Which?", "against": "None is."}
    files.write_json(
        folder / "study.json", {**spec, "parameters": parameters, "seeds": num_seeds, "trials": num_runs}
    )
    files.write_json(folder / "summary.json", {"importance": None, "num_complete": num_runs})
    wanted = [(folder, i, num_checkpoints, num_seeds) for i in range(num_runs)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(make_run, wanted, chunksize=20))
    (home / "made").touch()
    print(f"made {num_runs} runs of {num_checkpoints} checkpoints in {time.perf_counter() - began:.0f} s")


def make_run(wanted: tuple[Path, int, int, int]) -> None:
    folder, i, num_checkpoints, num_seeds = wanted
    baseline = i % BASELINE_EVERY == BASELINE_EVERY - 1
    k, latent, floor, rate = CELLS[(i // num_seeds * STRIDE) % len(CELLS)]
    options: dict[str, Any] = {
        "kind": "baseline" if baseline else "calm",
        "role": "baseline" if baseline else "trial",
        "study": folder.name,
        "trial": None if baseline else i,
        "seed": i // BASELINE_EVERY if baseline else i % num_seeds,
        "num_points": 40,
        "num_evaluations": num_checkpoints,
        "plots": False,
        "created": f"2026-01-01T{i // 3600:02d}:{i // 60 % 60:02d}:{i % 60:02d}+00:00",
        "overrides": {"optim.lr": rate},
        **({} if baseline else {"chunk_size": k, "latent_dim": latent, "kl_floor": floor}),
    }
    run_dir = make_run_folder(folder / f"run-{i:04d}", **options)
    record = records.read_record(run_dir)
    evaluations = [known(evaluation) for evaluation in records.read_evaluations(run_dir)]
    record.final = evaluations[-1]
    record.mlflow = records.MlflowLink(tracking_uri="sqlite:///x.db", experiment_id="3", run_id=f"{i:032x}")
    if not baseline:
        record.bottleneck = make_bottleneck(record.final.brier, k)
    if i % 10 == 0:
        message = "head loss with shuffled hidden states is as low as with the true ones (5.01 against 5.00)"
        record.diagnostics = [records.Diagnostic(code="ignores_context", message=message)]
    texts = [
        records.SampleText(
            step=e.step,
            tokens=e.tokens,
            sampler="batch",
            temperature=0.5,
            prompt="ROMEO.\n",
            text="The king " * 25,
        )
        for e in evaluations
    ]
    files.rewrite_json_lines(run_dir / records.EVALUATIONS, [e.model_dump() for e in evaluations])
    files.rewrite_json_lines(run_dir / records.SAMPLES, [t.model_dump() for t in texts])
    records.write_record(run_dir, record)


if __name__ == "__main__":
    raise SystemExit(main())
