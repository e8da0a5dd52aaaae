from __future__ import annotations

import pandas as pd

from analysis import style
from analysis.families import families, family_names


def rows(entries: list[tuple[str, int | None, str | None]]) -> pd.DataFrame:
    frame = pd.DataFrame(entries, columns=["kind", "K", "head"], index=range(10, 10 + len(entries)))
    return frame.astype({"K": "Int64"})


def test_each_k_in_order_and_the_baseline_last() -> None:
    found = families(rows([("baseline", None, None), ("calm", 8, "energy"), ("calm", 2, "energy")]))
    assert [family.name for family, _ in found] == ["K = 2", "K = 8", "token baseline"]
    assert [part.index.tolist() for _, part in found] == [[12], [11], [10]]


def test_heads_are_named_only_where_several_occur() -> None:
    entries = [("calm", 4, "energy"), ("calm", 4, "flow"), ("calm", 2, "flow"), ("baseline", None, None)]
    names = family_names(rows(entries))
    assert names.tolist() == ["K = 4, energy", "K = 4, flow", "K = 2, flow", "token baseline"]
    assert names.index.tolist() == [10, 11, 12, 13]
    assert family_names(rows(entries[1:])).tolist() == ["K = 4", "K = 2", "token baseline"]


def test_a_k_keeps_its_colour_and_its_heads_are_told_apart() -> None:
    found = [family for family, _ in families(rows([("calm", 4, "energy"), ("calm", 4, "flow")]))]
    assert {family.colour for family in found} == {style.k_colour(4)}
    assert found[0].marker != found[1].marker
    assert found[0].dashes != found[1].dashes


def test_heads_and_ks_that_were_not_recorded_and_no_rows() -> None:
    assert family_names(rows([("calm", None, None), ("calm", 4, None)])).tolist() == ["K = 1", "K = 4"]
    without = rows([("calm", 4, None), ("baseline", None, None)]).drop(columns="head")
    assert family_names(without).tolist() == ["K = 4", "token baseline"]
    assert families(rows([])) == []
