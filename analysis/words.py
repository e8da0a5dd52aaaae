"""Numbers and names as a reader sees them, and LaTeX that survives any name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote

from analysis.stats import Difference, Mean
from analysis.style import power_of_ten

NAMES = {
    "model.chunk_size": "chunk size K",
    "model.init": "initialisation",
    "model.auxiliary_weight": "weight of the auxiliary cross-entropy",
    "model.backbone.width": "width D",
    "model.backbone.num_layers": "layers",
    "model.backbone.num_heads": "attention heads",
    "model.head.kind": "head",
    "model.head.alpha": "exponent α",
    "model.head.distance": "distance of the score",
    "model.head.quadric_scale": "scale of the quadric distance",
    "model.head.quadric_gamma": "exponent γ of the quadric distance",
    "model.head.num_samples": "model samples N",
    "model.head.num_targets": "target samples M",
    "model.head.num_draws": "noise draws N",
    "model.head.num_blocks": "head blocks",
    "model.head.noise_dim": "noise dimensions",
    "model.head.noise_schedule": "noise schedule",
    "model.head.num_steps": "steps of the diffusion chain",
    "model.head.num_calls": "network calls",
    "model.head.solver": "solver",
    "model.head.spacing": "spacing of the times",
    "model.input_mode": "input mode",
    "model.latent_feedback": "latent fed back",
    "autoencoder.latent_dim": "latent dimension L",
    "autoencoder.kl_floor": "KL floor λ_KL (nats)",
    "autoencoder.kl_weight": "KL weight β",
    "autoencoder.token_dropout": "token dropout",
    "autoencoder.latent_dropout": "latent dropout",
    "data.corpus": "corpus",
    "data.tokenizer.kind": "tokenizer",
    "train.train_flops": "training compute (FLOPs)",
    "train.train_tokens": "training tokens",
    "train.cache_targets": "targets looked up",
    "optim.kind": "optimizer",
    "optim.lr": "learning rate",
    "optim.matrix_lr": "learning rate of matrices",
    "optim.batch_positions": "positions a step",
    "optim.warmup_fraction": "warm-up (share of the budget)",
    "optim.decay_fraction": "decay (share of the budget)",
}
SHORT = {
    "model.chunk_size": "K",
    "model.auxiliary_weight": "auxiliary",
    "model.backbone.width": "D",
    "model.backbone.num_layers": "layers",
    "model.head.alpha": "α",
    "model.head.quadric_scale": "scale",
    "model.head.quadric_gamma": "γ",
    "model.head.num_samples": "N",
    "model.head.num_targets": "M",
    "model.head.num_draws": "draws",
    "model.head.num_blocks": "head blocks",
    "model.head.noise_dim": "noise dimensions",
    "model.head.noise_schedule": "schedule",
    "model.head.num_steps": "steps",
    "model.head.num_calls": "calls",
    "model.input_mode": "input",
    "model.latent_feedback": "fed back",
    "autoencoder.latent_dim": "L",
    "autoencoder.kl_floor": "λ",
    "autoencoder.kl_weight": "β",
    "autoencoder.token_dropout": "token dropout",
    "autoencoder.latent_dropout": "latent dropout",
    "train.train_flops": "budget",
    "train.train_tokens": "tokens",
    "optim.lr": "rate",
    "optim.matrix_lr": "matrix rate",
    "optim.batch_positions": "batch",
    "optim.warmup_fraction": "warm-up",
    "optim.decay_fraction": "decay",
}
BARE = ("model.head.kind", "model.head.distance", "model.head.solver", "optim.kind", "data.corpus")
"""Parameters whose values say by themselves what they are."""
MISSING = "–"
PHASES = {"constant": "at constant rate", "decayed": "each at the end of its decay"}


@dataclass(frozen=True)
class Link:
    """A cell that leads somewhere."""

    text: str
    href: str


Cell = str | Link


@dataclass(frozen=True)
class Table:
    """Ready to be shown; ``numeric`` holds the indices of right-aligned columns."""

    name: str
    caption: str
    columns: list[str]
    rows: list[list[Cell]]
    numeric: frozenset[int] = field(default_factory=frozenset)


def name_of(parameter: str) -> str:
    return NAMES.get(parameter, parameter)


def short_of(parameter: str) -> str:
    return SHORT.get(parameter, parameter.rsplit(".", 1)[-1].replace("_", " "))


def value_words(parameter: str, value: object) -> str:
    """``K 4``, ``flow``, ``input latent``."""
    return plain(value) if parameter in BARE else f"{short_of(parameter)} {plain(value)}"


def listed(words: Sequence[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def missing(value: object) -> bool:
    """None, not-a-number and pandas' NA."""
    return value is None or str(value) in ("nan", "<NA>", "NaT")


def number(value: object, digits: int = 2) -> str:
    """Fixed decimals with a real minus sign; a dash where there is nothing."""
    if missing(value):
        return MISSING
    result = float(str(value))
    if not math.isfinite(result):
        return "∞" if result > 0 else "−∞"
    text = f"{result:.{digits}f}"
    return text.replace("-", "−") if float(text) else text.replace("-", "")


def plus_minus(value: object, error: object, digits: int = 2) -> str:
    if missing(value):
        return MISSING
    return number(value, digits) if missing(error) else f"{number(value, digits)} ± {number(error, digits)}"


def flops(value: object) -> str:
    """1.2×10¹²."""
    if missing(value):
        return MISSING
    amount = float(str(value))
    if amount <= 0:
        return "0"
    exponent = math.floor(math.log10(amount) + 1e-9)
    return f"{amount / 10**exponent:.2f}×{power_of_ten(10.0**exponent)}"


def status_words(status: object, reason: object) -> str:
    """``failed: no memory left``; the status once where the reason repeats it."""
    status, reason = str(status).replace("_", " "), str(reason or "")
    if not reason or reason.lower().startswith(status):
        return reason or status
    return f"{status}: {reason}"


def whole(value: object) -> str:
    return MISSING if missing(value) else f"{round(float(str(value))):,}"


def plain(value: object) -> str:
    """A configuration value."""
    if missing(value):
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    try:
        return f"{float(str(value)):.6g}"
    except ValueError:
        return str(value)


def interval(low: float | None, high: float | None, digits: int = 2) -> str:
    return MISSING if low is None or high is None else f"[{number(low, digits)}, {number(high, digits)}]"


def mean_words(mean: Mean) -> str:
    """Mean with its interval where there is one."""
    if mean.num == 0:
        return MISSING
    return number(mean.value) + (f" {interval(mean.low, mean.high)}" if mean.low is not None else "")


def difference_words(difference: Difference) -> str:
    """``+0.42 [0.10, 0.74]``; of two scores that could not be paired it says so."""
    sign = "+" if float(f"{difference.value:.2f}") > 0 else ""
    bounds = f" {interval(difference.low, difference.high)}" if difference.low is not None else " (no interval)"
    return f"{sign}{number(difference.value)}{bounds}{' unpaired' if difference.unpaired else ''}"


def mlflow_url(uri: object, experiment: object, run: object) -> str | None:
    """Page of a run; where runs were tracked in a file, the page that ``calm ui`` serves."""
    if missing(experiment) or missing(run):
        return None
    base = str(uri).rstrip("/") if str(uri).startswith(("http://", "https://")) else "http://127.0.0.1:5000"
    page = f"experiments/{quote(str(experiment), safe='')}/runs/{quote(str(run), safe='')}"
    return f"{base}/#/{page}?workflowType=machine_learning"  # else MLflow shows its pages for traces and prompts


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "$": r"\$",
    "&": r"\&",
    "#": r"\#",
    "%": r"\%",
    "_": r"\_",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "−": r"$-$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "–": r"--",
    "∞": r"$\infty$",
    "λ": r"$\lambda$",
    "β": r"$\beta$",
    "γ": r"$\gamma$",
    "τ": r"$\tau$",
    "→": r"$\rightarrow$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "α": r"$\alpha$",
    "σ": r"$\sigma$",
    "μ": r"$\mu$",
    **{mark: f"$^{{{plain_mark}}}$" for mark, plain_mark in zip("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789", strict=True)},
    "\n": " ",
    "\t": " ",
    "ε": r"$\varepsilon$",
    "≈": r"$\approx$",
    "√": r"$\surd$",
    "…": r"\dots{}",
    "“": "``",
    "”": "''",
    "‘": "`",
    "’": "'",
    "′": "$'$",
    "½": r"$\frac{1}{2}$",
    "—": "---",
    "\u00a0": "~",
    "\u202f": r"\,",
}
_LATIN = 0x17F
"""The last character that LaTeX's T1 fonts are sure to have."""


def latex_escape(text: str) -> str:
    """Text that LaTeX sets as it is written; what its fonts lack (emoji, other scripts) by its number."""
    return "".join(map(_latex_character, text)).replace("}$$^{", "")  # 10¹² has one exponent


def _latex_character(c: str) -> str:
    if c in _LATEX:
        return _LATEX[c]
    return c if ord(c) <= _LATIN and c.isprintable() else f"[U+{ord(c):04X}]"


def to_latex(table: Table) -> str:
    """A booktabs table; needs the packages booktabs and (for quotes) fontenc with T1."""
    alignment = "".join("r" if i in table.numeric else "l" for i in range(len(table.columns)))
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex_escape(table.caption)}}}",
        rf"\begin{{tabular}}{{{alignment}}}",
        r"\toprule",
        " & ".join(latex_escape(c) for c in table.columns) + r" \\",
        r"\midrule",
    ]
    for row in table.rows:
        line = " & ".join(latex_escape(c.text if isinstance(c, Link) else c) for c in row)
        guard = "{}" if line.startswith(("[", "*")) else ""  # \\ would take them for its own argument
        lines.append(rf"{guard}{line} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}"]) + "\n"
