"""Figures as a paper takes them: as wide as one column or as both, labels of 7 to 8 points, vectors, no dates."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import Collection, PathCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

WIDTHS = {"column": 3.3, "page": 6.9}
"""Inches; folders under figures/."""
SCALE = 7 / 9
"""Of fonts, lines, marks and height: 9 and 10 points become 7 and 7.8."""
_WANTED = ContextVar("paper", default=False)


@contextmanager
def paper(wanted: bool = True) -> Iterator[None]:
    """Whether figures made in this context come with their files for a paper, which take three times as long as
    the figures themselves."""
    before = _WANTED.set(wanted)
    try:
        yield
    finally:
        _WANTED.reset(before)


def paper_files(figure: Figure, *, small: bool) -> dict[str, bytes]:
    """By ``column.pdf``, ``column.svg`` and, of figures that are not ``small``, ``page.pdf``, ``page.svg``;
    nothing outside ``paper()``. Changes the figure: call it last."""
    if not _WANTED.get():
        return {}
    height = figure.get_figheight() * SCALE
    for artist in figure.findobj():
        _shrink(artist)
    for axes in figure.axes:
        axes.tick_params(which="major", length=3.5 * SCALE, width=0.8 * SCALE, pad=3.5 * SCALE)
        axes.tick_params(which="minor", length=2 * SCALE, width=0.6 * SCALE)
    found = {}
    for folder, width in WIDTHS.items():
        if small and folder == "page":
            continue
        figure.set_size_inches(width, height)
        figure.set_layout_engine("constrained")
        for kind in ("pdf", "svg"):
            found[f"{folder}.{kind}"] = _save(figure, kind)
            figure.set_layout_engine("none")  # laid out by now
    return found


def _save(figure: Figure, kind: str) -> bytes:
    buffer = io.BytesIO()
    nothing = (
        {"Date": None, "Creator": None}
        if kind == "svg"
        else dict.fromkeys(("CreationDate", "Creator", "Producer"))
    )
    with matplotlib.rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format=kind, metadata=nothing)
    return buffer.getvalue()


def _shrink(artist: Artist) -> None:
    if isinstance(artist, Text):
        artist.set_fontsize(float(artist.get_fontsize()) * SCALE)
    elif isinstance(artist, Line2D):
        artist.set_linewidth(artist.get_linewidth() * SCALE)
        artist.set_markersize(artist.get_markersize() * SCALE)
        artist.set_markeredgewidth(artist.get_markeredgewidth() * SCALE)
    elif isinstance(artist, Patch):
        artist.set_linewidth(artist.get_linewidth() * SCALE)
    elif isinstance(artist, Collection):
        artist.set_linewidth([float(width) * SCALE for width in np.atleast_1d(artist.get_linewidth())])
        if isinstance(artist, PathCollection):
            artist.set_sizes(artist.get_sizes() * SCALE**2)
