"""A home with a trained run, where bad input is given to the command line and what comes of it is counted."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import yaml

from tests.suites.run_folders import make_run_folder
from tests.suites.synthetic_study import write_study_files
from tests.suites.tiny_runs import BASELINE, tree, write_text
from tests.suites.watched_place import Ended, Place, foreign_elements

Problems = list[str]
SAMPLE = {"step": 3, "tokens": 99, "sampler": "plain", "temperature": 1.0, "prompt": "a", "text": "b"}


class Bench:
    """A place with a trained run ``tiny``, and what was met there."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.commands = 0
        self.show = False
        self.short = False
        """Reports, and lists of studies but for the first, are left out: they take a second whatever is given. And
        fewer folders are made."""
        self.lists = 0
        self.turns = 0
        self.answers: Counter[int] = Counter()
        self.texts = place.root / "a" / "texts"
        self.texts.mkdir(exist_ok=True)
        text = write_text(self.texts / "text.txt")
        self.tree = {**tree(text), **BASELINE}
        self.tree["train"] |= {"train_tokens": 6 * 128, "num_evaluations": 1}
        self.config = self.texts / "tiny.yaml"
        self.config.write_text(yaml.safe_dump(self.tree), encoding="utf-8")
        place.strays()
        self.trained = False

    def turn(self, commands: tuple[list[str], ...]) -> list[str]:
        """Each of the commands as often as the others."""
        self.turns += 1
        return commands[self.turns % len(commands)]

    def train(self) -> None:
        if not self.trained:
            ended = self.place.calm("train", self.config, "--tracking-uri", "none")
            assert ended.code == 0, ended
            self.trained = True

    def calm(self, *arguments: str | Path) -> Problems:
        self.lists += arguments[:2] == ("study", "list")
        if self.short and arguments[:2] == ("study", "list") and self.lists > 1:
            return []
        return self.ended(*arguments)[1]

    def ended(self, *arguments: str | Path) -> tuple[Ended, Problems]:
        ended = self.place.calm(*arguments)
        self.commands += 1
        self.answers[ended.code] += 1
        shown = " ".join(repr(argument) for argument in ended.arguments)
        if self.show:
            print(f"{ended.code} calm {shown[:200]}\n    {(ended.err.strip() or ended.out.strip())[-300:]}")
        return ended, [f"calm {shown[:400]}\n{ended.problem}"] if ended.problem else []


def good_run(folder: Path, number: int = 0, **options: str) -> Path:
    run = make_run_folder(
        folder,
        seed=number,
        chunk_size=[1, 2, 4][number % 3],
        num_evaluations=2,
        num_points=3,
        num_windows=8,
        **options,
    )
    (run / "samples.jsonl").write_text(json.dumps(SAMPLE) + "\n", encoding="utf-8")
    return run


def good_study(bench: Bench) -> None:
    folder = bench.place.home / "good"
    if not folder.exists():
        write_study_files(folder)
        for number in range(3):
            good_run(folder / f"r{number}", number, study="good")


def pages(bench: Bench) -> Problems:
    found = []
    for page in bench.place.reports.rglob("*.html"):
        found += [f"{page.name}: {element}" for element in foreign_elements(page.read_text(encoding="utf-8"))]
    return found
