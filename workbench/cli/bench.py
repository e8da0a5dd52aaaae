"""``calm bench``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from workbench.cli.options import HeadSamplingOption, HomeOption, JsonOption

if TYPE_CHECKING:
    from rich.console import Console

    from workbench.bench_runs import BenchRow, BenchSettings, Spread
    from workbench.home import Home


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(bench)


def bench(
    runs: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run folders, ids or names.")],
    sampler: Annotated[
        list[str] | None,
        typer.Option(help="plain, noise, batch, exact or softmax; repeatable; default: all that a run can use."),
    ] = None,
    temperature: Annotated[float, typer.Option(help="Of batch, exact and softmax.")] = 0.5,
    batch_size: Annotated[
        list[int] | None, typer.Option(help="Samples for one chunk of sampler batch; repeatable; default 32.")
    ] = None,
    noise_scale: Annotated[float, typer.Option(help="Of sampler noise.")] = 0.5,
    budget: Annotated[
        int, typer.Option(help="Samples that exact may draw for one chunk; then batch decides it.")
    ] = 2000,
    texts: Annotated[int, typer.Option(min=1, max=100_000, help="Texts at a time, for the throughput.")] = 16,
    context: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Tokens of the prompts; default: half a training block."),
    ] = None,
    tokens: Annotated[
        int | None,
        typer.Option(min=1, max=1_000_000, help="Tokens of each text; default: 64, or what fits into a block."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, max=10_000, help="Timed passes, after one to warm up.")] = 5,
    seconds: Annotated[
        float, typer.Option(help="At most about so long for each of a sampler's two series.")
    ] = 60.0,
    threads: Annotated[int | None, typer.Option(min=1, max=4096, help="Default: what this machine has.")] = None,
    set_: HeadSamplingOption = None,
    home: HomeOption = Path("runs"),
    as_json: JsonOption = False,
    csv: Annotated[Path | None, typer.Option("--csv", help="Also write a CSV file.")] = None,
) -> None:
    """Measure how fast trained runs write: time per token of one text, tokens per second of many, memory, for each
    sampler, beside the counted FLOPs."""
    from workbench.bench_runs import BenchSettings
    from workbench.cli.display import make_console
    from workbench.config_file import parse_assignments
    from workbench.home import open_home

    settings = BenchSettings(
        samplers=tuple(sampler or ()),
        temperature=temperature,
        batch_sizes=tuple(batch_size or (32,)),
        noise_scale=noise_scale,
        budget=budget,
        num_texts=texts,
        context=context,
        num_tokens=tokens,
        repeats=repeats,
        seconds=seconds,
    )
    place = open_home(home)
    rows = _measure(runs, settings, place, parse_assignments(set_ or []), threads)
    if csv is not None:
        _write_csv(csv, rows)
    if as_json:
        import dataclasses
        import json

        print(json.dumps([dataclasses.asdict(row) for row in rows], indent=1))
    else:
        _print(make_console(), rows)


def _measure(
    runs: Sequence[str], settings: BenchSettings, place: Home, overrides: dict[str, Any], threads: int | None
) -> list[BenchRow]:
    import torch

    from workbench.bench_runs import bench as bench_run
    from workbench.cli.display import RunDisplay, make_console
    from workbench.run_names import find_run
    from workbench.saved_runs import load_run

    folders = [find_run(name, place) for name in runs]
    rows = []
    with RunDisplay(make_console(stderr=True, lasting=True)) as display:
        for folder in folders:
            saved = load_run(folder, place, overrides=overrides)
            if threads is not None:  # loading sets them to what the machine has
                torch.set_num_threads(threads)
            rows += bench_run(saved, settings, display=display)
    return rows


def _print(console: Console, rows: Sequence[BenchRow]) -> None:
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="generation; median and range of the repeats")
    for column in ("run", "K", "head (calls)", "sampler", "samples/chunk"):
        table.add_column(column, overflow="fold")
    for column in ("ms/token, 1 text", f"tokens/s, {rows[0].num_texts} texts", "FLOPs/token", "FLOP/s", "peak MB"):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            escape(row.run),
            str(row.chunk_size),
            f"{row.head} ({row.network_calls})" if row.head else "–",
            _sampler(row),
            _samples(row),
            _spread(row.seconds_per_token, 1000.0),
            _spread(row.tokens_per_second),
            f"{row.sampler_flops_per_token:.3g}",
            f"{row.flops_per_second:.1e} {row.batch_flops_per_second:.1e}",
            f"{row.peak_memory / 1e6:,.0f}",
        )
    console.print(table)
    for line in _conditions(rows):
        console.print(line, highlight=False, soft_wrap=True, markup=False)


def _sampler(row: BenchRow) -> str:
    if row.sampler == "noise":
        return f"noise × {row.noise_scale:g}"
    if row.sampler == "plain":
        return "plain"
    return f"{row.sampler} τ={row.temperature:g}" + (f" N={row.batch_size}" if row.batch_size else "")


def _samples(row: BenchRow) -> str:
    if row.head is None:
        return "–"
    text = f"{row.calls_per_chunk:,.0f}"
    return f"> {text} ({row.fallback_share:.0%} by batch)" if row.fallback_share else text


def _spread(spread: Spread, unit: float = 1.0) -> str:
    median, low, high = (f"{unit * x:,.0f}" if unit * x >= 100 else f"{unit * x:#.3g}" for x in
                         (spread.median, spread.low, spread.high))  # fmt: skip
    return f"{median} ({low}–{high})"


def _conditions(rows: Sequence[BenchRow]) -> list[str]:
    """What the figures mean."""
    spans = sorted({(row.context, row.num_tokens) for row in rows})
    lengths = "; ".join(f"{tokens} tokens after a context of {context}" for context, tokens in spans)
    machine = rows[0]
    lines = [
        f"{lengths}; {machine.threads} thread(s), {machine.dtype}, {machine.device}, {machine.repeats} repeats; "
        "reading the prompt is not in the times",
        "FLOPs/token: counted, executed, at the mean context, every sample that was drawn included; FLOP/s: those "
        "over the measured time, one text and all texts; peak MB: of the whole process (a GPU: of its tensors)",
    ]
    if any(not row.complete for row in rows):
        lines.append("some passes were ended by --seconds before their last token")
    return lines


def _write_csv(path: Path, rows: Sequence[BenchRow]) -> None:
    """Raises OutputError where that is impossible."""
    import csv
    import io

    from workbench.files import write_atomic

    flat = [row.flat() for row in rows]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(flat[0]))
    writer.writeheader()
    writer.writerows(flat)
    write_atomic(path, text.getvalue())
