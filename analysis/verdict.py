"""What the data say about the study's question, in words that an interval supports."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from analysis.ablation import Effect
from analysis.claims import ControlledPair, floor_gaps, group_gaps, num_group_claims
from analysis.comparison import Comparison, Setting, best_setting, ranking
from analysis.dimension import Key
from analysis.rows import FLOORS
from analysis.scores import score_words
from analysis.stats import BETTER, SAME, UNDECIDED, WORSE, Difference, Mean, mean_of
from analysis.words import MISSING, difference_words, listed, mean_words, name_of, number, plain

ROUGH = 3
"""Noise measured with fewer degrees of freedom is called rough."""


@dataclass(frozen=True)
class Standing:
    """One group of the comparison's dimension (a chunk size, say) at the budget."""

    key: Key
    """None: the token baselines."""
    name: str
    """``K = 4``, ``flow``, ``token baseline``."""
    setting: Setting
    """The best one: highest mean over its seeds."""
    mean: Mean
    """Over its runs at the budget, whatever their other parameters."""
    gaps: dict[Key, Difference] = field(default_factory=dict)
    """Its best setting minus the best of every other group and of the baselines."""
    floors: dict[str, Difference] = field(default_factory=dict)
    """Its best run minus each n-gram table."""

    @property
    def best(self) -> pd.Series:
        """The best run of the best setting."""
        return self.setting.best

    @property
    def to_baseline(self) -> Difference | None:
        """None without baselines, and of the baselines themselves."""
        return self.gaps.get(None)

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
        parts = [f"above {listed(above)}"] if above else ["not above any n-gram table"]
        parts += [f"indistinguishable from {listed(unclear)}"] if unclear else []
        parts += [f"below {listed(below)}"] if below else []
        return ", ".join(parts)


def standings(comparison: Comparison, floors: pd.DataFrame) -> list[Standing]:
    """Baselines first, then each group in order. ``floors``: n-gram tables at the comparison's positions."""
    gaps: dict[Key, dict[Key, Difference]] = {key: {} for key, _ in comparison.groups}
    for gap in group_gaps(comparison):
        gaps[gap.first][gap.second] = gap.difference
        gaps[gap.second][gap.first] = gap.difference.flipped
    result = []
    for key, settings in comparison.groups:
        best = best_setting(settings)
        scores = [score for setting in settings for score in setting.runs["brierlm"].tolist()]
        found = floor_gaps(best.best, comparison, floors)
        result.append(Standing(key, comparison.dimension.name(key), best, mean_of(scores), gaps[key], found))
    return result


@dataclass(frozen=True)
class Verdict:
    """``lead``: what the study says; ``details``: one statement per chunk size, or whatever it is about;
    ``caution``: what the intervals do and do not hold."""

    lead: list[str]
    details: list[str] = field(default_factory=list)
    caution: str = ""
    findings: list[str] = field(default_factory=list)
    """What other sections found: by budget, by the laws, of the autoencoders (``analysis.summary``)."""
    caveats: list[str] = field(default_factory=list)
    """What the diagnostics of the compared runs demand to be said."""


def headline(
    comparison: Comparison, places: list[Standing], effects: list[Effect], pairs: Sequence[ControlledPair] = ()
) -> Verdict:
    """The verdict in sentences. ``pairs``: the controlled pairs that the report shows, to be referred to."""
    if not places:
        return Verdict(
            [
                "Nothing can be concluded: no run completed at the budget with an evaluation. "
                "The table of runs says why each one stopped."
            ]
        )
    calm = [place for place in places if place.key is not None]
    return Verdict(
        lead=[*_best_group(comparison, calm, effects, pairs), *_against_baselines(comparison, places, calm)],
        details=[_standing_words(place) for place in places],
        caution=caution_words(comparison),
    )


def _best_group(
    comparison: Comparison, calm: list[Standing], effects: list[Effect], pairs: Sequence[ControlledPair]
) -> list[str]:
    dimension = comparison.dimension
    if not calm:
        return ["No CALM run completed at the budget, so nothing can be said about K."]
    if len(calm) == 1:
        return _one_group(comparison, calm[0], effects, pairs)
    rank = ranking([place.setting for place in calm])
    first, second = sorted(calm, key=lambda place: rank(place.setting))[:2]
    gap = first.gaps[second.key]
    picked, other = ("setting", "setting") if comparison.noise else ("single run", "run")
    own = MISSING if dimension.is_k else comparison.name(first.setting)
    which = f"{dimension.phrase(first.key)}{'' if own == MISSING else f' ({own})'}"
    words = f"The best {picked} has {which}"
    if _none_above_0(comparison) and gap.verdict != BETTER:
        behind = f"{dimension.phrase(second.key)} ({number(second.setting.objective)})"
        words = f"{_first_words(first.setting, which)}, before {behind}; in BrierLM: {gap.verdict}"
    elif gap.verdict == BETTER:
        words += f"; it is above the best {other} with {dimension.phrase(second.key)}"
    elif gap.verdict == UNDECIDED:
        words += f"; whether it beats {dimension.phrase(second.key)} is {gap.verdict}"
    else:
        words += f", but it is {gap.verdict} from the best with {dimension.phrase(second.key)}"
    sentences = [f"{words} (difference {difference_words(gap)})."]
    lead = [effect for effect in effects if effect.parameter == dimension.column]
    if dimension.is_k:
        return sentences + [_fit_words(effect, pairs) for effect in lead]
    return sentences + exchange_words(first.setting, pairs)


def _none_above_0(comparison: Comparison) -> bool:
    """Whether the highest BrierLM of CALM is there by chance: it is a bound, or 0."""
    return all(setting.weak for setting in comparison.settings if setting.kind == "calm")


def _first_words(first: Setting, name: str) -> str:
    """Instead of calling it the best."""
    return (
        "No CALM setting's BrierLM can be told from 0, so none can be called best; by the study's objective, "
        f"a smooth score near 0, {name} is first ({number(first.objective)})"
    )


def _one_group(
    comparison: Comparison, only: Standing, effects: list[Effect], pairs: Sequence[ControlledPair]
) -> list[str]:
    """Nothing to compare by groups: whatever else differs between settings comes first."""
    calm = [setting for setting in comparison.settings if setting.kind == "calm"]
    if len(calm) == 1:
        what = f"Only {only.name}" if comparison.dimension.values else "Only one CALM setting"
        return [f"{what} completed at the budget, in one setting, so there is no other CALM to compare it with."]
    picked = "settings" if comparison.noise else "trained models"
    best = comparison.name(only.setting, whole=True)
    words = f"The best of {len(calm)} CALM {picked} is {best}, at {score_words(only.best)}"
    if only.setting.num_seeds > 1:
        words += f" ({number(only.setting.score)} over {only.setting.num_seeds} seeds)"
    if _none_above_0(comparison):
        words = f"{_first_words(only.setting, best)} of {len(calm)} {picked}"
    decided = [effect for effect in effects if effect.verdict != UNDECIDED]
    rest = exchange_words(only.setting, pairs) or [_fit_words(effect, pairs) for effect in decided]
    return [f"{words}.", *rest]


def exchange_words(best: Setting, pairs: Sequence[ControlledPair]) -> list[str]:
    """What exchanging one parameter of the best CALM setting does to it, by the controlled pairs."""
    found: dict[str, list[str]] = {}
    for pair in pairs:
        for ours, other, gap in ((pair.first, pair.second, pair.difference), _turned(pair)):
            if ours.run_ids == best.run_ids:
                value = other.runs.iloc[0][pair.parameter]
                words = f"{name_of(pair.parameter)} {plain(value)} ({difference_words(gap)})"
                found.setdefault(gap.verdict, []).append(words)
    order = {BETTER: "better", WORSE: "worse", SAME: "indistinguishable", UNDECIDED: UNDECIDED}
    parts = [f"{words} with {listed(found[verdict])}" for verdict, words in order.items() if verdict in found]
    return [f"With one parameter of it exchanged: {'; '.join(parts)}."] if parts else []


def _turned(pair: ControlledPair) -> tuple[Setting, Setting, Difference]:
    return pair.second, pair.first, pair.difference.flipped


def _fit_words(effect: Effect, pairs: Sequence[ControlledPair]) -> str:
    """What the additive fit says of a parameter, and where the comparison is that rests on less."""
    reason = f" ({effect.note})" if effect.note else ""
    words = f"By the additive, unpaired fit over all settings that completed, {name_of(effect.parameter)}: "
    words += f"{effect.verdict}{reason}"
    num = sum(pair.parameter == effect.parameter for pair in pairs)
    if num:
        which = "the controlled pair that differs" if num == 1 else f"the {num} controlled pairs that differ"
        does = "does" if num == 1 else "do"
        words += f"; {which} in it alone (under “Settings compared”) {does} not assume that effects add up"
    return f"{words}."


def _against_baselines(comparison: Comparison, places: list[Standing], calm: list[Standing]) -> list[str]:
    if all(place.key is not None for place in places):
        return [
            "No token baseline completed at this budget under the same evaluation, "
            "so nothing is said about CALM against token models."
        ]
    verdicts = {place.key: place.to_baseline.verdict for place in calm if place.to_baseline}
    what = "setting" if comparison.noise else "run"
    sentences = []
    for verdict, words in ((BETTER, "above"), (WORSE, "below")):
        keys = [key for key, value in verdicts.items() if value == verdict]
        if keys:
            best = f"{_of_groups(comparison, keys)}: the best {what} is {words} the best token baseline"
            sentences.append(f"{best} {comparison.fairness}.")
    rest = [key for key, value in verdicts.items() if value not in (BETTER, WORSE)]
    if rest:
        sentences.append(f"{_of_groups(comparison, rest)}: not distinguishable from the best token baseline.")
    return sentences


def _of_groups(comparison: Comparison, keys: list[Key]) -> str:
    words = comparison.dimension.names(keys)
    return words[0].upper() + words[1:]


def _standing_words(place: Standing) -> str:
    who = place.name[0].upper() + place.name[1:]
    runs = "1 run" if place.mean.num == 1 else f"{place.mean.num} runs"
    words = f"{who}: best {score_words(place.best)} of {runs}"
    if place.setting.num_seeds > 1:
        words += f", its setting {number(place.setting.score)} over {place.setting.num_seeds} seeds"
    if place.mean.num > 1:
        words += f", mean of all {mean_words(place.mean)}"
    if place.to_baseline is not None:
        words += f", {difference_words(place.to_baseline)} to the best baseline"
    if float(place.best["brierlm"]) <= 0:
        words += "; a BrierLM of 0 means that one order is not positive, see the values by order"
    return f"{words}; {place.floor_words()}."


# ---- what the intervals hold ---------------------------------------------------------------------------


def caution_words(comparison: Comparison) -> str:
    """Which noise is in the intervals, what they are corrected for, how runs were paired."""
    return " ".join(
        words
        for words in (_noise_words(comparison), _corrected_words(comparison), pairing_words(comparison))
        if words
    )


def _noise_words(comparison: Comparison) -> str:
    noise = comparison.noise
    if noise is None:
        repeated = any(setting.num_seeds > 1 for setting in comparison.settings)
        why = "no completed setting was repeated with another seed"
        if repeated:
            why = "the settings that were repeated have an order that cannot be told from 0"
        return (
            f"Intervals hold evaluation noise only: {why}, so training noise is unknown (`--seeds 3` measures "
            "it), and better or worse is said of these trained models, not of settings."
        )
    notes: dict[tuple[str, ...], str] = {
        ("baseline",): "; baselines only, no CALM was repeated",
        ("calm",): "; CALM only",
    }
    only = notes.get(comparison.noise_kinds, "")
    settings = "1 setting" if noise.num_settings == 1 else f"{noise.num_settings} settings"
    zero = sum(setting.num_seeds > 1 and not setting.above_0 for setting in comparison.settings)
    if zero:
        whose = "setting does not count, its" if zero == 1 else "settings do not count, their"
        only += f"; {zero} other repeated {whose} scores cannot be told from 0"
    degrees = "1 degree" if noise.dof == 1 else f"{noise.dof} degrees"
    rough = " It rests on little and is rough: more seeds would narrow the intervals." if noise.dof < ROUGH else ""
    return (
        f"Training noise between seeds: standard deviation {number(noise.sd)} BrierLM ({settings} repeated, "
        f"{degrees} of freedom{only}); it is part of the intervals of all settings.{rough}"
    )


def _corrected_words(comparison: Comparison) -> str:
    num, settings = num_group_claims(comparison), len(comparison.settings)
    if len(comparison.groups) < 2:
        return ""
    what = "settings" if comparison.noise else "runs"
    return (
        f"The best were picked among {settings} {what} by the scores that they are compared by: the intervals are "
        f"corrected for that and for all pairs of {comparison.dimension.plural} and baselines ({num} "
        "comparisons). The scores themselves stay flattered by it."
    )


def pairing_words(comparison: Comparison) -> str:
    """How far runs could be compared position by position."""
    paired = comparison.paired
    if comparison.finals.empty:
        return "No run is compared."
    if paired is None:
        why = comparison.unpaired or "no scores position by position"
        return (
            f"Runs could not be compared position by position ({why}): both errors are added as if independent, "
            "and the intervals are wider than paired ones."
        )
    words = f"Differences are taken position by position ({paired.num_positions:,} positions)"
    if paired.num_windows < paired.most_windows:
        words = (
            f"Differences are taken position by position at the {paired.num_windows} windows that all runs share "
            f"(of up to {paired.most_windows})"
        )
    if comparison.unpaired:
        words += f"; {comparison.unpaired}, and differences to those are marked unpaired"
    return f"{words}."
