"""Tables of other numbers of network calls and other samplers, for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from workbench.records import CallPoint, TradeoffPoint


def print_sampling(console: Console, call_curve: Sequence[CallPoint], tradeoff: Sequence[TradeoffPoint]) -> None:
    """What there is of both."""
    from rich.table import Table

    if call_curve:
        table = Table("solver", "network calls", "FLOPs/token", "BrierLM", title="by network calls")
        for call in call_curve:
            cost = f"{call.infer_flops_per_token:.3g}"
            table.add_row(call.solver, str(call.network_calls), cost, call.brier.words())
        console.print(table)
    if tradeoff:
        table = Table("sampler", "setting", "right %", "two agree %", "draws/chunk", "fallback", "ms/token")
        for p in tradeoff:
            setting = [f"temperature {p.temperature:g}"] if p.temperature is not None else []
            setting += [f"N = {p.batch_size}"] if p.batch_size is not None else []
            setting += [f"noise {p.noise_scale:g}"] if p.noise_scale is not None else []
            right, agree = f"{p.accuracy:.1f} ± {p.accuracy_se:.1f}", f"{p.collision:.1f} ± {p.collision_se:.1f}"
            table.add_row(
                *(p.sampler, ", ".join(setting), right, agree, f"{p.calls_per_chunk:.1f}"),
                *(f"{p.fallback_share:.1%}", f"{1000 * p.seconds_per_token:.2g}"),
            )
        console.print(table)
