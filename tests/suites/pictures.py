"""Pictures are blank, except in tests marked ``draws``, as all of the analysis are: drawing takes two fifths of
the time of a tiny run, and few tests look at its pictures. Processes that tests start draw, but not ``warm``'s."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import wraps
from typing import IO, Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

BLANK = {
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg" width="1pt" height="1pt" viewBox="0 0 1 1">\n</svg>\n',
    "png": base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="
    ),
}

_drawn = False


def leave_blank() -> None:
    """From now on, in this process, except while ``draw(True)`` holds."""
    for owner, name, format in (
        (Figure, "savefig", None),
        (FigureCanvasAgg, "print_png", "png"),
        (FigureCanvasSVG, "print_svg", "svg"),
    ):
        setattr(owner, name, _blank_instead(getattr(owner, name), format))


def draw(drawn: bool) -> None:
    global _drawn
    _drawn = drawn


def _blank_instead(save: Callable[..., Any], known: str | None) -> Callable[..., Any]:
    @wraps(save)  # matplotlib looks at the signature
    def save_blank(figure: object, file: IO[Any], *arguments: Any, **options: Any) -> Any:
        if _drawn:
            return save(figure, file, *arguments, **options)
        picture = BLANK[known or options["format"]]
        file.write(picture.decode() if isinstance(file, io.StringIO) else picture)
        return None

    return save_blank
