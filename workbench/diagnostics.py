"""What goes wrong in a run, detected from its record (METHOD section 8). Imports no torch."""

from __future__ import annotations

from workbench.records import AutoencoderReport, Diagnostic, Evaluation, Floor

GOOD_RECONSTRUCTION = 0.99
BRITTLE_NOISE = 0.3
ERRORS = 2
"""Standard errors that a value must lie above 0, or above a floor, to count as above it."""
ORDERS = ("Brier-1", "Brier-2", "Brier-3", "Brier-4")


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


def diagnose_evaluation(evaluation: Evaluation, floors: dict[str, Floor]) -> list[Diagnostic]:
    """BrierLM that cannot be told from 0 or from an n-gram table's, or lies below; a head that ignores its
    context."""
    found = []
    brier = evaluation.brier
    lost = [
        f"{name} {value:.2f} ± {se:.2f}"
        for name, value, se in zip(ORDERS, brier.brier, brier.brier_se, strict=True)
        if value <= ERRORS * se
    ]
    if lost or brier.brierlm <= ERRORS * brier.brierlm_se:
        found.append(
            Diagnostic(
                code="brierlm_zero",
                message=f"BrierLM {brier.brierlm:.2f} ± {brier.brierlm_se:.2f} cannot be told from 0"
                + (f" ({', '.join(lost)} %)" if lost else "")
                + ": train longer, or evaluate more positions or samples",
            )
        )
    least = brier.brierlm - ERRORS * brier.brierlm_se
    beaten_by = [name for name, floor in floors.items() if least <= floor.brierlm]
    if beaten_by:
        best = max(beaten_by, key=lambda name: floors[name].brierlm)
        found.append(
            Diagnostic(
                code="below_floor",
                message=f"BrierLM {brier.brierlm:.2f} ± {brier.brierlm_se:.2f} is not {ERRORS} of its errors "
                f"above the {best} table's {floors[best].brierlm:.2f} on the same positions: not yet a language "
                "model",
            )
        )
    true, shuffled, se = (
        evaluation.energy_loss,
        evaluation.energy_loss_shuffled,
        evaluation.energy_loss_gain_se,
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


def not_finite(reason: str) -> Diagnostic:
    return Diagnostic(
        code="not_finite",
        message=f"training stopped: {reason}; lower optim.lr, or raise model.head.num_samples or alpha",
    )


def identical_draws() -> Diagnostic:
    return Diagnostic(
        code="identical_draws",
        message="two samples of the head at the same position are identical: its noise has no effect, "
        "so BrierLM means nothing",
    )
