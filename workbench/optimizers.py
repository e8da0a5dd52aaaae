"""What training asks of an optimizer, and AdamW.

``torch.optim`` classes are not used: constructing one, its first step or ``zero_grad`` imports ``torch._dynamo``,
more than a second of every worker's start. The update itself is torch's fused kernel.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

State = dict[int, dict[str, Tensor]]
"""Number of a parameter to its tensors by name."""


class Optimizer(abc.ABC):
    """Updates parameters in place from their gradients."""

    param_groups: list[dict[str, Any]]
    """Each with ``params`` and ``lr``."""

    @abc.abstractmethod
    def step(self) -> None:
        """One update."""

    names: tuple[str, ...]
    """Of the tensors that a parameter's state has."""

    @property
    @abc.abstractmethod
    def state(self) -> list[dict[str, Tensor]]:
        """Of every parameter in the order of the groups, empty before its first update; may be filled in place."""

    def names_of(self, number: int) -> tuple[str, ...]:
        """Of the tensors in the state of a parameter."""
        return self.names

    def tensors(self) -> dict[str, Tensor]:
        """The state as ``number.name`` to tensor, for a checkpoint."""
        return {f"{i}.{name}": value for i, entry in enumerate(self.state) for name, value in entry.items()}

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Continue from ``tensors()``. Raises ValueError where they do not belong to these parameters."""
        params = [p for group in self.param_groups for p in group["params"]]
        found: State = {}
        for key, value in tensors.items():
            number, name = key.split(".", 1)
            found.setdefault(int(number), {})[name] = value
        if found and sorted(found) != list(range(len(params))):
            raise ValueError(f"state of {len(found)} parameters found, of {len(params)} wanted")
        for index, entry in found.items():
            if set(entry) != set(self.names_of(index)):
                wanted = sorted(self.names_of(index))
                raise ValueError(f"parameter {index} has {sorted(entry)}, wanted are {wanted}")
            for name, value in entry.items():
                shape = () if name == "step" else tuple(params[index].shape)
                if tuple(value.shape) != shape:
                    raise ValueError(
                        f"{name} of parameter {index} has shape {tuple(value.shape)}, wanted is {shape}"
                    )
                self.state[index][name] = self.place(name, value, params[index])

    def place(self, name: str, value: Tensor, parameter: Tensor) -> Tensor:
        """A loaded tensor where updates want it."""
        return value.to(parameter.device)


class AdamW(Optimizer):
    """``torch.optim.AdamW(fused=True)``. Groups have ``params``, ``lr``, ``betas`` and ``weight_decay``. A
    parameter without a gradient is left alone."""

    names = ("step", "exp_avg", "exp_avg_sq")

    def __init__(self, groups: Sequence[dict[str, Any]]) -> None:
        self.param_groups = list(groups)
        self._state: list[dict[str, Tensor]] = [{} for group in groups for _ in group["params"]]

    @property
    def state(self) -> list[dict[str, Tensor]]:
        return self._state

    @torch.no_grad()
    def step(self) -> None:
        numbers = iter(range(len(self._state)))
        for group in self.param_groups:
            pairs = [(p, self._state[next(numbers)]) for p in group["params"]]
            for p, entry in pairs:
                if not entry:  # without a gradient, too: a checkpoint must know of every parameter
                    entry["step"] = torch.zeros((), device=p.device)
                    entry["exp_avg"], entry["exp_avg_sq"] = torch.zeros_like(p), torch.zeros_like(p)
            pairs = [(p, entry) for p, entry in pairs if p.grad is not None]
            adamw(
                [p for p, _ in pairs],
                [p.grad for p, _ in pairs],
                [entry["exp_avg"] for _, entry in pairs],
                [entry["exp_avg_sq"] for _, entry in pairs],
                [],
                [entry["step"] for _, entry in pairs],
                fused=True,
                amsgrad=False,
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                lr=group["lr"],
                weight_decay=group["weight_decay"],
                eps=1e-8,
                maximize=False,
            )


class Together(Optimizer):
    """Several optimizers as one, in one numbering."""

    def __init__(self, parts: Sequence[Optimizer]) -> None:
        self.parts = parts
        self.param_groups = [group for part in parts for group in part.param_groups]

    def names_of(self, number: int) -> tuple[str, ...]:
        for part in self.parts:
            if number < len(part.state):
                return part.names
            number -= len(part.state)
        raise AssertionError("no such parameter")

    @property
    def state(self) -> list[dict[str, Tensor]]:
        return [entry for part in self.parts for entry in part.state]

    def step(self) -> None:
        for part in self.parts:
            part.step()
