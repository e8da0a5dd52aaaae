"""Which of several processes of one training this is, and starting them on one machine. Imports no torch.

    calm train CONFIG --ranks 2                                     # started here, ``start``
    torchrun --nproc-per-node 2 -m workbench.cli train CONFIG       # or by torchrun, on one host or several
    srun calm train CONFIG                                          # or by SLURM, with MASTER_ADDR and MASTER_PORT

Ranks find each other through the environment variables that torchrun sets (RANK, WORLD_SIZE, LOCAL_RANK,
LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or those of a step of SLURM. torch's own launcher is not used for one
machine: it imports torch, ends with code 1 whatever happened, and prints a report of its own over the message.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FrameType

from workbench import interruption
from workbench.config import RunConfig
from workbench.errors import ConfigError

PARENT = "CALM_RANKS_PARENT"
"""Process number of the launcher: its ranks end when it does."""
LISTENER = "CALM_RANKS_LISTENER"
"""Number of rank 0's open socket, bound to the loopback address: there its store listens."""
EXIT_PEER_LOST = 75
"""Of a rank that ended because another did, which has said why, or is lost."""
PATIENCE_SECONDS = 12.0
"""After a rank has failed, what the others get to notice; and after a signal, to save and leave."""
_POLL_SECONDS = 0.1
_INTERRUPTED = (interruption.EXIT_INTERRUPTED, *(-number for number in interruption.SIGNALS))
"""Of a rank that was asked to leave; by its signal where that came while Python was ending."""
_TORCHRUN = "TORCHELASTIC_RUN_ID"
_LOOPBACK = "127.0.0.1"
_LOOPBACK_INTERFACES = {"linux": "lo", "darwin": "lo0"}


@dataclass(frozen=True)
class Place:
    """One rank among ``world``; on its machine ``local`` of ``local_world``."""

    rank: int
    world: int
    local: int
    local_world: int


def find_place(environment: Mapping[str, str] = os.environ) -> Place | None:
    """As the environment says; None for a process of its own. Raises ConfigError where that is incomplete or
    contradicts itself."""
    if "RANK" in environment and "WORLD_SIZE" in environment:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        defaults = {"LOCAL_RANK": environment["RANK"], "LOCAL_WORLD_SIZE": environment["WORLD_SIZE"]}
    elif int(environment.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        names = ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", "SLURM_STEP_TASKS_PER_NODE")
        defaults = {}
    else:
        return None
    found = {**defaults, **environment}
    missing = [name for name in (*names, "MASTER_ADDR", "MASTER_PORT") if name not in found]
    if missing:
        raise ConfigError(
            f"this is one of several ranks, but {' and '.join(missing)} of the environment is not set; start them "
            "with calm train --ranks N or torchrun, or export MASTER_ADDR (the first host) and MASTER_PORT (a "
            "free port there)"
        )
    try:  # "2(x3)": two tasks on each of three nodes
        rank, world, local, local_world = (int(found[name].partition("(")[0].split(",")[0]) for name in names)
    except ValueError:
        shown = ", ".join(f"{name}={found[name]!r}" for name in names)
        raise ConfigError(f"the environment of a rank must hold whole numbers: {shown}") from None
    if not 0 <= rank < world or not 0 <= local < local_world:
        raise ConfigError(
            f"rank {rank} of {world} (rank {local} of {local_world} on its host) does not exist; unset RANK and "
            "WORLD_SIZE, or start all ranks with calm train --ranks N or torchrun"
        )
    return Place(rank, world, local, local_world)


def require_fit(config: RunConfig, num_ranks: int) -> None:
    """Raises ConfigError where a run cannot be trained by so many ranks. ``config`` must be resolved."""
    sequences = config.batch_sequences
    if sequences % num_ranks:
        fit = [str(n) for n in range(1, sequences + 1) if sequences % n == 0]
        raise ConfigError(
            f"a step has {sequences} sequences (optim.batch_positions, train.block_len), which {num_ranks} ranks "
            f"cannot share equally; use {' or '.join(fit[-8:])} ranks, or another optim.batch_positions"
        )
    if num_ranks > 1 and config.runtime.device.startswith("cuda:"):
        raise ConfigError(
            f"runtime.device {config.runtime.device} is one device, and there are {num_ranks} ranks; give cuda: "
            "every rank takes its own"
        )
    if num_ranks > 1 and config.runtime.strategy == "fsdp" and config.optim.kind == "muon":
        raise ConfigError(
            "optim.kind muon orthogonalises whole matrices, of which every rank has some rows only with "
            "runtime.strategy fsdp; use runtime.strategy ddp, or optim.kind adamw"
        )


def forget_torchrun_threads() -> None:
    """torchrun says OMP_NUM_THREADS=1 where nobody says anything. Here ranks share the cores of their machine, and
    a run has as many threads as without ranks."""
    if _TORCHRUN in os.environ and os.environ.get("OMP_NUM_THREADS") == "1":
        del os.environ["OMP_NUM_THREADS"]


def start(arguments: Sequence[str], num_ranks: int) -> int:
    """Run ``calm ARGUMENTS`` as so many ranks on this machine until all have ended; returns the exit code: 0, or
    that of the first rank that failed by itself. Signals are passed on. Where one fails, the others end."""
    ranks: list[subprocess.Popen[bytes]] = []
    try:
        with _passing_on(ranks):
            with socket.create_server((_LOOPBACK, 0), backlog=num_ranks) as listener:
                for rank in range(num_ranks):
                    ranks.append(_start_rank(arguments, rank, num_ranks, listener))
            _wait(ranks)
        return _exit_code([process.returncode for process in ranks])
    finally:
        for process in ranks:
            if process.poll() is None:
                process.kill()
                process.wait()


def _start_rank(
    arguments: Sequence[str], rank: int, num_ranks: int, listener: socket.socket
) -> subprocess.Popen[bytes]:
    """Nothing of it listens beyond this machine: rank 0 has the ``listener``, gloo and NCCL the interface."""
    environment = {
        **os.environ,
        "RANK": str(rank),
        "WORLD_SIZE": str(num_ranks),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": _LOOPBACK,
        "MASTER_PORT": str(listener.getsockname()[1]),
        PARENT: str(os.getpid()),
    }
    interface = _LOOPBACK_INTERFACES.get(sys.platform)
    if interface is not None:
        environment |= {"GLOO_SOCKET_IFNAME": interface, "NCCL_SOCKET_IFNAME": f"={interface}"}
    inherited = []
    if rank == 0:
        inherited = [listener.fileno()]
        environment[LISTENER] = str(listener.fileno())
    command = [sys.executable, "-m", "workbench.cli", *arguments]
    return subprocess.Popen(command, env=environment, pass_fds=inherited)


@contextlib.contextmanager
def _passing_on(ranks: Sequence[subprocess.Popen[bytes]]) -> Iterator[None]:
    """A terminal signals the whole group; what a rank hears twice within moments it takes for one."""

    def pass_on(number: int, frame: FrameType | None) -> None:
        for process in ranks:
            if process.poll() is None:
                process.send_signal(number)

    previous = {number: signal.signal(number, pass_on) for number in interruption.heard()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _wait(ranks: Sequence[subprocess.Popen[bytes]]) -> None:
    """Until all have ended; of those that outlive a failed one by too long, the rest is ended."""
    failed_at: float | None = None
    asked = False
    while any(process.poll() is None for process in ranks):
        time.sleep(_POLL_SECONDS)
        if failed_at is None and any(process.poll() not in (None, 0) for process in ranks):
            failed_at = time.monotonic()
        if failed_at is None:
            continue
        waited = time.monotonic() - failed_at
        if waited > PATIENCE_SECONDS and not asked:
            asked = True
            for process in ranks:
                if process.poll() is None:
                    process.terminate()
        if waited > 2 * PATIENCE_SECONDS:
            return


def _exit_code(codes: Sequence[int | None]) -> int:
    """``codes``: of the ranks, None of those that do not end."""
    own = [code for code in codes if code not in (None, 0, EXIT_PEER_LOST)]
    if own and all(code in _INTERRUPTED for code in own):
        return interruption.EXIT_INTERRUPTED
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            guess = " (out of memory?)" if code == -signal.SIGKILL else ""
            print(
                f"calm: rank {rank} was ended by {signal.Signals(-code).name}{guess}; the same command continues "
                "from the last checkpoint",
                file=sys.stderr,
            )
    if not own:
        return 0 if set(codes) == {0} else 1
    return next((code for code in (2, 1) if code in own), max(own[0] or 1, 1))
