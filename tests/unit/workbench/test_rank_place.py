"""Which rank a process is, which runs ranks can share, and what their exit codes come to."""

from __future__ import annotations

import signal

import pytest

from tests.suites.small import small_config
from workbench.config import RunConfig
from workbench.errors import ConfigError
from workbench.rank_place import EXIT_PEER_LOST, Place, _exit_code, find_place, require_fit

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
MASTER = {"MASTER_ADDR": "first", "MASTER_PORT": "29500"}
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "1"}


def test_places() -> None:
    assert find_place({}) is None
    assert find_place({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}) is None, "a batch script, not a step of srun"
    assert find_place({**TORCHRUN, **MASTER}) == Place(3, 4, 1, 2)
    assert find_place({**SLURM, **MASTER, "SLURM_STEP_TASKS_PER_NODE": "2(x3)"}) == Place(5, 6, 1, 2)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        (TORCHRUN, "MASTER_ADDR and MASTER_PORT of the environment is not set"),
        ({**TORCHRUN, **MASTER, "RANK": "x"}, "must hold whole numbers: RANK='x'"),
        ({**TORCHRUN, **MASTER, "RANK": "4"}, "rank 4 of 4"),
    ],
)
def test_what_cannot_be_a_place(environment: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        find_place(environment)


def with_runtime(config: RunConfig, **fields: object) -> RunConfig:
    return config.model_copy(update={"runtime": config.runtime.model_copy(update=fields)})


def test_which_runs_ranks_can_share() -> None:
    config = small_config()  # 3 sequences a step
    require_fit(config, 1)
    require_fit(config, 3)
    with pytest.raises(ConfigError, match=r"a step has 3 sequences .* 2 ranks cannot share equally; use 1 or 3"):
        require_fit(config, 2)
    with pytest.raises(ConfigError, match="cuda:0 is one device, and there are 3 ranks"):
        require_fit(with_runtime(config, device="cuda:0"), 3)
    muon = config.model_copy(update={"optim": config.optim.model_copy(update={"kind": "muon"})})
    require_fit(muon, 3)
    with pytest.raises(ConfigError, match="muon orthogonalises whole matrices"):
        require_fit(with_runtime(muon, strategy="fsdp"), 3)


def test_how_a_run_is_carried_out_does_not_make_it_another() -> None:
    config = small_config()
    how = {"micro_batch": 1, "micro_chunks": 5, "compile": True, "checkpoint_activations": True}
    other = with_runtime(config, strategy="fsdp", **how)
    assert other.hash() == config.hash() != with_runtime(config, threads=7).hash()
    assert other.to_dict()["runtime"]["strategy"] == "fsdp"


@pytest.mark.parametrize(
    ("codes", "wanted"),
    [
        ([0, 0], 0),
        ([130, 0], 130),
        ([-signal.SIGINT, -signal.SIGINT], 130),
        ([130, -signal.SIGTERM], 130),
        ([-signal.SIGINT, 1], 1),
        ([EXIT_PEER_LOST, 2], 2),
        ([130, 2], 2),
        ([1, EXIT_PEER_LOST], 1),
        ([EXIT_PEER_LOST, EXIT_PEER_LOST], 1),
        ([EXIT_PEER_LOST, -signal.SIGKILL], 1),
        ([0, None], 1),
    ],
)
def test_exit_codes(codes: list[int | None], wanted: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert _exit_code(codes) == wanted
    said = capsys.readouterr().err
    assert ("rank 1 was ended by SIGKILL (out of memory?)" in said) == (-signal.SIGKILL in codes)
    assert ("memory" in said) == (-signal.SIGKILL in codes)
