"""Where the gradients of a step come from: one process, ranks that each have the whole network (``ddp``), or ranks
that each have a part of every weight (``fsdp``).

All give those of the mean loss over the whole batch, to rounding: a rank's loss, and a micro-batch's, counts by
its share of the batch's sequences, which all have equally many positions. Checkpoints have one layout, a single
process's: ``fsdp`` collects weights and optimizer state on rank 0 before one is written.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from workbench.blocks import blocks_of, prepare_blocks
from workbench.config import RunConfig
from workbench.draws import PartGenerator
from workbench.language_model import LanguageModel
from workbench.optim import autocast, build_optimizer
from workbench.optimizers import Optimizer
from workbench.ranks import Ranks


class Objective(nn.Module):
    """A model's training loss as a module's ``forward``: what DDP and FSDP hook into."""

    def __init__(self, model: LanguageModel) -> None:
        super().__init__()
        self.network = model.network
        self._model = model

    def forward(self, tokens: Int[Tensor, "b t"], rng: torch.Generator, weight: float) -> Tensor:
        """Mean over the positions, times ``weight``."""
        return self._model.training_loss(tokens, rng=rng).mean() * weight


class Strategy:
    """Of a process of its own, and what the others are derived from. ``config`` must be resolved."""

    def __init__(self, model: LanguageModel, config: RunConfig, ranks: Ranks) -> None:
        self.model, self.config, self.ranks = model, config, ranks
        self.optimizer = build_optimizer(model.network, config.optim, dtype=config.runtime.dtype)
        self.module: nn.Module = Objective(model)

    def begin(self, step: int) -> None:
        """Take over rank 0's weights and, after the first step, its optimizer's state."""
        self._prepare(self.model.network)

    def _prepare(self, network: nn.Module) -> None:
        runtime = self.config.runtime
        prepare_blocks(network, compiled=runtime.compile, recomputed=runtime.checkpoint_activations)

    def gradients(self, tokens: Int[Tensor, "b t"], rng: torch.Generator) -> Tensor:
        """Leave them where ``optimizer`` finds them; returns this rank's part of the mean loss. ``tokens``: this
        rank's sequences; ``rng``: of the whole batch."""
        runtime, own, whole = self.config.runtime, len(tokens), self.config.batch_sequences
        size = min(runtime.micro_batch or own, own)
        first = own * self.ranks.place.rank
        self._forget_gradients()
        found = []
        for start in range(0, own, size):
            part = tokens[start : start + size]
            noise = rng
            if len(part) < whole:
                noise = PartGenerator.of(rng, first + start, first + start + len(part), whole)
            with self._synchronised(last=start + size >= own):
                with autocast(runtime.device, runtime.dtype):
                    # ranks' gradients are averaged, not added up
                    loss = self.module(part, noise, len(part) * self.ranks.world / whole)
                loss.backward()
            found.append(loss.detach())
        return found[0] / self.ranks.world if len(found) == 1 else torch.stack(found).sum() / self.ranks.world

    def _forget_gradients(self) -> None:
        self.module.zero_grad(set_to_none=True)

    @contextlib.contextmanager
    def _synchronised(self, *, last: bool) -> Iterator[None]:
        """Around a micro-batch."""
        yield

    def weights(self) -> list[Tensor]:
        """What this rank's optimizer updates."""
        return list(self.model.network.parameters())

    def clip(self, most: float) -> Tensor:
        """Shorten the gradient to the norm ``most``; returns the norm before."""
        return nn.utils.clip_grad_norm_(self.model.network.parameters(), most)

    def collect(self, step: int) -> None:
        """Make ``model.network`` and ``optimizer_tensors`` of rank 0 those after so many steps. All ranks
        together, between two steps."""

    def collected(self, step: int) -> bool:
        """Whether a checkpoint of this step can be written by rank 0 alone."""
        return True

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """As a single process would store them; on rank 0."""
        return self.optimizer.tensors()

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        """``model`` can be used, on rank 0."""
        yield


class DataParallel(Strategy):
    """Every rank has the whole network; gradients are averaged while the backward pass runs."""

    def begin(self, step: int) -> None:
        spread_state(self.ranks, self.model.network, self.optimizer, begun=step > 0)
        self._prepare(self.model.network)
        self.ddp = nn.parallel.DistributedDataParallel(
            self.module, forward_sync_buffers=False, gradient_as_bucket_view=True
        )
        self.module = self.ddp

    @contextlib.contextmanager
    def _synchronised(self, *, last: bool) -> Iterator[None]:
        with contextlib.nullcontext() if last else self.ddp.no_sync():
            yield


class FullySharded(Strategy):
    """Every rank has a part of the rows of every weight, with its gradient and optimizer state; a block's weights
    are put together for as long as it runs, in bfloat16 where training is, and the gradients are added up in
    float32.

    Rank 0 has the whole network beside, in the host's memory, for evaluations and checkpoints."""

    def begin(self, step: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

        device = torch.device(self.config.runtime.device).type
        spread_state(self.ranks, self.model.network, self.optimizer, begun=step > 0)
        own = copy.copy(self.model)
        if self.ranks.leads:
            own.network = copy.deepcopy(self.model.network)
        self._prepare(own.network)
        numbers = {id(p): i for i, p in enumerate(self.model.network.parameters())}
        order = [numbers[id(p)] for group in self.optimizer.param_groups for p in group["params"]]
        self.mesh = init_device_mesh(device, (self.ranks.world,))
        low = self.config.runtime.dtype == "bfloat16"
        policy = MixedPrecisionPolicy(
            param_dtype=torch.bfloat16 if low else None, reduce_dtype=torch.float32, cast_forward_inputs=False
        )
        self.module = Objective(own)
        for block in blocks_of(own.network):
            fully_shard(block, mesh=self.mesh, mp_policy=policy)
        fully_shard(self.module, mesh=self.mesh)
        self.sharded: list[Any] = list(own.network.parameters())  # DTensors
        self.parts = [p.to_local().detach() for p in self.sharded]
        self.order = order
        """Of the optimizer's parameters among the network's."""
        self._collected: dict[str, Tensor] = self.optimizer.tensors()
        self._collected_step = step
        self._hand_over(self._collected)
        if not self.ranks.leads:
            self._collected = {}

    def _hand_over(self, tensors: dict[str, Tensor]) -> None:
        """Let the optimizer work on this rank's parts, with its parts of the state."""
        left = iter(self.order)
        for group in self.optimizer.param_groups:
            group["params"] = [self.parts[next(left)] for _ in group["params"]]
        self.optimizer.load({key: self._part_of(key, value) for key, value in tensors.items()})

    def _part_of(self, key: str, value: Tensor) -> Tensor:
        number, name = key.split(".", 1)
        if name == "step":
            return value
        part = self.parts[self.order[int(number)]]
        rows = -(-value.shape[0] // self.ranks.world)
        first = min(rows * self.ranks.place.rank, value.shape[0])
        return value[first : first + len(part)].to(part.device).clone()

    def gradients(self, tokens: Int[Tensor, "b t"], rng: torch.Generator) -> Tensor:
        loss = super().gradients(tokens, rng)
        for part, whole in zip(self.parts, self.sharded, strict=True):
            part.grad = None if whole.grad is None else whole.grad.to_local()
        return loss

    def weights(self) -> list[Tensor]:
        return self.parts

    def clip(self, most: float) -> Tensor:
        gradients = [part.grad for part in self.parts if part.grad is not None]
        square = torch.stack(torch._foreach_norm(gradients)).double().square().sum()
        norm = torch.tensor(self.ranks.agree(float(square))[0]).sqrt()
        torch._foreach_mul_(gradients, min(1.0, most / (float(norm) + 1e-6)))
        return norm

    @torch.no_grad()
    def collect(self, step: int) -> None:
        if self._collected_step == step:
            return
        with self.ranks.together():
            self._collect(step)

    def _collect(self, step: int) -> None:
        kept = {}
        for whole, plain in zip(self.sharded, self.model.network.parameters(), strict=True):
            full = whole.full_tensor()
            if self.ranks.leads:
                plain.copy_(full)
        for key, value in self.optimizer.tensors().items():
            number, name = key.split(".", 1)
            full = value if name == "step" else self._put_together(value, self.sharded[self.order[int(number)]])
            if self.ranks.leads:
                kept[key] = full.cpu()
        self._collected, self._collected_step = kept, step

    def _put_together(self, part: Tensor, like: Any) -> Tensor:
        from torch.distributed.tensor import DTensor

        whole = DTensor.from_local(
            part, self.mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
        )
        return whole.full_tensor()

    def collected(self, step: int) -> bool:
        return self._collected_step == step

    def optimizer_tensors(self) -> dict[str, Tensor]:
        return self._collected

    @contextlib.contextmanager
    def evaluating(self) -> Iterator[None]:
        network = self.model.network
        home = next(network.parameters()).device
        network.to(self.config.runtime.device)
        try:
            yield
        finally:
            network.to(home)


STRATEGIES: dict[str, type[Strategy]] = {"ddp": DataParallel, "fsdp": FullySharded}
"""``runtime.strategy`` of several ranks."""


def build_strategy(model: LanguageModel, config: RunConfig, ranks: Ranks) -> Strategy:
    kind = STRATEGIES[config.runtime.strategy] if ranks.world > 1 else Strategy
    return kind(model, config, ranks)


@torch.no_grad()
def spread_state(ranks: Ranks, network: nn.Module, optimizer: Optimizer, *, begun: bool) -> None:
    """Rank 0's weights and, where training has ``begun``, optimizer state on all ranks."""
    for tensor in network.state_dict().values():
        ranks.spread(tensor)
    if not begun:
        return
    params = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = {}
    for number, (p, entry) in enumerate(zip(params, optimizer.state, strict=True)):
        for name in optimizer.names_of(number):
            value = entry[name] if ranks.leads else torch.zeros(() if name == "step" else p.shape)
            tensors[f"{number}.{name}"] = ranks.spread(value.to(p.device).contiguous())
    if not ranks.leads:
        optimizer.load(tensors)
