"""What the data say about the study's question, in words that an interval supports."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from analysis.ablation import Effect
from analysis.comparison import Comparison
from analysis.rows import FLOORS
from analysis.stats import BETTER, WORSE, Difference, Mean, against_constant, difference_of_runs, mean_of
from analysis.words import difference_words, interval, mean_words, missing, name_of, number, plus_minus


@dataclass(frozen=True)
class Standing:
    """One chunk size (None: the token baselines) at the budget."""

    k: int | None
    best: pd.Series
    mean: Mean
    """Over its runs at the budget, whatever their other parameters."""
    to_baseline: Difference | None
    """Best run of this K minus best baseline; None without baselines."""
    floors: dict[str, Difference] = field(default_factory=dict)

    def floor_words(self, *, short: bool = False) -> str:
        """Where the best run stands among the n-gram tables, each of which says more than the one before.
        ``short`` names only the highest it is above and the lowest it is below."""
        names = [name for name in FLOORS if name in self.floors]
        if not names:
            return "floors not recorded"
        above = [name for name in names if self.floors[name].verdict == BETTER]
        below = [name for name in names if self.floors[name].verdict == WORSE]
        unclear = [name for name in names if name not in above and name not in below]
        if short:
            above, below = above[-1:], below[:1]
        parts = [f"above {_and(above)}"] if above else ["not above any n-gram table"]
        parts += [f"indistinguishable from {_and(unclear)}"] if unclear else []
        parts += [f"below {_and(below)}"] if below else []
        return ", ".join(parts)


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def standings(comparison: Comparison, floors: pd.DataFrame) -> list[Standing]:
    """Baselines first, then each K in order."""
    reference = comparison.best(comparison.baselines)
    groups: list[tuple[int | None, pd.DataFrame]] = [(None, comparison.baselines)]
    groups += [(k, comparison.calm[comparison.calm["K"] == k]) for k in comparison.chunk_sizes]
    result = []
    for k, runs in groups:
        best = comparison.best(runs)
        if best is None:
            continue
        to_baseline = None
        if k is not None and reference is not None:
            to_baseline = compare_rows(best, reference, comparison)
        result.append(Standing(k, best, mean_of(runs["brierlm"].tolist()), to_baseline, _floors(best, floors)))
    return result


def compare_rows(first: pd.Series, second: pd.Series, comparison: Comparison) -> Difference:
    """Two runs or checkpoints with ``brierlm``, ``brierlm_se`` and ``num_clusters``."""
    return difference_of_runs(
        float(first["brierlm"]),
        float(first["brierlm_se"]),
        float(second["brierlm"]),
        float(second["brierlm_se"]),
        clusters=_clusters(first),
        noise=comparison.noise,
    )


def _clusters(run: pd.Series) -> int:
    return 2 if missing(run["num_clusters"]) else int(run["num_clusters"])


def _floors(run: pd.Series, floors: pd.DataFrame) -> dict[str, Difference]:
    return {
        str(row["table"]): against_constant(
            float(run["brierlm"]), float(run["brierlm_se"]), float(row["brierlm"]), clusters=_clusters(run)
        )
        for _, row in floors.drop_duplicates("table").iterrows()
    }


@dataclass(frozen=True)
class Verdict:
    """``lead``: what the study says; ``details``: one statement per chunk size; ``caution``: what the
    intervals do and do not hold."""

    lead: list[str]
    details: list[str] = field(default_factory=list)
    caution: str = ""


def headline(comparison: Comparison, places: list[Standing], effects: list[Effect]) -> Verdict:
    """The verdict in sentences."""
    if not places:
        return Verdict(
            [
                "Nothing can be concluded: no run completed at the budget with an evaluation. "
                "The table of runs says why each one stopped."
            ]
        )
    calm = [place for place in places if place.k is not None]
    return Verdict(
        lead=[*_best_k(comparison, calm, effects), *_against_baselines(comparison, places, calm)],
        details=[_standing_words(place) for place in places],
        caution=_noise_words(comparison),
    )


def _best_k(comparison: Comparison, calm: list[Standing], effects: list[Effect]) -> list[str]:
    if not calm:
        return ["No CALM run completed at the budget, so nothing can be said about K."]
    if len(calm) == 1:
        return [f"Only K = {calm[0].k} completed at the budget, so chunk sizes cannot be compared."]
    ordered = sorted(calm, key=lambda place: -float(place.best["brierlm"]))
    first, second = ordered[0], ordered[1]
    gap = compare_rows(first.best, second.best, comparison)
    if gap.verdict == BETTER:
        words = f"The best single run has K = {first.k}; it is above the best run with K = {second.k}"
    else:
        words = f"The best single run has K = {first.k}, but it is {gap.verdict} from the best with K = {second.k}"
        if gap.low is None:
            words = f"The best single run has K = {first.k}; whether it beats K = {second.k} is {gap.verdict}"
    sentences = [f"{words} (difference {difference_words(gap)})."]
    for effect in effects:
        if effect.parameter == "model.chunk_size":
            reason = f" ({effect.note})" if effect.note else ""
            sentences.append(
                f"Over all settings that completed, {name_of(effect.parameter)}: {effect.verdict}{reason}."
            )
    return sentences


def _against_baselines(comparison: Comparison, places: list[Standing], calm: list[Standing]) -> list[str]:
    if all(place.k is not None for place in places):
        return [
            "No token baseline completed at this budget under the same evaluation, "
            "so nothing is said about CALM against token models."
        ]
    verdicts = {place.k: place.to_baseline.verdict for place in calm if place.to_baseline}
    sentences = []
    for verdict, words in ((BETTER, "above"), (WORSE, "below")):
        ks = [f"{k}" for k, value in verdicts.items() if value == verdict]
        if ks:
            sentences.append(
                f"K = {', '.join(ks)}: the best run is {words} the best token baseline {comparison.fairness}."
            )
    rest = [f"{k}" for k, value in verdicts.items() if value not in (BETTER, WORSE)]
    if rest:
        sentences.append(f"K = {', '.join(rest)}: not distinguishable from the best token baseline.")
    return sentences


def _standing_words(place: Standing) -> str:
    who = "Token baseline" if place.k is None else f"K = {place.k}"
    score = plus_minus(place.best["brierlm"], place.best["brierlm_se"])
    runs = "1 run" if place.mean.num == 1 else f"{place.mean.num} runs"
    words = f"{who}: best {score} of {runs}"
    if place.mean.num > 1:
        words += f", mean {mean_words(place.mean)}"
    if place.to_baseline is not None:
        words += f", {difference_words(place.to_baseline)} to the best baseline"
    if float(place.best["brierlm"]) <= 0:
        words += "; a BrierLM of 0 means that one order is not positive, see the values by order"
    return f"{words}; {place.floor_words()}."


def _noise_words(comparison: Comparison) -> str:
    noise = comparison.noise
    selection = "The best of several runs was chosen on the text it is scored on, which flatters it."
    if noise is None:
        return (
            "Intervals of single runs hold evaluation noise only: no completed setting was repeated "
            "with another seed, so "
            f"training noise is unknown (`--seeds 2` measures it). {selection}"
        )
    notes: dict[tuple[str, ...], str] = {
        ("baseline",): "; baselines only, no CALM was repeated",
        ("calm",): "; CALM only",
    }
    only = notes.get(comparison.noise_kinds, "")
    cells = "1 setting" if noise.num_cells == 1 else f"{noise.num_cells} settings"
    return (
        f"Training noise between seeds: standard deviation {number(noise.sd)} BrierLM ({cells} repeated, "
        f"{noise.dof} degrees of freedom{only}); it is part of the intervals. {selection}"
    )


def correlation_words(low: float | None, high: float | None) -> str:
    return "not available" if low is None or high is None else interval(low, high, 3)
