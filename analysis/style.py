"""One look for all figures: colours per K, fonts, files that are the same byte for byte.

K has an ordinal palette (viridis order, dark to light, safe for the common colour blindnesses and in
grey) and a marker of its own, the same in every figure, and so has every head; token baselines are black, n-gram
floors grey.
Figures are built on ``Figure`` objects with the Agg and SVG canvases; pyplot's global state is untouched.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from analysis.paper_figures import paper_files

WIDE = (4.8, 4.1)
"""Inches; a figure of its own row. Labels stay legible at half a page and on a phone."""
SMALL = (3.8, 3.3)
"""Inches; figures that stand side by side on a wide screen and below each other on a phone."""
DPI = 200

INK, GREY, LIGHT, ACCENT = "#111111", "#6b6b6b", "#c9c9c9", "#b3362b"
FLOOR_STYLES = {"unigram": (0, (1, 2)), "bigram": (0, (4, 2)), "trigram": (0, (8, 2, 1, 2))}

_K_COLOURS = ["#440154", "#31688e", "#20a386", "#b5a100", "#d95f02"]
_K_MARKERS = ["o", "s", "^", "D", "v"]
_HEAD_COLOURS = {
    "energy": ["#0072b2", "#003f63", "#4a9bcb"],
    "diffusion": ["#d55e00", "#7d3300", "#c98a3c"],
    "flow": ["#008f68", "#00543d", "#4fa88c"],
}
"""Dark enough to be read as text; the first ones are told apart with the common colour blindnesses."""
_HEAD_MARKERS = {"energy": "oDpd", "diffusion": "sXh8", "flow": "^v<>"}
_CATEGORIES = ["#0072b2", "#d55e00", "#008f68", "#8a3f8f", "#8a7500", "#7d2e2e"]
_MARKERS = "os^DvpX<>"
_ORDINAL = ["#0b3c5d", "#2b7bba", "#7fb2dd", "#e0a458", "#c8553d", "#7d2e2e"]

_RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans", "Verdana", "sans-serif"],
    "font.size": 10,
    "axes.labelsize": 10,
    "axes.titlesize": 10.5,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "svg.fonttype": "none",
    "svg.hashsalt": "calm",
    "text.parse_math": False,  # names of runs may hold dollar signs
    "axes.unicode_minus": True,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
}


@dataclass(frozen=True)
class Picture:
    """A rendered figure. ``name`` is its file name, ``text`` says in words what it shows."""

    name: str
    title: str
    text: str
    svg: str
    png: bytes
    small: bool
    paper: dict[str, bytes] = field(default_factory=dict)
    """``column.pdf``, ``column.svg``, ``page.pdf``, ``page.svg`` where asked for (``analysis.paper_figures``)."""
    data: str = ""
    """File under data/ that holds what it shows; by default the one that its name belongs to."""


@contextmanager
def house_style() -> Iterator[None]:
    """The settings above, for the time of one figure."""
    with matplotlib.rc_context(_RC):
        yield


def new_figure(size: tuple[float, float] = WIDE) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def render(figure: Figure, name: str, title: str, text: str, *, data: str = "") -> Picture:
    """SVG text, PNG bytes and, within ``paper_figures.paper()``, files for a paper; no dates or versions. The
    figure is spent afterwards."""
    for legend in list(figure.legends):
        _fit(figure, legend)
    svg, png = io.StringIO(), io.BytesIO()
    usual, figure.dpi = figure.dpi, DPI  # by the canvases: savefig draws each twice
    FigureCanvasAgg(figure).print_png(png, metadata={"Software": None})
    figure.set_layout_engine("none")  # keep what was laid out: laying out again takes as long as drawing
    FigureCanvasSVG(figure).print_svg(svg, metadata={"Date": None, "Creator": None})
    figure.dpi = usual
    content = "\n".join(line.rstrip() for line in svg.getvalue().splitlines()) + "\n"
    small = figure.get_figwidth() < WIDE[0]
    return Picture(name, title, text, content, png.getvalue(), small, paper_files(figure, small=small), data)


def label_log_y(axes: Axes, words: Callable[[float], str]) -> None:
    """Labels at 1, 2 and 5 of every decade, so that an axis of less than one has several; none between them, which
    matplotlib writes as TeX."""
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: words(value)))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _fit(figure: Figure, legend: Legend) -> None:
    """A legend above the axes in as many columns as fit; what stands beyond the edges of the figure is cut off."""
    labels = [text.get_text() for text in legend.get_texts()]
    columns = legend._ncols  # type: ignore[attr-defined]
    while columns > 1 and legend.get_window_extent(_renderer(figure)).width > figure.bbox.width:
        columns -= 1
        title, size = legend.get_title().get_text(), legend.get_texts()[0].get_fontsize()
        handles = [handle for handle in legend.legend_handles if handle is not None]
        spaces = {name: getattr(legend, name) for name in ("columnspacing", "handlelength", "handletextpad")}
        legend.remove()
        legend = figure.legend(
            handles, labels, title=title, loc="outside upper center", ncols=columns, fontsize=size, **spaces
        )


def _renderer(figure: Figure) -> Any:
    return FigureCanvasAgg(figure).get_renderer()


def inline(picture: Picture, title: str, text: str, themed: Callable[[str], str] = str) -> str:
    """The SVG as an element of an HTML page: no prologue, no metadata, ids of its own, scalable.

    ``title``, ``text``: already escaped; ``themed``: applied to the drawing."""
    body = themed(picture.svg[picture.svg.index("<svg") :])
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.DOTALL)
    head, rest = body.split(">", 1)
    head = re.sub(r'\s(?:width|height)="[^"]*"', "", head)
    rest = re.sub(r'\bid="([^"]+)"', rf'id="{picture.name}-\1"', rest)
    rest = re.sub(r"url\(#([^)]+)\)", rf"url(#{picture.name}-\1)", rest)
    rest = re.sub(r'href="#([^"]+)"', rf'href="#{picture.name}-\1"', rest)
    names = f'role="img" aria-labelledby="{picture.name}-title {picture.name}-desc"'
    words = f'<title id="{picture.name}-title">{title}</title><desc id="{picture.name}-desc">{text}</desc>'
    return f"{head} {names}>{words}{rest}"


def k_colour(k: int | None) -> str:
    """Colour of a chunk size; None is the token baseline."""
    return INK if k is None else _K_COLOURS[_k_index(k)]


def k_marker(k: int | None) -> str:
    return "P" if k is None else _K_MARKERS[_k_index(k)]


def k_name(k: int | None) -> str:
    return "token baseline" if k is None else f"K = {k}"


def _k_index(k: int) -> int:
    return min(int(math.log2(max(k, 1))), len(_K_COLOURS) - 1)


def head_colour(head: str, index: int = 0) -> str:
    """Colour of a head; ``index`` of several lines of one head, in shades of its colour."""
    shades = _HEAD_COLOURS.get(head, _CATEGORIES[3:])
    return shades[index % len(shades)]


def head_place(head: str) -> int:
    """Order in which heads are listed."""
    known = list(_HEAD_COLOURS)
    return known.index(head) if head in known else len(known)


def head_marker(head: str, index: int = 0) -> str:
    markers = _HEAD_MARKERS.get(head, _MARKERS)
    return markers[index % len(markers)]


def category(index: int) -> str:
    """Colour of anything unordered that is no head."""
    return _CATEGORIES[index % len(_CATEGORIES)]


def marker(index: int) -> str:
    return _MARKERS[index % len(_MARKERS)]


def ordinal(index: int, num: int) -> str:
    """Colour ``index`` of ``num`` for anything ordered that is not K."""
    if num <= 1:
        return _ORDINAL[0]
    index = min(index, num - 1)
    return _ORDINAL[round(index * (len(_ORDINAL) - 1) / max(num - 1, 1))]


_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def power_of_ten(value: float, digits: int = 2) -> str:
    """1e11 as 10¹¹, 3e11 as 3×10¹¹; ``digits`` of the factor."""
    if value <= 0 or not math.isfinite(value):
        return f"{value:g}"
    exponent = math.floor(math.log10(value) + 1e-9)
    mantissa = value / 10**exponent
    head = "" if abs(mantissa - 1) < 1e-6 else f"{mantissa:.{digits}g}×"
    return f"{head}10{str(exponent).translate(_SUPERSCRIPTS)}"


def log_x(axes: Axes, *, few: bool = False) -> None:
    """Logarithmic x axis with 1, 2, 5 labelled over short ranges, equal steps over very short ones and powers of
    ten over long ones; ``few``: of a small figure."""
    axes.set_xscale("log")
    low, high = axes.get_xlim()
    if high / low < 2:
        axes.xaxis.set_major_locator(MaxNLocator(4))
    elif few:
        steps: Sequence[float] = (
            (1.0,) if high / low > 30 else (1.0, 3.0) if high / low > 8 else (1.0, 2.0, 3.0, 5.0)
        )
        axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=6))
    elif high / low < 30:
        steps = (1.0, 2.0, 5.0) if high / low > 4 else (1.0, 1.5, 2.0, 3.0, 5.0, 7.0)
        axes.xaxis.set_major_locator(LogLocator(subs=steps))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: power_of_ten(value, _digits(axes))))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _digits(axes: Axes) -> int:
    """With which two ticks of a short axis differ."""
    low, high = axes.get_xlim()
    return max(2, 2 - math.floor(math.log10(high / low - 1))) if 1 < high / low < 1.5 else 2


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions near ``wanted`` that are at least ``gap`` apart and within [low, high] where it fits.

    Groups that touch share their mean place (as in pooled regression); order is kept."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    blocks: list[list[float]] = []  # mean of (wanted - offset), members
    for rank in order:
        blocks.append([wanted[rank], 1.0])
        while len(blocks) > 1 and _top(blocks[-2], gap) > _bottom(blocks[-1], gap) - gap:
            centre, num = blocks.pop()
            below, below_num = blocks.pop()
            total = num + below_num
            blocks.append([(centre * num + below * below_num) / total, total])
    placed: list[float] = []
    for centre, num in blocks:
        placed += [centre + (i - (num - 1) / 2) * gap for i in range(int(num))]
    if placed and placed[0] < low:
        for i in range(len(placed)):
            placed[i] = max(placed[i], low + i * gap)
    if placed and placed[-1] > high:
        for i in range(len(placed)):
            j = len(placed) - 1 - i
            placed[j] = min(placed[j], high - i * gap)
    result = [0.0] * len(wanted)
    for place, rank in zip(placed, order, strict=True):
        result[rank] = place
    return result


def _top(block: list[float], gap: float) -> float:
    return block[0] + (block[1] - 1) / 2 * gap


def _bottom(block: list[float], gap: float) -> float:
    return block[0] - (block[1] - 1) / 2 * gap


@dataclass(frozen=True)
class Label:
    y: float
    text: str
    colour: str


def label_right(axes: Axes, labels: Sequence[Label], *, size: float = 9) -> None:
    """Names in the right margin beside their values, moved apart where they would touch, with a thin
    leader from the value to its name. Call after the limits are final."""
    if not labels:
        return
    transform = axes.transData + axes.transAxes.inverted()
    x = axes.get_xlim()[1]
    wanted = [float(transform.transform((x, label.y))[1]) for label in labels]
    height = axes.figure.bbox.height / axes.figure.dpi * 0.80 * 72  # points, about
    places = spread(wanted, size * 1.30 / height, 0.0, 1.0)
    for label, at, place in zip(labels, wanted, places, strict=True):
        axes.annotate(
            label.text,
            xy=(1.0, at),
            xytext=(1.035, place),
            xycoords="axes fraction",
            textcoords="axes fraction",
            va="center",
            ha="left",
            fontsize=size,
            color=label.colour,
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": label.colour, "lw": 0.6, "shrinkA": 0, "shrinkB": 0},
        )
