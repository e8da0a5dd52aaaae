"""The executive summary: what the numbers say, in a few sentences, and what must be said beside them.

Every sentence is made from numbers of this report and names its interval; a part without data says nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from analysis.budgets import AtBudget, sentence
from analysis.caveats import caveats
from analysis.comparison import Comparison
from analysis.downstream import Downstream, sentences
from analysis.power_law_report import PowerLawParts
from analysis.scaling_report import ScalingParts
from analysis.sections_scaling import headline_ratios
from analysis.texts import Part


@dataclass(frozen=True)
class Summary:
    """``findings``: beyond the verdict; ``caveats``: what the diagnostics of the compared runs demand."""

    findings: list[str] = field(default_factory=list)
    caveats: list[str] = field(default_factory=list)


def summarise(
    parts: Sequence[Part],
    comparison: Comparison,
    budgets: list[AtBudget],
    powers: PowerLawParts | None,
    scaling: ScalingParts | None,
    autoencoders: Downstream | None,
) -> Summary:
    """From what the sections found, in their order."""
    findings = [sentence(budgets, comparison)]
    findings += headline_ratios(powers) if powers is not None else []
    findings += scaling.summary if scaling is not None and scaling.law.chosen is not None else []
    findings += sentences(autoencoders)[:2] if autoencoders is not None else []
    several = len(parts) > 1
    shown = next((part.text for part in parts if part.comparison is comparison), "") if several else ""
    said = [(part.text, line) for part in parts for line in caveats(part.comparison.finals)]
    return Summary(
        [f"{shown}: {line}" if shown else line for line in findings if line],
        [f"{text}: {line}" if several else line for text, line in said],
    )
