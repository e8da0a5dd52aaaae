"""Blocks that are computed again in the backward pass, or compiled."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.suites.compiling import plain_kernels
from tests.suites.small import build_baseline, build_calm, rng, small_config, tokens
from workbench.blocks import blocks_of, prepare_blocks
from workbench.config import RunConfig
from workbench.language_model import LanguageModel
from workbench.optim import autocast

CONFIGS = {
    "energy": small_config(),
    "flow": small_config(head={"kind": "flow"}),
    "baseline": small_config(baseline=True),
}


def build(config: RunConfig) -> LanguageModel:
    return build_calm(config) if config.is_calm else build_baseline(config)


def gradients(model: LanguageModel, dtype: str) -> list[Tensor]:
    with autocast("cpu", dtype):
        loss = model.training_loss(tokens(2, 32), rng=rng(1)).mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.network.parameters() if p.grad is not None)]


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_recomputed_gradients_are_the_same_bits(name: str, dtype: str) -> None:
    plain, recomputed = build(CONFIGS[name]), build(CONFIGS[name])
    prepare_blocks(recomputed.network, compiled=False, recomputed=True)
    assert list(plain.network.state_dict()) == list(recomputed.network.state_dict())
    wanted, found = gradients(plain, dtype), gradients(recomputed, dtype)
    assert len(found) == len(wanted) > 5
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


def test_fewer_activations_are_kept() -> None:
    sizes = {}
    for recomputed in (False, True):
        model = build(small_config(backbone={"num_layers": 4}))
        prepare_blocks(model.network, compiled=False, recomputed=recomputed)
        kept: dict[int, int] = {}

        def keep(x: Tensor, kept: dict[int, int] = kept) -> Tensor:
            kept[x.data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
            model.training_loss(tokens(8, 32), rng=rng(1)).mean()
        sizes[recomputed] = sum(kept.values())
    assert sizes[True] < 0.5 * sizes[False]


def test_a_random_block_draws_the_same_twice() -> None:
    model = build(small_config())
    block = blocks_of(model.network)[0]
    plain, seen = block.forward, []

    def dropping(*arguments: Any) -> Tensor:
        mask = torch.rand(3)
        seen.append(mask)
        out: Tensor = plain(*arguments) * mask.mean()
        return out

    block.forward = dropping  # type: ignore[method-assign]
    prepare_blocks(model.network, compiled=False, recomputed=True)
    gradients(model, "float32")
    assert len(seen) == 2
    assert torch.equal(seen[0], seen[1])


def compiling_raises(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        def run(*_: Any) -> Any:
            raise error

        return run

    monkeypatch.setattr(torch, "compile", refuse)


def inductor_error(cause: Exception) -> Exception:
    """As Inductor wraps what it meets."""
    from torch._inductor.exc import InductorError

    return InductorError(cause, None)


def no_compiler() -> Exception:
    from torch._inductor.exc import InvalidCxxCompiler

    return InvalidCxxCompiler()


def unsupported() -> Exception:
    from torch._dynamo.exc import Unsupported

    return Unsupported("a graph break")


REFUSALS: dict[str, Callable[[], Exception]] = {
    "no compiler": no_compiler,
    "no compiler, wrapped": lambda: inductor_error(no_compiler()),
    "not compilable": unsupported,
}
OTHERS: dict[str, Callable[[], Exception]] = {
    "device memory": lambda: torch.OutOfMemoryError("CUDA out of memory"),
    "device memory, wrapped": lambda: inductor_error(torch.OutOfMemoryError("CUDA out of memory")),
    "host memory": lambda: MemoryError("host"),
    "another rank": lambda: RuntimeError("Connection closed by peer"),
}


@pytest.mark.parametrize("kind", REFUSALS)
def test_without_a_compiler_it_trains_as_it_is(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    error = REFUSALS[kind]()
    compiling_raises(monkeypatch, error)
    plain, other = build(CONFIGS["energy"]), build(CONFIGS["energy"])
    prepare_blocks(other.network, compiled=True, recomputed=False)
    with caplog.at_level(logging.WARNING):
        found = gradients(other, "float32")
    assert all(torch.equal(a, b) for a, b in zip(found, gradients(plain, "float32"), strict=True))
    (record,) = caplog.records
    assert "runtime.compile has no effect" in record.getMessage()
    assert str(error).splitlines()[0] in record.getMessage()


@pytest.mark.parametrize("kind", OTHERS)
def test_other_errors_of_a_compiled_block_are_not_taken_for_a_missing_compiler(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    error = OTHERS[kind]()
    compiling_raises(monkeypatch, error)
    model = build(CONFIGS["energy"])
    prepare_blocks(model.network, compiled=True, recomputed=False)
    with caplog.at_level(logging.WARNING), pytest.raises(type(error)) as found:
        gradients(model, "float32")
    assert found.value is error
    assert caplog.records == []


COMPARED = """
import torch
from tests.unit.workbench.test_blocks import build, gradients
from tests.suites.small import small_config
from workbench.blocks import prepare_blocks
config = small_config(baseline=True, backbone={"num_layers": 1})
plain, other = build(config), build(config)
prepare_blocks(other.network, compiled=True, recomputed=False)
torch.testing.assert_close(gradients(other, "float32"), gradients(plain, "float32"), rtol=1e-4, atol=1e-5)
from torch._dynamo.utils import counters
assert counters["stats"]["unique_graphs"] == 1, counters

import torch._inductor.config
from workbench.blocks import Compiler
torch._inductor.config.cpp.cxx = (None, "/nowhere/c++")  # a machine without a compiler
torch._inductor.config.force_disable_caches = True
compiler = Compiler()
found = compiler.compile(lambda x: torch.sin(x) + 1)(torch.zeros(3))
assert compiler.failed and found.tolist() == [1, 1, 1]
"""


@pytest.mark.slow
def test_compiled_blocks_give_the_same_to_rounding(tmp_path: Path) -> None:
    """In a process without the checks of shapes, which cannot be compiled. Then what torch itself raises without a
    compiler."""
    known = {**os.environ, **plain_kernels(tmp_path)}
    done = subprocess.run([sys.executable, "-c", COMPARED], env=known, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("runtime.compile has no effect") == 1, done.stderr
    assert "No working C++ compiler found" in done.stderr
