"""Shape annotations, enforced in the first CHECKED checks of each test, of arguments or of results.

    install_import_hook(modules, "tests.suites.shape_checks.checked")

What comes after, in a training or a simulation, mostly repeats the shapes of what came before, and checking it
takes a third of such a test's time. Shapes that come up late in a long test are not seen, so code with shapes of
its own wants a short test of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import jaxtyping
from beartype import beartype

CHECKED = 2000

_made = 0


def begin() -> None:
    """A test begins: check again."""
    global _made
    _made = 0
    jaxtyping.config.update("jaxtyping_disable", False)


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """What jaxtyping calls to check arguments, or a result, against annotations."""
    checking = beartype(function)

    @wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        global _made
        _made += 1
        if _made == CHECKED:
            jaxtyping.config.update("jaxtyping_disable", True)
        return checking(*args, **kwargs)

    return counted
