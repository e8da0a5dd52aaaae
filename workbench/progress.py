"""How long work shows itself. The library only knows the contract; the command line has the display."""

from __future__ import annotations

from typing import Protocol


class Display(Protocol):
    """Shown stages of a run, one at a time."""

    def stage(self, name: str, total: int) -> None:
        """A stage of so many steps begins, or goes on after another one."""

    def advance(self, done: int, **values: float) -> None:
        """So many steps of the stage are done; ``values`` are shown beside (loss, tokens per second), the last
        ones where there are none."""

    def saved(self, done: int) -> None:
        """So many steps are in the checkpoint on the disk."""

    def note(self, text: str) -> None:
        """A line worth reading, such as an evaluation's result."""


class NoDisplay:
    """Shows nothing."""

    def stage(self, name: str, total: int) -> None:
        return None

    def advance(self, done: int, **values: float) -> None:
        return None

    def saved(self, done: int) -> None:
        return None

    def note(self, text: str) -> None:
        return None
