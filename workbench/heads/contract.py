"""What a head from outside the package must do, tried on a few positions before anything is trained: shapes,
dtypes, gradients, randomness of its own only. What takes longer to find out is in ``workbench.testing``.

Letters: n positions, D width, L latent dimension, S draws.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from workbench import layers, own_heads
from workbench.errors import HeadError, UserError
from workbench.posterior import Posterior


def built(head_class: Any, config: Any, width: int, latent_dim: int) -> Any:
    """A head of that class. Raises HeadError where its code fails or its weights cannot be trained and saved."""
    with layers.drawn_from(_generator()), own_code(head_class, "__init__"):
        head = head_class(config, hidden_dim=width, latent_dim=latent_dim)
    complete(head, config)
    return head


def complete(head: Any, config: Any) -> None:
    """A head that does not keep its section itself gets it as ``config``. Raises HeadError for one that keeps
    something else there, and for weights that cannot be trained and saved."""
    with own_code(type(head), "__init__"):
        if getattr(head, "config", None) is None:
            head.config = config
    if not isinstance(head.config, type(config)):
        why = f"config is {type(head.config).__name__}, wanted is the section that __init__ was given"
        raise _refusal(type(head), "__init__", f"{why}; give what is kept there another name")
    require_weights(head)


def require_weights(head: Any) -> None:
    """Raises HeadError for what cannot be saved: it has no size yet, is no tensor, or has memory in common with
    another."""
    places: list[tuple[int, int, str]] = []
    for name, weight in head.state_dict(keep_vars=True).items():
        if not isinstance(weight, Tensor):
            why = f"{name} is no tensor, and a checkpoint holds nothing else; do without it"
            raise _refusal(type(head), "__init__", why)
        if is_lazy(weight):
            why = f"{name} has no size before the head is used; give it one, of hidden_dim and latent_dim"
            raise _refusal(type(head), "__init__", why)
        if weight.is_contiguous() and not weight.is_meta:  # others are copied when they are saved
            places.append((weight.data_ptr(), weight.data_ptr() + weight.nbytes, name))
    for (_, end, name), (begin, _, other) in pairwise(sorted(place for place in places if place[0] < place[1])):
        if begin < end:
            first, second = sorted([name, other])
            why = (
                f"{first} and {second} have memory in common, which a checkpoint cannot hold; keep one, or a copy"
            )
            raise _refusal(type(head), "__init__", why)


def require(head: Any, width: int, latent_dim: int) -> None:
    """Raises HeadError, naming file and line, where the head's code fails, or ``loss`` or ``sample`` returns
    something else than ``Head`` says, changes what it is given, or draws from torch's own generator. Values need
    not be finite: its weights are not those it is trained with. Leaves that generator as it was."""
    several = 2 if latent_dim != 2 else 4
    with layers.drawn_from(_generator()):
        for n, s in ((several, several + 1 if latent_dim != several + 1 else several + 3), (1, 1)):  # no two alike
            generator = _generator()
            hidden = torch.randn(n, width, generator=generator).requires_grad_()
            target = Posterior(torch.randn(n, latent_dim, generator=generator), torch.zeros(n, latent_dim))
            _require_loss(head, hidden, target, generator)
            with _only(head, "sample", hidden=hidden), torch.no_grad():
                samples = head.sample(hidden.detach(), num_samples=s, rng=generator, noise_scale=1.0)
            _require_like(type(head), "sample", samples, {"S": s, "n": n, "L": latent_dim})


def _require_loss(head: Any, hidden: Tensor, target: Posterior, generator: torch.Generator) -> None:
    given = {"hidden": hidden, "target.mean": target.mean, "target.log_std": target.log_std}
    with _only(head, "loss", **given), torch.enable_grad():
        loss = head.loss(hidden, target, rng=generator)
    _require_like(type(head), "loss", loss, {"n": len(hidden)})
    if not loss.requires_grad:
        raise _refusal(type(head), "loss", "loss must have a gradient, gave a tensor without one")
    with own_code(type(head), "loss"):
        loss.sum().backward()
    if len(hidden) > 1 and not _reached(hidden) and not _reached_with_other_weights(head, hidden, target):
        why = "loss must have a gradient for hidden, gave none: the Transformer would not be trained"
        raise _refusal(type(head), "loss", f"{why}; does something detach hidden, or is it not used?")


def _reached(hidden: Tensor) -> bool:
    """Whether its gradient is not zero everywhere; one that is not finite is not."""
    return hidden.grad is not None and bool((hidden.grad != 0).any())


def _reached_with_other_weights(head: Any, hidden: Tensor, target: Posterior) -> bool:
    """After the weights are moved: behind a last layer that starts at zero no gradient is seen before. A head that
    cannot do with such weights is believed, if hidden has a part in its loss."""
    moved = [each for each in (*head.parameters(), *head.buffers()) if each.is_floating_point()]
    kept = [each.data for each in moved]
    try:
        for scale in (0.1, 1.0):
            generator, again = _generator(), hidden.detach().clone().requires_grad_()
            for each, data in zip(moved, kept, strict=True):
                each.data = data + scale * torch.randn(data.shape, generator=generator).to(data)
            with torch.enable_grad():
                head.loss(again, target, rng=generator).sum().backward()
            if _reached(again):
                return True
    except own_heads.FAILURES:
        return hidden.grad is not None
    finally:
        for each, data in zip(moved, kept, strict=True):
            each.data = data
    return False


@contextmanager
def _only(head: Any, method: str, **given: Tensor) -> Iterator[None]:
    """Around a call of a method, which is to return something and to change nothing else."""
    state, copies = torch.get_rng_state(), {name: each.detach().clone() for name, each in given.items()}
    names = set(dict(head.named_parameters()))
    with own_code(type(head), method):
        yield
    if late := sorted(set(dict(head.named_parameters())) - names):
        why = f"{method} makes {', '.join(late)}, which no optimizer knows; make all weights in __init__"
        raise _refusal(type(head), method, why)
    if not torch.equal(state, torch.get_rng_state()):
        why = f"{method} draws from torch's own generator, so that equal seeds give other runs; draw from rng"
        raise _refusal(type(head), method, f"{why} (generator=rng), and use no dropout")
    if changed := [name for name, each in given.items() if not torch.equal(each.detach(), copies[name])]:
        raise _refusal(type(head), method, f"{method} changes {' and '.join(changed)} in place; change a copy")


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@contextmanager
def own_code(head_class: Any, method: str) -> Iterator[None]:
    """Around what runs a method of a head from outside: its exceptions become HeadErrors that name file and line,
    and keep the exception as their cause."""
    try:
        yield
    except UserError:
        raise
    except own_heads.FAILURES as error:
        place = own_heads.place_of(error, head_class) or own_heads.place_of_method(head_class, method)
        raise HeadError(f"{own_heads.named(_kind(head_class), place)}: {own_heads.in_words(error)}") from error


def _require_like(head_class: Any, method: str, given: Any, sizes: Mapping[str, int]) -> None:
    """Raises HeadError where that is no float32 tensor of these sizes."""
    wanted = "(n,)" if len(sizes) == 1 else f"({', '.join(sizes)})"
    if not isinstance(given, Tensor):
        raise _refusal(head_class, method, f"{method} must return a tensor {wanted}, gave {type(given).__name__}")
    if tuple(given.shape) != tuple(sizes.values()):
        here = ", ".join(f"{letter} = {size}" for letter, size in sizes.items())
        raise _refusal(head_class, method, f"{method} must return {wanted}, gave {tuple(given.shape)} for {here}")
    if given.dtype != torch.float32:
        dtype = str(given.dtype).removeprefix("torch.")
        raise _refusal(head_class, method, f"{method} must return float32, gave {dtype}")


def _refusal(head_class: Any, method: str, why: str) -> HeadError:
    place = own_heads.place_of_method(head_class, method)
    return HeadError(f"{own_heads.named(_kind(head_class), place)}: {why} (docs/own-head.md)")


def _kind(head_class: Any) -> str:
    return str(head_class.section.model_fields["kind"].default)
