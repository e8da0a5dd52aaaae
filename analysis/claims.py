"""Which setting is better than which: every difference that the report claims, corrected for how many it looks at.

Settings are compared at the positions that their runs share (``workbench.seeds.setting_difference``): the
interval holds the evaluation's noise and, where any setting was repeated with another seed, the noise of training.
A run that did not keep its scores position by position falls back to ``analysis.stats.unpaired_difference``.

*Families.* Each of these is corrected as a whole (Bonferroni), so that of studies in which nothing differs at most
5 % are said to show something:

* Groups: the best setting of every K (or of every value of what the study varies first), and of the baselines,
  against the best of every other group. The best were picked among all settings by the scores they are compared
  by; ``num_group_claims`` counts that.
* Controlled pairs: all pairs of settings that differ in exactly one searched parameter.
* Floors: the best run of every group against the n-gram tables; every run could have been the best one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis.comparison import Comparison, Setting, best_setting, ranking
from analysis.dimension import Key
from analysis.naming import Run, applies, rows_of
from analysis.paired import PairedScores, pair_up
from analysis.rows import FLOORS
from analysis.scores import is_bound
from analysis.stats import Difference, Scored, against_constant, unpaired_difference
from analysis.words import missing, plain
from workbench.pairs import against_floor
from workbench.seeds import setting_difference
from workbench.uncertainty import t_quantile

MAX_CONTROLLED = 3000
"""Controlled pairs that are compared; thousands of settings have hundreds of thousands of pairs."""

_ASKED = ("weak_orders", "brierlm_high", "num_clusters", "brierlm_se")
"""What an error is made of: rows of whole frames, with hundreds of fields, take milliseconds each."""


def setting_gap(first: Setting, second: Setting, comparison: Comparison, *, comparisons: int = 1) -> Difference:
    """Mean over seeds of the first setting minus that of the second, with its corrected interval."""
    return _gap(first, second, comparison, comparison.paired, comparisons)


def _gap(
    first: Setting, second: Setting, comparison: Comparison, paired: PairedScores | None, comparisons: int
) -> Difference:
    if paired is None or not paired.holds([*first.run_ids, *second.run_ids]):
        return unpaired_difference(
            _scored(first),
            _scored(second),
            clusters=clusters_of(first.best),
            noise=comparison.noise,
            comparisons=comparisons,
        )
    found = setting_difference(
        paired.of(first.run_ids),
        paired.of(second.run_ids),
        paired.clusters,
        comparison.noise,
        comparisons=comparisons,
        linearise=paired.linearise,
    )
    tau = None if found.weak else found.position_sd
    return Difference(found.value, found.low, found.high, comparisons, position_sd=tau)


def _scored(setting: Setting) -> Scored:
    return Scored(setting.score, common_error(setting.runs), setting.num_seeds)


def common_error(runs: pd.DataFrame) -> float:
    """Root of the mean square of the errors of some runs."""
    squares = [error_of(run) ** 2 for run in rows_of(runs, _ASKED)]
    return math.sqrt(sum(squares) / len(squares))


def error_of(run: Run) -> float:
    """Standard error of a score; where only an upper bound is known, one whose interval reaches it."""
    if is_bound(run):
        return float(run["brierlm_high"]) / t_quantile(clusters_of(run) - 1)
    return float(run["brierlm_se"])


def clusters_of(run: Run) -> int:
    return 2 if missing(run["num_clusters"]) else max(2, int(run["num_clusters"]))


def compare_rows(
    first: pd.Series, second: pd.Series, comparison: Comparison, *, comparisons: int = 1
) -> Difference:
    """Two checkpoints that have scores and errors only (a run keeps positions of its last evaluation)."""
    one, two = (Scored(float(row["brierlm"]), error_of(row)) for row in (first, second))
    return unpaired_difference(
        one, two, clusters=clusters_of(first), noise=comparison.noise, comparisons=comparisons
    )


def check_gap(check: Setting, peer: Setting, comparison: Comparison, *, comparisons: int = 1) -> Difference:
    """A sensitivity check minus the setting beside it. Checks are in no other comparison, so the two are brought
    to the positions that they share."""
    paired, _ = pair_up(comparison.positions, [*check.run_ids, *peer.run_ids])
    return _gap(check, peer, comparison, paired, comparisons)


# ---- groups: the best of each K, or of what the study varies, and of the baselines ---------------------


@dataclass(frozen=True)
class GroupGap:
    """The best setting of one group minus the best of another (keys of the comparison's dimension: K, say, or None
    for the token baselines)."""

    first: Key
    second: Key
    difference: Difference


def num_group_claims(comparison: Comparison) -> int:
    """What the intervals of all ``group_gap`` of a study are corrected for.

    Of groups with m_a and m_b settings the lower end of the interval is wrong only if that of one of m_a pairs is
    (the picked best of the first against the second's true best: m_a could have been picked), the upper end only
    if that of one of m_b is. That is as many one-sided errors as (m_a + m_b) / 2 intervals have; over all pairs of
    G groups with M settings together (G - 1) M / 2."""
    groups = comparison.groups
    total = sum(len(settings) for _, settings in groups)
    return max(1, math.ceil((len(groups) - 1) * total / 2))


def group_gap(
    first: Sequence[Setting], second: Sequence[Setting], comparison: Comparison, *, comparisons: int = 1
) -> Difference:
    """The best of the first settings minus the best of the second, whichever these truly are.

    Above 0 only if the picked best of the first is above *every* setting of the second, and conversely: the lower
    end is the lowest of the picked one's intervals against each of the second, the upper end the highest of the
    first's against the second's picked one."""
    ours, theirs = best_setting(first), best_setting(second)

    def gap(one: Setting, other: Setting) -> Difference:
        return setting_gap(one, other, comparison, comparisons=comparisons)

    return picked_gap(
        gap(ours, theirs), [gap(ours, other) for other in second], [gap(other, theirs) for other in first]
    )


def picked_gap(value: Difference, ahead: Sequence[Difference], behind: Sequence[Difference]) -> Difference:
    """Between two picked ones. ``ahead``: of the first to all that the second was picked from; ``behind``: of all
    that the first was picked from to the second."""
    unpaired = any(gap.unpaired for gap in [*ahead, *behind])
    lows, highs = [gap.low for gap in ahead], [gap.high for gap in behind]
    low = min((end for end in lows if end is not None), default=None)
    high = max((end for end in highs if end is not None), default=None)
    if None in lows or None in highs:  # one without an error might be the best of all
        low = high = None
    return replace(value, low=low, high=high, unpaired=unpaired)


def group_gaps(comparison: Comparison) -> list[GroupGap]:
    """Every pair of groups, the one with the better best setting first, corrected for all of them."""
    rank = ranking([best_setting(settings) for _, settings in comparison.groups])
    ranked = sorted(comparison.groups, key=lambda group: rank(best_setting(group[1])))
    num = num_group_claims(comparison)
    return [
        GroupGap(a, b, group_gap(ours, theirs, comparison, comparisons=num))
        for (a, ours), (b, theirs) in itertools.combinations(ranked, 2)
    ]


# ---- controlled pairs ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class ControlledPair:
    """Two settings that agree in all searched parameters but one."""

    parameter: str
    first: Setting
    second: Setting
    """With the later value."""
    difference: Difference
    """Second minus first."""


def controlled_pairs(comparison: Comparison) -> list[ControlledPair]:
    """All of them, by parameter and value, corrected for their number. Of more than ``MAX_CONTROLLED`` only those
    with the best setting of a group are compared, still corrected for all.

    What follows from the parameters by a stated rule (the rate from the width, say) may differ as well, and so may
    what only one of the two settings has: fields of its head, say, of two that differ in the head."""
    names = comparison.parameters
    settings = [s for s in comparison.settings if s.kind == "calm"]
    first = [comparison.rows[s.run_ids[0]] for s in settings]
    values = [{name: run[name] if applies(run, name) else None for name in names} for run in first]
    found: list[tuple[str, int, int]] = []
    for i, j, place_of_name in _one_apart(values, names):
        name = names[place_of_name]
        ordered = sorted((i, j), key=lambda n: _order(values[n][name]))
        found.append((name, ordered[0], ordered[1]))
    num = len(found)
    if num > MAX_CONTROLLED:
        best = {best_setting(group).run_ids[0] for key, group in comparison.groups if key is not None}
        picked = {i for i, setting in enumerate(settings) if setting.run_ids[0] in best}
        found = [item for item in found if item[1] in picked or item[2] in picked]

    def place(item: tuple[str, int, int]) -> tuple[object, ...]:
        name, i, j = item
        rest = [_order(values[i][other]) for other in names if other != name]
        return names.index(name), rest, _order(values[i][name]), _order(values[j][name])

    return [
        ControlledPair(
            name,
            settings[i],
            settings[j],
            setting_gap(settings[j], settings[i], comparison, comparisons=num),
        )
        for name, i, j in sorted(found, key=place)
    ]


def _one_apart(values: Sequence[Mapping[str, object]], names: Sequence[str]) -> list[tuple[int, int, int]]:
    """(i, j, place of the name) of all pairs that differ in exactly one of the names that both have."""
    codes = np.full((len(values), len(names)), -1)
    for place, name in enumerate(names):
        known: dict[str, int] = {}
        for i, row in enumerate(values):
            if not missing(row[name]):
                codes[i, place] = known.setdefault(plain(row[name]), len(known))
    found = []
    for i in range(len(values) - 1):
        rest = codes[i + 1 :]
        differing = (rest != codes[i]) & (rest >= 0) & (codes[i] >= 0)
        for j in np.flatnonzero(differing.sum(1) == 1):
            found.append((i, i + 1 + int(j), int(differing[j].argmax())))
    return found


def _order(value: object) -> tuple[int, float, str]:
    """Numbers by size, before words by letter."""
    text = plain(value)
    try:
        return 0, float(text), text
    except ValueError:
        return 1, 0.0, text


# ---- floors --------------------------------------------------------------------------------------------


def num_floor_claims(comparison: Comparison, floors: pd.DataFrame) -> int:
    """Every run at the budget could have been the best of its group, and each is held against every table."""
    return max(1, len(comparison.finals) * floors["table"].nunique())


def floor_gaps(run: pd.Series, comparison: Comparison, floors: pd.DataFrame) -> dict[str, Difference]:
    """A run minus each n-gram table at the positions it was scored on. This is about the trained model: its
    evaluation's noise only."""
    num = num_floor_claims(comparison, floors)
    scores = comparison.positions.get(str(run["run_id"]))
    tables = comparison.floor_scores.get(str(run["run_id"]))
    found: dict[str, Difference] = {}
    for table in FLOORS:
        rows = floors[floors["table"] == table]
        if rows.empty:
            continue
        pair = None if scores is None or tables is None else against_floor(scores, tables, table, comparisons=num)
        if pair is not None:
            found[table] = Difference(pair.value, pair.low, pair.high, num)
            continue
        constant = float(rows["brierlm"].iloc[0])
        found[table] = against_constant(
            float(run["brierlm"]), error_of(run), constant, clusters=clusters_of(run), comparisons=num
        )
    return found
