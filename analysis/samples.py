"""Sampled texts to look at: whose, and in a form that a page can show whatever is in them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from analysis.comparison import Comparison, Setting, best_setting
from analysis.scores import score_words
from analysis.words import MISSING, number, plain, status_words, whole

MAX_SAMPLES = 6
MAX_CHARS, MAX_LINES = 600, 24
"""Of a text that is shown; an earlier one is shown to a third of it."""
EARLIER = 3
_KEPT = "\n\t\u200c\u200d"
"""Line ends, tabs and the joiners that emoji are made with."""
_WITHOUT_KEPT = str.maketrans(dict.fromkeys(_KEPT, ""))
_CUT = "…"


@dataclass(frozen=True)
class Sample:
    """One run's texts, ready to be escaped and shown."""

    title: str
    about: str
    prompt: str
    text: str
    earlier: list[tuple[str, str]]
    """(when, text), the first evaluation first."""


def visible(text: str, *, chars: int = MAX_CHARS, lines: int = MAX_LINES) -> str:
    """What a reader can see: line ends as one kind; as their number control characters, characters that would turn
    the direction of the page, and those without a form; cut to a length."""
    text = text.replace("\r\n", "\n")
    cut = text[:chars]
    kept = cut.split("\n")
    short = "\n".join(kept[:lines])
    plain_text = short.translate(_WITHOUT_KEPT).isprintable()  # nearly all are, and a study has 100,000 of them
    shown = short if plain_text else "".join(c if c in _KEPT or c.isprintable() else _picture(c) for c in short)
    return shown if len(short) == len(text) else f"{shown}{_CUT}"


def visible_whole(text: object) -> str:
    """Uncut, for files that a spreadsheet may read."""
    return visible(str(text), chars=len(str(text)), lines=len(str(text)) + 1)


def _picture(c: str) -> str:
    return " " if unicodedata.category(c) in ("Zs", "Zl", "Zp") else f"[U+{ord(c):04X}]"


def choose(comparison: Comparison, samples: pd.DataFrame) -> list[pd.Series]:
    """The best run of the best setting of each group, then of further settings by score, last of the best token
    baseline; of runs that kept texts."""
    there = set(samples["run_id"])

    def with_texts(settings: Sequence[Setting]) -> list[Setting]:
        found = []
        for setting in settings:
            kept = [run_id in there for run_id in setting.run_ids]  # a thousand settings: no pandas in the loop
            if any(kept):
                found.append(setting if all(kept) else Setting(setting.runs[kept]))
        return found

    groups = {key: with_texts(settings) for key, settings in comparison.groups}
    baselines = [best_setting(groups[None]).best] if groups.get(None) else []
    calm = [settings for key, settings in groups.items() if key is not None and settings]
    first = [best_setting(settings).best for settings in calm]
    chosen = {str(run["run_id"]) for run in first}
    rest = sorted((s for settings in calm for s in settings), key=lambda s: (-s.score, s.run_ids[0]))
    places = max(0, MAX_SAMPLES - len(baselines) - len(first))
    others = [setting.best for setting in [s for s in rest if not chosen & set(s.run_ids)][:places]]
    return [*[*first, *others][: MAX_SAMPLES - len(baselines)], *baselines]


def unfinished(runs: pd.DataFrame, samples: pd.DataFrame) -> list[pd.Series]:
    """Where no compared run kept a text: whatever runs did, those that came furthest first."""
    there = runs[runs["run_id"].isin(set(samples["run_id"]))]
    ordered = there.sort_values(["tokens", "run_id"], ascending=[False, True])
    return [run for _, run in ordered.head(MAX_SAMPLES // 2).iterrows()]


def sample_of(run: pd.Series, samples: pd.DataFrame, evaluations: pd.DataFrame, title: str) -> Sample:
    """The last text of a run, and how it came to it."""
    own = samples[samples["run_id"] == run["run_id"]]
    last = own.iloc[-1]
    mine = evaluations[evaluations["run_id"] == run["run_id"]]
    scores = {int(row["step"]): row for _, row in mine.iterrows()}
    status = "" if run["status"] == "completed" else f", {status_words(run['status'], run['reason'])}"
    about = f"{run['name']}{status}: {_when(last, scores)}; drawn by {last['sampler']}"
    about += (
        f" at τ\u00a0=\u00a0{plain(last['temperature'])}" if last["temperature"] == last["temperature"] else ""
    )
    return Sample(
        title,
        about,
        visible(str(last["prompt"])),
        visible(str(last["text"])),
        [
            (_when(row, scores), visible(str(row["text"]), chars=MAX_CHARS // EARLIER, lines=MAX_LINES // EARLIER))
            for _, row in own.iloc[:-1].iterrows()
        ],
    )


def _when(sample: pd.Series, scores: dict[int, pd.Series]) -> str:
    words = f"after {whole(sample['tokens'])} training tokens"
    found = scores.get(int(sample["step"]))
    if found is None:
        return words
    score = score_words(found)
    return words if score in (MISSING, number(None)) else f"{words}, BrierLM {score}"
