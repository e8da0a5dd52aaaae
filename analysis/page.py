"""What all pages share: templates, their look in light, dark and print, their one script, their policy.

A page loads nothing. Its Content-Security-Policy allows the styles written in it and the one script whose hash
it names; texts are escaped by Jinja. Figures are inline SVG whose colours are CSS variables, other ones in dark.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from analysis import style
from analysis.style import Picture
from analysis.words import Link, Table

_BETWEEN = "\x1f"
"""What no text should hold that is shown."""
_TEMPLATES = Path(__file__).parent / "templates"
_COLOUR = re.compile(r"(?<=: )#([0-9a-f]{6})\b")
_CODE = re.compile(r"(?<![\w`])`([^`\n]+)`(?![\w`])")
_DARK = "--ink: #e6e8ec; --soft: #a4abb8; --line: #363b45; --accent: #ef7a6d; --tint: #1d2128; --page: #14171c;"
_DARK += " --link: #8db8f2; --warn: #2d1a18; --focus: #8db8f2;"
_DARK_K = {"440154": "#c79bf2", "31688e": "#6aa8e6", "20a386": "#2fcba6", "b5a100": "#e6d34a", "d95f02": "#ff9350"}
"""The colours of K on a dark page: the same hues, light enough, still in order."""
_DATA = {
    "frontier": "evaluations",
    "correlation": "evaluations",
    "bits": "evaluations",
    "kl": "kl_per_dim",
    "std": "kl_per_dim",
    "noise": "autoencoders",
    "bottleneck": "bottlenecks",
    "calls": "calls",
    "call": "calls",
    "tradeoff": "tradeoffs",
    "sampler": "tradeoffs",
    "samplers": "tradeoffs",
}
"""File under data/ by the first word of a figure's name; runs for all others."""


def render(template: str, *, pictures: Iterable[Picture] = (), reload: int | None = None, **values: Any) -> str:
    """A whole page. ``reload``: seconds after which it loads itself again (only while a study is watched).
    ``pictures``: those that it shows, for their colours."""
    script, pictures = _script(), list(pictures)
    return (
        _environment()
        .get_template(template)
        .render(
            css=Markup(_css(frozenset(_colours(pictures)))),
            script=Markup(script),
            policy=_policy(script),
            reload=reload,
            inline=inline,
            cells=cells,
            data_of=data_of,
            paper=any(picture.paper for picture in pictures),
            **values,
        )
    )


def cells(table: Table) -> list[Markup]:
    """The cells of every row, escaped: all texts at once, as a page for every run has tables of a hundred rows."""
    texts = [cell.text if isinstance(cell, Link) else str(cell) for row in table.rows for cell in row]
    escaped = iter(_escaped(texts))
    rows = []
    for row in table.rows:
        parts = []
        for i, cell in enumerate(row):
            opening, text = '<td class="n">' if i in table.numeric else "<td>", next(escaped)
            inner = f'<a href="{escape(cell.href)}">{text}</a>' if isinstance(cell, Link) else text
            parts.append(f"{opening}{inner}</td>")
        rows.append(Markup("".join(parts)))
    return rows


def with_code(text: str) -> Markup:
    """Prose, escaped, with what stands between backticks as code."""
    return Markup(_CODE.sub(r"<code>\1</code>", str(escape(text))))


def _escaped(texts: list[str]) -> list[str]:
    whole = str(escape(_BETWEEN.join(texts))).split(_BETWEEN)
    return whole if len(whole) == len(texts) else [str(escape(text)) for text in texts]


def inline(picture: Picture) -> Markup:
    """The figure as an element of a page, with its title and description for who cannot see it."""
    return Markup(style.inline(picture, str(escape(picture.title)), str(escape(picture.text)), themed))


def themed(svg: str) -> str:
    """Colours as CSS variables, with themselves where the page defines none."""
    return _COLOUR.sub(r"var(--f\1,#\1)", svg)


def data_of(picture: Picture) -> str:
    """File under data/ that holds what the figure shows."""
    return picture.data or f"{_DATA.get(picture.name.split('-')[0], 'runs')}.csv"


def dark(colour: str) -> str:
    """``#rrggbb`` for a dark page: greys turned over, colours made light enough to be seen."""
    if colour in _DARK_K:
        return _DARK_K[colour]
    lightness, a, b = _oklab(colour)
    if math.hypot(a, b) < 0.03 or (lightness > 0.9 and math.hypot(a, b) < 0.06):
        return _hex(0.95 - 0.75 * lightness**1.5, a * 0.5, b * 0.5)
    return _hex(max(lightness, 0.72), a, b)


def _colours(pictures: Iterable[Picture]) -> set[str]:
    return {colour for picture in pictures for colour in _COLOUR.findall(picture.svg)}


def _css(colours: frozenset[str]) -> str:
    rules = _DARK + " color-scheme: dark;" + "".join(f" --f{c}: {dark(c)};" for c in sorted(colours))
    theme = f"@media screen {{ :root[data-theme=dark] {{ {rules} }} }}\n"
    theme += f"@media screen and (prefers-color-scheme: dark) {{ :root:not([data-theme=light]) {{ {rules} }} }}"
    return _file("style.css").replace("{{ dark }}", theme)


@cache
def _file(name: str) -> str:
    return (_TEMPLATES / name).read_text(encoding="utf-8")


@cache
def _script() -> str:
    """Without the lines' indentation."""
    return "\n".join(line.strip() for line in _file("page.js").splitlines() if line.strip())


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:"
    return f"{allowed}; base-uri 'none'; form-action 'none'"


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["with_code"] = with_code
    return environment


def _oklab(colour: str) -> tuple[float, float, float]:
    """Björn Ottosson's OKLab of an sRGB colour: lightness 0 to 1 and two chromatic axes."""
    r, g, b = (_linear(int(colour[i : i + 2], 16) / 255) for i in (0, 2, 4))
    long = (0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b) ** (1 / 3)
    medium = (0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b) ** (1 / 3)
    short = (0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b) ** (1 / 3)
    return (
        0.2104542553 * long + 0.7936177850 * medium - 0.0040720468 * short,
        1.9779984951 * long - 2.4285922050 * medium + 0.4505937099 * short,
        0.0259040371 * long + 0.7827717662 * medium - 0.8086757660 * short,
    )


def _hex(lightness: float, a: float, b: float) -> str:
    long = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3
    medium = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (lightness - 0.0894841775 * a - 1.2914855480 * b) ** 3
    channels = (
        4.0767416621 * long - 3.3077115913 * medium + 0.2309699292 * short,
        -1.2684380046 * long + 2.6097574011 * medium - 0.3413193965 * short,
        -0.0041960863 * long - 0.7034186147 * medium + 1.7076147010 * short,
    )
    return "#" + "".join(f"{round(255 * _gamma(channel)):02x}" for channel in channels)


def _linear(value: float) -> float:
    return value / 12.92 if value <= 0.04045 else float(((value + 0.055) / 1.055) ** 2.4)


def _gamma(value: float) -> float:
    value = min(1.0, max(0.0, value))
    return 12.92 * value if value <= 0.0031308 else float(1.055 * value ** (1 / 2.4) - 0.055)
