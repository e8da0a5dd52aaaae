"""Ranks of ``calm train``: starting them, or being one."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from workbench.config import RunConfig
    from workbench.ranks import Ranks


class Group:
    """The ranks of a command. Nothing heavy is imported for a process of its own, or by one that starts others."""

    def __init__(self, home: Path, asked: int, joined: Ranks | None = None) -> None:
        self.home, self.asked, self.joined = home, asked, joined

    @property
    def leads(self) -> bool:
        """Whether this process is to train; the others have followed to the end."""
        return self.joined is None or self.joined.leads

    def ranks(self) -> Ranks:
        from workbench.ranks import ALONE

        return self.joined or ALONE

    def has_failed(self) -> bool:
        return self.joined is not None and self.joined.has_failed()

    def agree_on(self, asked: RunConfig, seeds: int) -> None:
        """Start the ranks that are wanted, and end with them; or compare with the others, and follow rank 0 to the
        end. Raises ConfigError where they cannot train this, RunError where they differ."""
        if self.joined is not None:
            self._meet(self.joined, asked, seeds)
        elif self.asked > 1:
            from workbench.rank_place import require_fit, start

            require_fit(asked.resolved(), self.asked)
            raise typer.Exit(start(sys.argv[1:], self.asked))

    def _meet(self, ranks: Ranks, asked: RunConfig, seeds: int) -> None:
        import torch

        from workbench import code_state
        from workbench.config import content_hash
        from workbench.followers import follow
        from workbench.home import open_home

        own = {
            "the code": code_state.present().code_hash,
            "torch": torch.__version__,
            "the configuration": content_hash([asked.to_dict(), seeds]),
        }
        ranks.require_same(own)
        if not ranks.leads:
            follow(ranks, open_home(self.home))


@contextmanager
def among_ranks(asked: int, home: Path) -> Iterator[Group]:
    """The process's place, which the environment says (``workbench.rank_place``); with ``asked`` ranks and no
    place those are yet to be started. Ends without a word where another rank has said what is wrong."""
    import os

    if "RANK" not in os.environ and "SLURM_STEP_NUM_TASKS" not in os.environ:
        yield Group(home, asked)
        return
    from workbench.errors import ConfigError
    from workbench.rank_place import EXIT_PEER_LOST, find_place, forget_torchrun_threads

    place = find_place()
    if place is None or place.world == 1:
        yield Group(home, asked if place is None else 1)
        return
    if asked not in (1, place.world):
        raise ConfigError(
            f"--ranks {asked} asks for other ranks than the {place.world} that the environment (WORLD_SIZE) says; "
            "leave --ranks out"
        )
    forget_torchrun_threads()
    from workbench import interruption
    from workbench.ranks import PeerLostError, joined

    try:
        with interruption.listening(), joined(place) as ranks:
            yield Group(home, asked, ranks)
    except PeerLostError:
        raise typer.Exit(EXIT_PEER_LOST) from None
    except Exception as error:
        if getattr(error, "shown_elsewhere", False):
            raise typer.Exit(EXIT_PEER_LOST) from None
        raise
