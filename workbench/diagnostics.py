"""What goes wrong in a run, detected from its record (METHOD section 8). Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.config import CalmConfig, EnergyHeadConfig, RunConfig
from workbench.gradient_norms import diagnose_gradient_norms
from workbench.pairs import PairedDifference
from workbench.records import AutoencoderReport, Brier, Diagnostic, Evaluation, Floor, Overlap, TrainPoint

GOOD_RECONSTRUCTION = 0.99
BRITTLE_NOISE = 0.3
ERRORS = 2
"""Standard errors that a value must lie above 0, or above a floor, to count as above it."""
SEEN_TEXT = 0.02
"""Share of evaluated tokens above which text that was seen in training is reported."""
ORDERS = ("Brier-1", "Brier-2", "Brier-3", "Brier-4")


def diagnose_config(config: RunConfig) -> list[Diagnostic]:
    """What is known to go wrong before anything is trained."""
    head = config.model.head if isinstance(config.model, CalmConfig) else None
    if not isinstance(head, EnergyHeadConfig) or head.distance != "power" or head.alpha >= 1.0:
        return []
    return [
        Diagnostic(
            code="alpha_below_one",
            message=f"model.head.alpha {head.alpha:g} is below 1: the gradient of d^alpha grows without bound as "
            "d falls to 0, so gradients explode where samples nearly coincide, as they do at the start (no pair's "
            "exceeds the cap of workbench.energy_score); look at train/grad_norm, or use an alpha from 1 on "
            "(published: 1)",
        )
    ]


def diagnose_beginning(environment: Mapping[str, Any]) -> list[Diagnostic]:
    """Of a run that starts from another one's weights, or goes on from its own, whose head had other code: what
    they mean there nobody knows. It is no refusal, as mending a head and going on is what one may want."""
    beginning, found = environment.get("initial") or {}, []
    if why := _other_code(environment, beginning):
        found.append(
            f"the weights of {beginning.get('name')!r}, from which this run starts, were trained with {why}; "
            "where they mean something else now, offer that code, or start without train.init_from"
        )
    for earlier in environment.get("earlier") or []:
        if why := _other_code(environment, earlier):
            found.append(
                f"this run was begun with {why}; where its weights mean something else now, offer that code, or "
                "begin the run anew under another --name"
            )
    return [Diagnostic(code="other_head_code", message=message) for message in dict.fromkeys(found)][:1]


def _other_code(here: Mapping[str, Any], there: Mapping[str, Any]) -> str:
    """How the codes of an own head differ; empty where they do not, or nothing is known."""
    new, old = here.get("own_head") or {}, there.get("own_head") or {}
    if not new.get("code_hash") or not old.get("code_hash") or new["code_hash"] == old["code_hash"]:
        return ""
    return (
        f"other code of the head {new.get('kind')!r}: {old.get('source')} with hash {old['code_hash']}, "
        f"{new.get('source')} here has {new['code_hash']}"
    )


def diagnose_training(config: RunConfig, points: Sequence[TrainPoint], warmup_steps: int) -> list[Diagnostic]:
    """Of a run whose training has ended, however it did."""
    return diagnose_gradient_norms(points, warmup_steps=warmup_steps, clip=config.optim.clip)


def diagnose_autoencoder(report: AutoencoderReport) -> list[Diagnostic]:
    """Collapse, poor reconstruction, a decoder that breaks under small noise."""
    found = []
    if report.num_collapsed:
        found.append(
            Diagnostic(
                code="collapse",
                message=f"{report.num_collapsed} of {report.latent_dim} latent dimensions carry no information "
                f"(KL near 0): raise autoencoder.kl_floor (now {report.kl_floor}) or lower kl_weight",
            )
        )
    if report.token_accuracy < GOOD_RECONSTRUCTION:
        found.append(
            Diagnostic(
                code="reconstruction",
                message=f"the autoencoder reconstructs {report.token_accuracy:.2%} of held-out tokens, "
                "below 99 %: larger latent_dim, less regularisation or more steps",
            )
        )
    noisy = next((p.accuracy for p in report.noise_accuracy if abs(p.noise - BRITTLE_NOISE) < 1e-9), None)
    if noisy is not None and noisy < GOOD_RECONSTRUCTION <= report.token_accuracy:
        found.append(
            Diagnostic(
                code="brittle_decoder",
                message=f"accuracy falls to {noisy:.2%} with noise {BRITTLE_NOISE} on the latent vector: "
                "predicted vectors will decode badly",
            )
        )
    return found


def diagnose_evaluation(
    evaluation: Evaluation, floors: dict[str, Floor], paired: Mapping[str, PairedDifference] | None = None
) -> list[Diagnostic]:
    """BrierLM that cannot be told from 0 or from an n-gram table's, or lies below; a head that ignores its
    context. ``paired``: the model minus each table at the same positions, where that is known."""
    found = []
    brier = evaluation.brier
    lost = [
        f"{name} {value:.2f} ± {se:.2f}"
        for n, (name, value, se) in enumerate(zip(ORDERS, brier.brier, brier.brier_se, strict=True), start=1)
        if value <= ERRORS * se or n in brier.weak_orders
    ]
    if lost or brier.brierlm <= ERRORS * brier.brierlm_se:
        found.append(
            Diagnostic(
                code="brierlm_zero",
                message=f"BrierLM {brier.words()} cannot be told from 0"
                + (f" ({', '.join(lost)} %)" if lost else "")
                + ": train longer, or evaluate more positions or samples",
            )
        )
    beaten_by = [name for name, floor in floors.items() if not _above(brier, name, floor, paired or {})]
    if beaten_by:
        best = max(beaten_by, key=lambda name: floors[name].brierlm)
        found.append(
            Diagnostic(
                code="below_floor",
                message=f"BrierLM {brier.words()} is not above the {best} table's {floors[best].brierlm:.2f} "
                f"on the same positions{_by(paired or {}, best)}: {_standing(paired or {}, best)}",
            )
        )
    true, shuffled, se = (
        evaluation.head_loss,
        evaluation.head_loss_shuffled,
        evaluation.head_loss_gain_se,
    )
    if true is not None and shuffled is not None and se is not None and shuffled - true <= ERRORS * se:
        found.append(
            Diagnostic(
                code="ignores_context",
                message=f"the head's loss is {true:.4f} with its own context and {shuffled:.4f} with another "
                f"window's (difference {shuffled - true:.4f} ± {se:.4f}): it has learnt the marginal only",
            )
        )
    return found


def _above(brier: Brier, name: str, floor: Floor, paired: Mapping[str, PairedDifference]) -> bool:
    if name in paired:
        return paired[name].low > 0
    return brier.brierlm - ERRORS * brier.brierlm_se > floor.brierlm


def _standing(paired: Mapping[str, PairedDifference], name: str) -> str:
    if name in paired and paired[name].high > 0:
        return "it cannot be told from that table's; evaluate more positions or train longer"
    return "not yet a language model"


def _by(paired: Mapping[str, PairedDifference], name: str) -> str:
    if name not in paired:
        return f" by {ERRORS} of its errors"
    return f" (difference {paired[name].value:+.2f}, 95 % [{paired[name].low:.2f}, {paired[name].high:.2f}])"


def diagnose_overlap(overlap: Overlap) -> list[Diagnostic]:
    """Evaluated text that was trained on."""
    if overlap.token_share <= SEEN_TEXT:
        return []
    longest = f"{overlap.longest_tokens} tokens" + (f" ({overlap.longest!r})" if overlap.longest else "")
    return [
        Diagnostic(
            code="seen_text",
            message=f"{overlap.token_share:.2%} of the evaluated tokens lie in passages of about "
            f"{overlap.span_bytes} bytes or more that occur word for word in the training text (in "
            f"{overlap.window_share:.2%} of windows more than half of the tokens); the longest has {longest}. "
            "BrierLM rewards recall there: take copies and recurring passages (headers, licences, other "
            "editions) out of data.corpus and train again",
        )
    ]


def not_finite(reason: str) -> Diagnostic:
    return Diagnostic(
        code="not_finite",
        message=f"training stopped: {reason}; lower optim.lr; of an energy head raise num_samples or alpha; "
        "a head of your own is tried with calm heads check",
    )


def diverged(reason: str) -> Diagnostic:
    return Diagnostic(
        code="diverged",
        message=f"training stopped: {reason}; lower optim.lr, lengthen optim.warmup_fraction, or lower optim.clip "
        "(train.stop_diverged: false trains on)",
    )


def collapsed(reason: str, initial: str | None = None) -> Diagnostic:
    """``initial``: the run whose autoencoder it is, frozen, if it was not trained here."""
    remedy = (
        "raise autoencoder.kl_floor, lower autoencoder.kl_weight or autoencoder.lr, or give it more steps"
        if initial is None
        else f"the autoencoder is that of {initial!r} and is not trained further: take a text like the one that "
        "it was trained on, or train.init_from of another run"
    )
    return Diagnostic(
        code="collapsed",
        message=f"no language model was trained: {reason}; {remedy} (train.stop_diverged: false trains on)",
    )


def identical_draws() -> Diagnostic:
    return Diagnostic(
        code="identical_draws",
        message="two samples of the head at the same position are identical: its noise has no effect, "
        "so BrierLM means nothing",
    )
