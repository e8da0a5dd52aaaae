"""Samplers of the diffusion head, for any denoiser (METHOD section 3.2): from normal noise down a chain of steps.

All predict z at each step and end with the last prediction. The state is float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

from workbench.heads.noise_schedule import NoiseSchedule

Denoiser = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""(x_t, t) to the predicted z and the place of the step's log variance in its range."""
Sampler = Callable[[Denoiser, Callable[[], Tensor], NoiseSchedule], Tensor]
"""(denoiser, source of normal noise, chain) to samples."""


def ddpm(denoise: Denoiser, draw: Callable[[], Tensor], chain: NoiseSchedule) -> Tensor:
    """Ancestral sampling with the learned variance; the last step adds no noise (Ho et al. 2020, algorithm 2;
    Nichol & Dhariwal 2021, section 3.1)."""
    from_latent, from_noisy = chain.posterior_from_latent.tolist(), chain.posterior_from_noisy.tolist()
    low, high = (bound.tolist() for bound in chain.log_variance_range)
    state = draw()
    for t in reversed(range(len(chain))):
        latent, place = denoise(state, t)
        state = from_latent[t] * latent + from_noisy[t] * state
        if t > 0:
            state = state + (0.5 * (low[t] + place * (high[t] - low[t]))).exp() * draw()
    return state


def ddim(denoise: Denoiser, draw: Callable[[], Tensor], chain: NoiseSchedule) -> Tensor:
    """Without noise but the first: the predicted noise is kept and scaled (Song et al. 2021, eq. 12 with
    sigma = 0); a first-order solver."""
    signals, sigmas = chain.alpha_bars.sqrt().tolist(), (1 - chain.alpha_bars).sqrt().tolist()
    state = draw()
    for t in reversed(range(1, len(chain))):
        latent, _ = denoise(state, t)
        noise_part = state - signals[t] * latent
        state = signals[t - 1] * latent + sigmas[t - 1] / sigmas[t] * noise_part
    return denoise(state, 0)[0]


def dpm2m(denoise: Denoiser, draw: Callable[[], Tensor], chain: NoiseSchedule) -> Tensor:
    """DPM-Solver++(2M) (Lu et al. 2022, algorithm 2): the prediction of z is extrapolated along a straight line in
    lambda = log(sqrt(alpha_bar) / sqrt(1 - alpha_bar)). Of first order at the first step, which has none before
    it, and at the last, which is infinitely long in lambda."""
    signals, sigmas = chain.alpha_bars.sqrt().tolist(), (1 - chain.alpha_bars).sqrt().tolist()
    state = draw()
    previous: tuple[float, Tensor] | None = None
    for t in reversed(range(1, len(chain))):
        latent, _ = denoise(state, t)
        step = math.log(signals[t - 1] / sigmas[t - 1]) - math.log(signals[t] / sigmas[t])
        towards = latent
        if previous is not None:
            last_step, last_latent = previous
            towards = latent + step / (2 * last_step) * (latent - last_latent)
        state = sigmas[t - 1] / sigmas[t] * state - signals[t - 1] * math.expm1(-step) * towards
        previous = (step, latent)
    return denoise(state, 0)[0]


SAMPLERS: dict[str, Sampler] = {"ddpm": ddpm, "ddim": ddim, "dpm2m": dpm2m}
"""The table of alternatives; each takes one network call a step."""
