"""What compiling in a process of its own costs least with."""

from __future__ import annotations

from pathlib import Path


def plain_kernels(cache: Path) -> dict[str, str]:
    """Environment of a process that compiles blocks. Kernels without vector instructions: to find out which of
    them the machine has, ten files are compiled, as many as for a block. ``cache``: of one test, shared by its
    processes, so that nothing of an earlier session is taken for compiled now; no pool of processes beside it."""
    return {
        "TORCHINDUCTOR_CACHE_DIR": str(cache),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "TORCHINDUCTOR_VEC_ISA_OK": "0",
    }
