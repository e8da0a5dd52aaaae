"""The token baseline: the same backbone, one token a position, untied output layer, cross-entropy
(METHOD section 4).

Letters: B sequences, T tokens, D width, V vocabulary, n positions, R branches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.backbone import Backbone, Branches, KVCache
from workbench.config import BaselineConfig
from workbench.finite import require_finite
from workbench.language_model import (
    DistributionBranches,
    DistributionContext,
    DistributionModel,
    LanguageModel,
    count_parameters,
    gather_positions,
)
from workbench.layers import generator, initialise, mark_outermost


class BaselineNetwork(nn.Module):
    """Embedding, backbone, output layer. ``config`` must be resolved."""

    def __init__(self, config: BaselineConfig, *, vocab_size: int, seed: int) -> None:
        super().__init__()
        assert config.init is not None, "resolve the configuration first"
        self.config = config
        self.embedding = nn.Embedding(vocab_size, config.backbone.width)
        self.backbone = Backbone(config.backbone)
        self.output = nn.Linear(config.backbone.width, vocab_size, bias=False)
        mark_outermost(self.output)
        initialise(self, config.init, rng=generator(seed, "init"))

    def forward(self, tokens: Int[Tensor, "b t"], cache: KVCache | None = None) -> Float[Tensor, "b t d"]:
        """Hidden states; state i is for the prediction of token i + 1."""
        out: Tensor = self.backbone(self.embedding(tokens), cache)
        return out

    def log_probs(self, hidden: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch v"]:
        """Raises NotFiniteError where logits are no numbers."""
        logits: Tensor = self.output(hidden)
        found = logits.float().log_softmax(-1)
        require_finite("the log probabilities", found[..., 0])  # a logit that is none makes its whole row so
        return found


class TokenBaseline(LanguageModel, DistributionModel):
    network: BaselineNetwork

    def __init__(self, network: BaselineNetwork) -> None:
        self.network = network
        self.chunk_size = 1
        self.row_elements = 3 * network.output.out_features  # logits, log probabilities, squares

    def training_loss(self, tokens: Int[Tensor, "b t"], *, rng: torch.Generator) -> Float[Tensor, " n"]:
        """Cross-entropy in nats of each of the B * (T - 1) predicted tokens."""
        hidden = self.network(tokens[:, :-1])
        logits = self.network.output(hidden).float().flatten(0, 1)
        return F.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="none")

    @torch.no_grad()
    def read(self, windows: Int[Tensor, "b t"]) -> BaselineContext:
        return BaselineContext(self.network, windows)

    def parameter_groups(self) -> dict[str, int]:
        network = self.network
        groups = {name: count_parameters(part) for name, part in network.named_children()}
        return {**groups, "total": count_parameters(network)}


class BaselineContext(DistributionContext):
    def __init__(self, network: BaselineNetwork, windows: Tensor) -> None:
        self.network = network
        self.cache = KVCache(capacity=windows.shape[1])
        self.hidden = require_finite("the hidden states", network(windows, self.cache))

    @torch.no_grad()
    def log_probs(self, index: Tensor) -> Tensor:
        return self.network.log_probs(gather_positions(self.hidden, index))

    def branch(self, index: Tensor) -> BaselineBranches:
        return BaselineBranches(self.network, Branches(self.cache, index))


class BaselineBranches(DistributionBranches):
    def __init__(self, network: BaselineNetwork, branches: Branches) -> None:
        self.network = network
        self.branches = branches
        self.hidden: Tensor | None = None

    @torch.no_grad()
    def extend(self, tokens: Tensor) -> None:
        self.hidden = self.network.backbone.branch(self.network.embedding(tokens), self.branches)

    @torch.no_grad()
    def log_probs(self) -> Tensor:
        assert self.hidden is not None, "extend the branches first"
        return self.network.log_probs(self.hidden)
