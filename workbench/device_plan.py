"""What a training takes on devices that are not here: memory by part and time, from the configuration alone.

*State* (exact, tested against a real model and its optimizer): weights, gradients and AdamW's two moments in
float32, and a CALM's frozen autoencoder. ``fsdp`` shares the trained part evenly out over the devices; ``single``
and ``ddp`` hold all of it everywhere.

*Activations* (an estimate, tested against the live bytes of a step of small models, within 10 %): what a
micro-batch (``runtime.micro_batch``) keeps for the backward pass, the gradients of the largest tensors, and in
bfloat16 a copy of all matrices. It is for the workbench's own heads and the token baseline. With checkpointing a
block keeps its input and one block at a time is done again. Left out: the allocator's waste, buffers of
communication but for DDP's and FSDP's own, what an evaluation computes.

*Time*: executed FLOPs over ``devices * flops * utilisation``; evaluation and the autoencoder's stage are apart,
and what checkpointing computes again is not counted.
"""

from __future__ import annotations

import math
import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from workbench import device_memory, flops
from workbench.config import RunConfig
from workbench.errors import ConfigError
from workbench.rank_place import require_fit
from workbench.schedule import plan

Strategy = Literal["single", "ddp", "fsdp"]
STRATEGIES: tuple[Strategy, ...] = ("single", "ddp", "fsdp")
LEAST_MEMORY = 1e6
"""Bytes; who gives fewer has left out the unit."""
_UNITS = {"": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12, "GIB": 2.0**30, "MIB": 2.0**20}


@dataclass(frozen=True)
class Devices:
    """What there is. Raises ConfigError."""

    count: int = 1
    memory: float | None = None
    """Bytes of one."""
    flops: float | None = None
    """A second, of one, at best."""
    utilisation: float = 0.4

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"--devices must be at least 1, {self.count} given")
        if not 0.0 < self.utilisation <= 1.0:
            raise ConfigError(
                f"--utilisation is a part of the device's best, over 0 to 1; {self.utilisation} given"
            )
        for name, given in (("--device-memory", self.memory), ("--device-flops", self.flops)):
            if given is not None and not (0.0 < given < math.inf):
                raise ConfigError(f"{name} must be above 0, {given} given")


@dataclass(frozen=True)
class Memory:
    """Bytes on one device."""

    strategy: Strategy
    checkpointing: bool
    configured: bool
    """This is what the configuration says."""
    sequences: int
    """Blocks of a step on one device."""
    at_once: int
    """Blocks of a micro-batch."""
    state: float
    copies: float
    """Of weights and gradients: in bfloat16, with fsdp what is gathered, with ddp the buckets."""
    per_sequence: float
    """Activations of one block of tokens."""
    beside: float
    """Of a micro-batch, whatever its size: noise of the whole batch, slices of the loss."""
    evaluating: float
    """On rank 0 in an evaluation, in place of ``copies`` and activations: with fsdp the whole network."""
    most_sequences: int | None
    """Blocks at once that fit; None where the device's memory is not known."""

    def total(self, at_once: int | None = None) -> float:
        """At the peak, with so many blocks at once; without a number, as configured."""
        blocks = self.at_once if at_once is None else at_once
        return self.state + max(self.copies + self.beside + blocks * self.per_sequence, self.evaluating)


@dataclass(frozen=True)
class AutoencoderPlan:
    """The autoencoder's stage."""

    devices: int
    """That train it."""
    chunks: int
    """Of a step on one device."""
    at_once: int
    memory: float
    """Bytes on one device."""
    most_chunks: int | None
    """At once that fit; None where the device's memory is not known."""
    seconds: float | None


@dataclass(frozen=True)
class DevicePlan:
    devices: Devices
    memory: tuple[Memory, ...]
    refused: dict[Strategy, str]
    """Strategies that cannot train it on so many devices, and why."""
    seconds: float | None
    """As configured; None where that is refused, or nothing is known of the devices' speed."""
    autoencoder: AutoencoderPlan | None
    """None for a token baseline."""

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "memory": [{**asdict(one), "total": one.total()} for one in self.memory]}


def parse_bytes(text: str) -> float:
    """``80GB``, ``79.2 GiB`` or a number of bytes. Raises ConfigError."""
    found = re.fullmatch(r"([0-9.]+(?:[eE][0-9]+)?)\s*([A-Za-z]*)", text.strip())
    try:
        assert found is not None
        given = float(found[1]) * _UNITS[found[2].upper()]
        assert not 0 < given < LEAST_MEMORY
    except (AssertionError, ValueError, KeyError):
        raise ConfigError(f"--device-memory wants bytes, such as 80GB or 40GiB; {text!r} given") from None
    return given


def for_devices(config: RunConfig) -> RunConfig:
    """With bfloat16 where the number type is open: what this machine's probes say is not about those devices."""
    low = {name: "bfloat16" for name in ("dtype", "autoencoder_dtype") if getattr(config.runtime, name) == "auto"}
    return config.model_copy(update={"runtime": config.runtime.model_copy(update=low)})


def device_plan(config: RunConfig, vocab: int, devices: Devices) -> DevicePlan:
    """``config`` must be resolved."""
    schedule = plan(config, vocab)
    strategies = STRATEGIES if devices.count > 1 else STRATEGIES[:1]
    refused = {of: why for of in strategies if (why := _refused(config, of, devices.count))}
    rows = [
        _memory(config, vocab, devices, of, again)
        for of in strategies
        if of not in refused
        for again in (False, True)
    ]
    return DevicePlan(
        devices=devices,
        memory=tuple(row for row in rows if row is not None),
        refused=refused,
        seconds=None
        if _configured(config, devices.count) in refused
        else _seconds(schedule.num_steps * schedule.flops_per_step, devices, devices.count),
        autoencoder=autoencoder_plan(config, vocab, devices) if config.is_calm else None,
    )


def _configured(config: RunConfig, count: int) -> Strategy:
    return config.runtime.strategy if count > 1 else "single"


def _refused(config: RunConfig, strategy: Strategy, count: int) -> str:
    """Why it cannot train on so many devices; "" where it can."""
    if strategy == "single":
        return ""
    runtime = config.runtime.model_copy(update={"strategy": strategy})
    try:
        require_fit(config.model_copy(update={"runtime": runtime}), count)
    except ConfigError as error:
        return str(error)
    return ""


def _seconds(work: float, devices: Devices, count: int) -> float | None:
    return work / (count * devices.flops * devices.utilisation) if devices.flops is not None else None


def _memory(config: RunConfig, vocab: int, devices: Devices, strategy: Strategy, again: bool) -> Memory | None:
    per_sequence = device_memory.activation_bytes(config, vocab, checkpointing=again)
    if per_sequence is None:
        return None
    sequences = config.batch_sequences // (1 if strategy == "single" else devices.count)
    at_once = min(config.runtime.micro_batch or sequences, sequences)
    shared = strategy == "fsdp"
    state = device_memory.state_bytes(config, vocab, share=devices.count if shared else 1)
    copies = (
        device_memory.gathered_bytes(config, vocab)
        if shared
        else device_memory.weight_copies(config, vocab, checkpointing=again)
    )
    if strategy == "ddp" and at_once < sequences:
        copies += device_memory.bucket_bytes(config, vocab)
    beside = device_memory.beside_bytes(config, at_once, checkpointing=again)
    most = None
    if devices.memory is not None:
        most = max(0, int((devices.memory - state - copies - beside) // per_sequence))
    return Memory(
        strategy=strategy,
        checkpointing=again,
        configured=(strategy, again)
        == (_configured(config, devices.count), config.runtime.checkpoint_activations),
        sequences=sequences,
        at_once=at_once,
        state=state,
        copies=copies,
        per_sequence=per_sequence,
        beside=beside,
        evaluating=device_memory.network_bytes(config, vocab) if shared else 0.0,
        most_sequences=most,
    )


def autoencoder_plan(
    config: RunConfig, vocab: int, devices: Devices, *, at_once: int | None = None
) -> AutoencoderPlan:
    """All devices share its batch. ``at_once``: chunks that one takes at a time; default: as configured."""
    count = devices.count
    chunks = -(-config.autoencoder.batch_chunks // count)
    at_once = min(at_once or config.runtime.micro_chunks or chunks, chunks)
    fixed = device_memory.autoencoder_state_bytes(config, vocab)
    each = device_memory.autoencoder_chunk_bytes(config, vocab)
    return AutoencoderPlan(
        devices=count,
        chunks=chunks,
        at_once=at_once,
        memory=fixed + at_once * each,
        most_chunks=None if devices.memory is None else max(0, int((devices.memory - fixed) // each)),
        seconds=_seconds(flops.autoencoder_train_flops(config, vocab), devices, count),
    )
