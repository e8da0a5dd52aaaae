"""The parts of a report about BrierLM over compute and the ratio of compute: pictures, tables and sentences."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from analysis import plots_power_law, style
from analysis.compute_ratio import BASELINE, Ratios, compute_ratios, published_ratios, ratio_sentences
from analysis.parts import Parts
from analysis.power_law import PowerLaws, fit_power_laws
from analysis.style import Picture
from analysis.tables_power_law import law_sentences, power_law_table, published_table, ratio_table

TRAINING, INFERENCE = "train_flops", "infer_flops_per_token"
PUBLISHED = ("train_flops_published", "infer_flops_per_token_published")


@dataclass(frozen=True)
class PowerLawParts(Parts):
    """``summary``: the headline ratios, or why there are none."""

    laws: list[PowerLaws]
    """Over training, then over inference compute."""
    ratios: list[Ratios]
    """Training, training with the autoencoder, inference."""


def power_law_section_parts(
    evaluations: pd.DataFrame,
    *,
    kind: str | None = None,
    family: str | None = None,
    baseline: str = BASELINE,
    published: pd.DataFrame | None = None,
    with_pictures: bool = True,
) -> PowerLawParts:
    """Fit the curves and make everything a report shows of them.

    ``evaluations``: of one comparison (``analysis.rows.EVALUATION_COLUMNS``); ``kind``, ``family``:
    ``analysis.power_law.fit_power_laws``; ``published``: rows to set beside (``analysis.external.published``)."""
    laws = [fit_power_laws(evaluations, cost=cost, kind=kind, family=family) for cost in (TRAINING, INFERENCE)]
    training, inference = laws
    ratios = [
        compute_ratios(training, baseline=baseline),
        compute_ratios(training, baseline=baseline, with_autoencoder=True),
        compute_ratios(inference, baseline=baseline),
    ]
    both = training.of(baseline) is not None and len(training.curves) > 1
    summary = [text for one in ratios for text in ratio_sentences(one, baseline=baseline)] if both else []
    reference = None if published is None else published_table(published_ratios(published, PUBLISHED))
    tables = [*(power_law_table(one) for one in laws), ratio_table(ratios) if both else None, reference]
    pictures: list[Picture | None] = []
    if with_pictures:
        with style.house_style():
            pictures = [plots_power_law.curves_figure(one) for one in laws]
            pairs = zip(ratios, (training, training, inference), strict=True)
            pictures += [plots_power_law.ratio_figure(one, law, baseline=baseline) for one, law in pairs]
    return PowerLawParts(
        laws,
        ratios,
        pictures=[picture for picture in pictures if picture is not None],
        tables=[table for table in tables if table is not None],
        summary=summary,
        sentences=[text for law in laws for text in _section_sentences(law)],
    )


def _section_sentences(laws: PowerLaws) -> list[str]:
    """Of inference it is said that training differs."""
    said = law_sentences(laws)
    if laws.cost == INFERENCE and laws.curves:
        said.append(
            "Over inference compute the curves hold for the training that these runs had; longer training moves "
            "them up at no inference cost."
        )
    return said
