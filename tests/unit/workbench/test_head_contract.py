"""What a head from outside must do is tried before it is trained: one message names the head and the line."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.suites.own_head import write_head
from tests.suites.small import rng, small_config
from workbench import flops, own_heads
from workbench.config import CalmConfig
from workbench.errors import HeadError, RunError
from workbench.heads import build_head, contract
from workbench.model import CalmNetwork
from workbench.testing.two_modes import check_means, two_modes

LOSS = "        return (self.mean * hidden.mean(-1, True) - target.mean).square().sum(-1)\n"
SAMPLE = "        return self.mean.expand(num_samples, len(hidden), -1)\n"
LATENT = "torch.nn.Parameter(torch.zeros(latent_dim))"
BREACHES = [
    (LOSS, LOSS.replace(".sum(-1)", ".mean()"), "line 17): loss must return (n,), gave () for n = 2"),
    (LOSS, LOSS.replace(".sum(-1)", ""), "line 17): loss must return (n,), gave (2, 6) for n = 2"),
    (LOSS, LOSS.replace("sum(-1)", "sum(-1).squeeze()"), "line 17): loss must return (n,), gave () for n = 1"),
    (LOSS, LOSS.replace("sum(-1)", "sum(-1).double()"), "line 17): loss must return float32, gave float64"),
    (
        LOSS,
        LOSS.replace("sum(-1)", "sum(-1).detach()"),
        "line 17): loss must have a gradient, gave a tensor without",
    ),
    (LOSS, "        return 0.0\n", "line 17): loss must return a tensor (n,), gave float"),
    (
        LOSS,
        LOSS.replace("self.mean", "self.maen"),
        "line 18): AttributeError: 'ConstantHead' object has no attribute",
    ),
    (
        LOSS,
        LOSS.replace("self.mean", "self.mean[:-1]"),
        "line 18): RuntimeError: The size of tensor a (5) must match",
    ),
    ("target, *, rng)", "target)", "line 17): TypeError: ConstantHead.loss() got an unexpected keyword argument"),
    (
        SAMPLE,
        SAMPLE.replace("num_samples, ", ""),
        "line 19): sample must return (S, n, L), gave (2, 6) for S = 3, n =",
    ),
    (SAMPLE, SAMPLE.replace("-1)", "-1).mT"), "line 19): sample must return (S, n, L), gave (3, 6, 2) for"),
    (SAMPLE, SAMPLE.replace("-1)", "-1).bfloat16()"), "line 19): sample must return float32, gave bfloat16"),
    (SAMPLE, SAMPLE.replace("self.mean", "self.maen"), "line 20): AttributeError: 'ConstantHead' object has no"),
    (
        ", noise_scale=1.0",
        "",
        "line 19): TypeError: ConstantHead.sample() got an unexpected keyword argument 'noise_",
    ),
    ("hidden.mean(", "hidden.detach().mean(", "line 17): loss must have a gradient for hidden, gave none: the Tr"),
    ("hidden.mean(", "hidden.round().mean(", "line 17): loss must have a gradient for hidden, gave none: the Tr"),
    (LOSS, f"        target.mean.zero_()\n{LOSS}", "line 17): loss changes target.mean in place; change a copy"),
    (SAMPLE, f"        hidden.zero_()\n{SAMPLE}", "line 19): sample changes hidden in place; change a copy"),
    (LOSS, f"        torch.rand(1)\n{LOSS}", "line 17): loss draws from torch's own generator, so that equal"),
    (SAMPLE, f"        torch.rand(1)\n{SAMPLE}", "line 19): sample draws from torch's own generator, so that"),
    (
        LOSS,
        f"        self.late = torch.nn.Linear(1, 1)\n{LOSS}",
        "line 17): loss makes late.bias, late.weight, which no optimizer knows; make",
    ),
    (
        "torch.nn.Parameter(torch.zeros(latent_dim))",
        "torch.nn.parameter.UninitializedParameter()",
        "line 14): mean has no size before the head is used; give it one",
    ),
    (LATENT, f"{LATENT}; self.again = self.mean", "line 14): again and mean have memory in common, which a"),
    (
        LATENT,
        f"{LATENT}; self.register_buffer('part', self.mean.detach()[1:])",
        "line 14): mean and part have memory in common, which a checkpoint cannot hold",
    ),
    (
        "    section = Config",
        "    get_extra_state = lambda self: 3\n    section = Config",
        "line 15): _extra_state is no tensor, and a checkpoint holds nothing else",
    ),
    (LATENT, f"{LATENT}; self.config = {{}}", "line 14): config is dict, wanted is the section that __init__ was"),
    (LOSS, f"        raise SystemExit(0)\n{LOSS}", "line 18): SystemExit: 0"),
    (LATENT, f"{LATENT}; raise SystemExit", "line 16): SystemExit"),
    ("torch.zeros(latent", "torch.zeroes(latent", "line 16): AttributeError: module 'torch' has no attribute"),
]
"""A text of the head, what stands in its place, and what is said."""


@pytest.mark.parametrize(("old", "new", "said"), BREACHES)
def test_a_breach_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str) -> None:
    monkeypatch.setenv(own_heads.VARIABLE, str(write_head(tmp_path / "mine.py", (old, new))))
    with pytest.raises(HeadError, match=re.escape(f"the head 'constant' (mine.py, {said}")) as caught:
        flops.describe(small_config(head={"kind": "constant"}))
    assert isinstance(caught.value.__cause__, Exception) == ("Error: " in said), "the cause is kept"
    assert "\n" not in str(caught.value)


def test_one_that_does_not_keep_its_section_gets_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked for what only sampling needs, which is no matter of the head's own."""
    keeps = ("self.config, self.mean = config, ", "self.mean = ")
    monkeypatch.setenv(own_heads.VARIABLE, str(write_head(tmp_path / "mine.py", keeps)))
    section = own_heads.find("constant").section(spread=2.0)
    for head in (
        build_head(section, hidden_dim=4, latent_dim=3),
        contract.built(own_heads.find("constant").head, section, 4, 3),
    ):
        assert head.config is section
        assert head.with_sampling().config == section


@pytest.mark.slow
def test_values_need_not_be_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    infinite = ("torch.zeros(latent_dim)", "torch.full((latent_dim,), float('inf'))")
    monkeypatch.setenv(own_heads.VARIABLE, str(write_head(tmp_path / "mine.py", infinite)))
    assert flops.describe(small_config(head={"kind": "constant"}))["parameters"]["head"] == 6


OWN_COUNTS = """    section = Config
    @classmethod
    def counts(cls, config, width, latent_dim):
        return config.nothing
"""


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (LOSS, LOSS.replace(".sum(-1)", ".mean()"), "line 20): loss must return (n,), gave ()"),
        ("(num_samples", "( num_samples", "line 16): AttributeError: 'Config' object has no attribute 'nothing'"),
    ],
)
def test_one_that_counts_itself_is_tried_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, said: str
) -> None:
    path = write_head(tmp_path / "mine.py", ("    section = Config\n", OWN_COUNTS), (old, new))
    monkeypatch.setenv(own_heads.VARIABLE, str(path))
    with pytest.raises(HeadError, match=re.escape(f"the head 'constant' (mine.py, {said}")):
        flops.describe(small_config(head={"kind": "constant"}))


def test_muon_is_counted_at_the_heads_own_latent_dimension(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some heads cannot be built at any other."""
    even = ("        super()", "        assert latent_dim % 2 == 0\n        super()")
    monkeypatch.setenv(own_heads.VARIABLE, str(write_head(tmp_path / "mine.py", even)))
    config = small_config(head={"kind": "constant"})
    muon = config.model_copy(update={"optim": config.optim.model_copy(update={"kind": "muon"})})
    assert flops.describe(muon)["train_flops"] > flops.describe(config)["train_flops"]


@pytest.fixture
def before() -> torch.Tensor:
    torch.randn(3)
    return torch.get_rng_state()


def test_one_whose_config_cannot_be_set_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keeps = ("self.config, self.mean = config, ", "self.mean = ")
    fixed = ("    section = Config", "    config = property(lambda self: None)\n    section = Config")
    monkeypatch.setenv(own_heads.VARIABLE, str(write_head(tmp_path / "mine.py", keeps, fixed)))
    with pytest.raises(HeadError, match=r"the head 'constant' \(mine.py, line 15\): AttributeError: .*'config'"):
        build_head(own_heads.find("constant").section(), hidden_dim=4, latent_dim=3)


def test_trying_one_leaves_its_weights_and_torchs_own_generator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: torch.Tensor
) -> None:
    """Its mean is 0, so that only other weights show a gradient for the hidden states."""
    monkeypatch.setenv(
        own_heads.VARIABLE, str(write_head(tmp_path / "mine.py", (LATENT, f"{LATENT}; torch.rand(1)")))
    )
    head = contract.built(own_heads.find("constant").head, None, 4, 3)
    contract.require(head, 4, 3)
    assert not head.mean.any()
    assert torch.equal(torch.get_rng_state(), before)


def test_parts_of_one_memory_that_do_not_overlap_are_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    halves = f"{LATENT}; self.a, self.b = map(torch.nn.Parameter, torch.zeros(2, 3)); self.empty = self.a[:0]"
    monkeypatch.setenv(own_heads.VARIABLE, str(write_head(tmp_path / "mine.py", (LATENT, halves))))
    head = contract.built(own_heads.find("constant").head, None, 4, 3)
    assert len(safetensors.torch.save(head.state_dict())) > 36


@pytest.mark.parametrize(("used", "believed"), [("hidden", True), ("hidden.detach()", False)])
def test_one_that_fails_with_other_weights_is_believed_if_it_uses_the_hidden_states(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, used: str, believed: bool
) -> None:
    failing = LOSS.replace("hidden", used)
    path = write_head(tmp_path / "mine.py", (LOSS, f"        assert not self.mean.any()\n{failing}"))
    monkeypatch.setenv(own_heads.VARIABLE, str(path))
    head = own_heads.find("constant").head(None, hidden_dim=4, latent_dim=3)
    refused = pytest.raises(HeadError, match="a gradient for hidden, gave none")
    with contextlib.nullcontext() if believed else refused:
        contract.require(head, 4, 3)


def test_weights_that_a_head_draws_itself_are_those_of_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_head(tmp_path / "mine.py", ("torch.zeros(latent_dim)", "torch.randn(latent_dim)"))
    monkeypatch.setenv(own_heads.VARIABLE, str(path))
    model = small_config(head={"kind": "constant"}).resolved().model
    assert isinstance(model, CalmConfig)
    first, again, other = (
        CalmNetwork(model, vocab_size=9, latent_dim=6, seed=seed).head.mean for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


class TestFailureInWords:
    def test_an_error_of_other_code_and_one_that_the_user_can_mend_are_left(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(own_heads.VARIABLE, str(write_head(tmp_path / "mine.py")))
        for kind in ("constant", "energy", None):
            assert own_heads.failure_in_words(ValueError("no"), kind) == "ValueError: no"
        assert own_heads.failure_in_words(RunError("no"), "constant") == "RunError: no"

    def test_an_error_that_a_heads_code_led_to_names_its_line(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv(own_heads.VARIABLE, str(write_head(tmp_path / "mine.py")))
        head = own_heads.find("constant").head(None, hidden_dim=4, latent_dim=2)
        with pytest.raises(RuntimeError) as caught:
            head.sample(torch.zeros(3, 4), num_samples=-3, rng=rng())
        said = own_heads.failure_in_words(caught.value, "constant")
        assert said.startswith("the head 'constant' (mine.py, line 20): RuntimeError: ")

    def test_the_line_of_a_class_that_a_head_inherits_from_is_named_where_its_own_has_none(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write_head(tmp_path / "inherited_head.py")
        monkeypatch.syspath_prepend(tmp_path)
        inherits = (
            "from inherited_head import ConstantHead\nclass Mine(ConstantHead): pass\nHEADS = {'constant': Mine}\n"
        )
        (tmp_path / "mine.py").write_text(inherits, encoding="utf-8")
        monkeypatch.setenv(own_heads.VARIABLE, str(tmp_path / "mine.py"))
        head = own_heads.find("constant").head(None, hidden_dim=4, latent_dim=2)
        said = r"the head 'constant' \(inherited_head.py, line 20\): RuntimeError: "
        with pytest.raises(HeadError, match=said), own_heads.blaming("constant"):
            head.sample(torch.zeros(3, 4), num_samples=-3, rng=rng())

    def test_an_end_that_no_heads_code_led_to_is_left_whatever_is_offered(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        paths = [write_head(tmp_path / "mine.py"), write_head(tmp_path / "again.py"), tmp_path / "missing.py"]
        for offered in (paths[:1], paths[:2], paths):
            monkeypatch.setenv(own_heads.VARIABLE, os.pathsep.join(map(str, offered)))
            with contextlib.suppress(HeadError):
                own_heads.find("constant")
            assert own_heads.blame(SystemExit(0)) is None
        with pytest.raises(KeyboardInterrupt), own_heads.blaming("constant"):
            raise KeyboardInterrupt


@pytest.mark.parametrize("c", [1.0, -1.0])
def test_the_check_of_means_passes_the_truth_and_nothing_else(c: float) -> None:
    truth = two_modes(torch.full((4000,), c), rng(0)).sample(rng=rng(1))
    check_means(truth, c)
    check_means(truth.mean(0).expand(4000, 2), c)
    for wrong in (truth + 0.2, -truth, truth * 0.8):
        with pytest.raises(AssertionError, match=r"dimension is .*; .* wanted, within"):
            check_means(wrong, c)


@pytest.mark.parametrize("c", [1.0, -1.0])
def test_the_check_of_means_says_that_medians_are_medians(c: float) -> None:
    medians = two_modes(torch.full((4000,), c), rng(0)).sample(rng=rng(1)).median(0).values
    with pytest.raises(AssertionError, match=r"that is the median .* not right for one that finds medians, as"):
        check_means(medians.expand(4000, 2), c)
