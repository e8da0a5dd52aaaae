"""How compute is counted, and the tables of an account: of ``calm study show`` and ``calm train --dry-run``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from rich.console import Console
    from rich.table import Table

    from workbench.compute_account import Account, Counting

    Labelled = Sequence[tuple[str, Account]]

CountOption = Annotated[
    str, typer.Option("--count", help="executed: what our code does; published: the paper's convention.")
]
CausalOption = Annotated[bool, typer.Option("--causal", help="Count half the square of attention.")]
AutoencoderOption = Annotated[
    str,
    typer.Option(
        "--autoencoder",
        help="Its training: apart, full, shared (among the runs that use it), or a share from 0 to 1.",
    ),
]
ContextOption = Annotated[
    int | None,
    typer.Option(
        "--context", max=10_000_000, help="Tokens read before the generated one; default eval.context_len."
    ),
]
LengthOption = Annotated[
    int | None,
    typer.Option(
        "--length", max=10_000_000, help="Tokens generated after them; inference is the mean over these."
    ),
]


def require_no_counting(
    count: str, causal: bool, autoencoder: str, context: int | None, length: int | None
) -> None:
    """Raises ConfigError where a training was told how to count."""
    from workbench.errors import ConfigError

    if (count, causal, autoencoder, context, length) != ("executed", False, "apart", None, None):
        raise ConfigError(
            "--count, --causal, --autoencoder, --context and --length say how a dry run counts: add --dry-run, or "
            "leave them out to train"
        )


def counting_of(
    count: str, causal: bool, autoencoder: str, context: int | None, length: int | None, *, shared: float | str
) -> Counting:
    """The options' ``Counting``; ``shared`` is what the word stands for. Raises ConfigError."""
    from workbench.compute_account import Counting
    from workbench.errors import ConfigError

    share: Any = shared if autoencoder == "shared" else autoencoder
    if autoencoder not in ("apart", "full", "shared"):
        try:
            share = float(autoencoder)
        except ValueError:
            raise ConfigError(
                f"--autoencoder wants apart, full, shared or a share from 0 to 1, {autoencoder!r} given"
            ) from None
    return Counting(count=count, causal=causal, autoencoder=share, context=context, length=length)  # type: ignore[arg-type]


def print_accounts(console: Console, rows: Labelled) -> None:
    """Parameters, training and inference of each; all must be counted alike."""
    console.print(_parameters(rows))
    console.print(_training(rows))
    console.print(_inference(rows))
    by_calls = _by_calls(rows)
    if by_calls is not None:
        console.print(by_calls)
    if any(found.kind == "calm" for _, found in rows):
        console.print(
            "seen: positions attended to; attn., head: their part of plain. batch N: of N draws a chunk. "
            "exact +1: each call beyond plain's one, as many as the text demands. noise costs as much as plain, "
            "and softmax as a baseline's plain",
            soft_wrap=True,
        )


def _table(title: str, columns: Sequence[str]) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    table.add_column("run", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _filled(title: str, rows: Labelled, columns: dict[str, Callable[[Account], str]]) -> Table:
    """Columns in which no run has anything are left out."""
    from rich.markup import escape

    cells = {name: [show(found) for _, found in rows] for name, show in columns.items()}
    kept = {name: column for name, column in cells.items() if any(column)}
    table = _table(title, list(kept))
    for number, (label, _) in enumerate(rows):
        table.add_row(escape(label), *(column[number] for column in kept.values()))
    return table


def _parameters(rows: Labelled) -> Table:
    names = ["backbone", "embedding", "compression", "latent_input", "head", "auxiliary", "output", "total"]
    columns = {name.replace("_", " "): _count_of(name) for name in [*names, "autoencoder"]}
    return _filled("parameters by group", rows, columns)


def _count_of(name: str) -> Callable[[Account], str]:
    return lambda found: f"{found.parameters[name]:,}" if found.parameters.get(name) else ""


def _training(rows: Labelled) -> Table:
    words = {
        "language_model": "model",
        "head": "head",
        "loss": "loss",
        "target_encoder": "targets",
        "auxiliary": "auxiliary",
        "optimizer": "optimizer",
        "autoencoder": "autoenc.",
    }
    columns: dict[str, Callable[[Account], str]] = {"FLOPs/token": lambda found: f"{found.training.per_token:.3g}"}
    columns |= {word: _share_of(name) for name, word in words.items()}
    columns["autoencoder, apart" if not _charged(rows) else "whole"] = lambda found: (
        f"{found.training.autoencoder:.3g}" if found.training.autoencoder else ""
    )
    return _filled(f"training FLOPs by part ({rows[0][1].counting.words()})", rows, columns)


def _charged(rows: Labelled) -> bool:
    return any("autoencoder" in found.training.groups for _, found in rows)


def _share_of(name: str) -> Callable[[Account], str]:
    return lambda found: f"{found.training.shares[name]:.1%}" if name in found.training.shares else ""


def _inference(rows: Labelled) -> Table:
    first = rows[0][1].inference
    columns: dict[str, Callable[[Account], str]] = {
        "seen": lambda found: f"{found.inference.positions:g}",
        "plain": lambda found: f"{found.inference.flops_per_token():.3g}",
        "attn.": lambda found: f"{found.inference.parts['attention'] / found.inference.flops_per_token():.1%}",
        "head": lambda found: _head_share(found),
    }
    sizes = sorted({size for _, found in rows for size in found.inference.batch_sizes})
    columns |= {f"batch {size}": _sampler(f"batch, N = {size}") for size in sizes}
    columns["exact +1"] = _sampler("exact, each call")
    contexts = sorted({found.inference.context for _, found in rows})
    where = f"after {contexts[0]}" + (f" to {contexts[-1]}" if len(contexts) > 1 else "") + " tokens"
    mean = f", mean over {first.length} generated" if first.length else ""
    return _filled(f"inference FLOPs per token {where}{mean}", rows, columns)


def _head_share(found: Account) -> str:
    cost = found.inference
    return f"{(cost.per_round + cost.head_per_draw) / cost.flops_per_token():.1%}" if cost.is_calm else ""


def _sampler(name: str) -> Callable[[Account], str]:
    return lambda found: f"{found.inference.samplers[name]:.3g}" if name in found.inference.samplers else ""


def _by_calls(rows: Labelled) -> Table | None:
    """``plain`` with each solver and number of network calls; None where there is none to compare."""
    from rich.markup import escape

    solvers: dict[tuple[str, str], dict[int, float]] = {}
    for label, found in rows:
        for (solver, calls), value in found.inference.by_calls.items():
            solvers.setdefault((label, solver), {})[calls] = value
    numbers = sorted({calls for costs in solvers.values() for calls in costs})
    if not numbers:
        return None
    names = ["solver", *(str(number) for number in numbers)]
    table = _table("inference FLOPs per token (plain) by the head's network calls", names)
    for (label, solver), costs in solvers.items():
        cells = (f"{costs[number]:.3g}" if number in costs else "" for number in numbers)
        table.add_row(escape(label), solver, *cells)
    return table
