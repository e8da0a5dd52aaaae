"""Posteriors of the distinct chunks of a text, encoded once.

The frozen autoencoder's posterior of a chunk never changes, and a text has far fewer distinct chunks than
chunks where the vocabulary is small (bytes, K = 4: 86 thousand of 4.2 million offsets of ``shakespeare``). The
table of all of them, whatever the alignment, is made once for an autoencoder, shared by every run that trains on
it, and takes the encoder out of the training step. Tables lie in ``HOME/.cache/posteriors`` (44 MB for L = 64
there) and may be deleted at any time.

Letters: K chunk size, V vocabulary size, L latent dimension, U distinct chunks.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor

from workbench.autoencoder import Autoencoder
from workbench.cache import cached
from workbench.errors import ConfigError
from workbench.posterior import Posterior
from workbench.tensor_files import read_tensors, unreadable, write_tensors

_TABLE = "table.safetensors"
LARGEST_BYTES = 2**31
_COUNTED_AT_ONCE = 2**22
_ENCODED_AT_ONCE = 8192
_FORMAT = 1


class PosteriorTable:
    """``codes`` (U,) ascending int64, ``mean`` and ``log_std`` (U, L) in float32."""

    def __init__(self, codes: Tensor, mean: Tensor, log_std: Tensor, *, chunk_size: int, vocab_size: int) -> None:
        self.codes, self.mean, self.log_std = codes, mean, log_std
        self._places = vocab_size ** torch.arange(chunk_size, device=codes.device)

    def __len__(self) -> int:
        return len(self.codes)

    def __call__(self, chunks: Int[Tensor, "*batch k"]) -> Posterior:
        """Posterior of every chunk, (..., L). Raises KeyError for a chunk that the text does not have."""
        code = (chunks * self._places).sum(-1)
        row = torch.searchsorted(self.codes, code).clamp_max(len(self) - 1)
        if not torch.equal(self.codes[row], code):
            raise KeyError("a chunk is not in the table of the training text's chunks")
        return Posterior(self.mean[row], self.log_std[row])


def cached_table(
    autoencoder: Autoencoder, tokens: npt.NDArray[np.integer[Any]], cache_dir: Path
) -> PosteriorTable:
    """The table of all chunks in ``tokens``, from the cache or made and put there; processes that ask at the
    same time make it once. Raises ConfigError where it would not fit."""
    folder = cache_dir / "posteriors" / _key(autoencoder, tokens)

    def build(temporary: Path) -> None:
        most = LARGEST_BYTES // (8 * autoencoder.config.latent_dim)
        codes = distinct_codes(tokens, autoencoder.chunk_size, autoencoder.vocab_size, most=most)
        table = build_table(autoencoder, codes)
        write_tensors(
            temporary / _TABLE,
            {"codes": table.codes.cpu(), "mean": table.mean.cpu(), "log_std": table.log_std.cpu()},
        )

    return cached(folder, build, lambda made: _load(made / _TABLE, autoencoder))


def _load(path: Path, autoencoder: Autoencoder) -> PosteriorTable:
    """Raises RunError where the file is no table of this autoencoder's."""
    found = read_tensors(path, what="table of posteriors", mapped=True)
    rows = len(found["codes"]) if "codes" in found else 0
    latents = ((rows, autoencoder.config.latent_dim), torch.float32)
    wanted = {"codes": ((rows,), torch.int64), "mean": latents, "log_std": latents}
    if {name: (tuple(value.shape), value.dtype) for name, value in found.items()} != wanted:
        raise unreadable(path, "table of posteriors", "names, shapes or types are not a table's")
    device = next(autoencoder.parameters()).device
    codes, mean, log_std = (found[name].to(device) for name in ("codes", "mean", "log_std"))
    return PosteriorTable(
        codes, mean, log_std, chunk_size=autoencoder.chunk_size, vocab_size=autoencoder.vocab_size
    )


def distinct_codes(
    tokens: npt.NDArray[np.integer[Any]], chunk_size: int, vocab_size: int, *, most: int | None = None
) -> npt.NDArray[np.int64]:
    """Every chunk that starts at any offset, as sum_i token_i V^i, each once, ascending; the text is gone through
    in pieces.

    Raises ConfigError where such a number does not fit 63 bits, or where there are more than ``most``."""
    if vocab_size**chunk_size >= 2**63:
        raise ConfigError(
            f"train.cache_targets: chunks of {chunk_size} tokens of {vocab_size} cannot be numbered in 63 bits; "
            "set it to false"
        )
    distinct = np.zeros(0, dtype=np.int64)
    num = len(tokens) - chunk_size + 1
    for start in range(0, num, _COUNTED_AT_ONCE):
        end = min(num, start + _COUNTED_AT_ONCE)
        codes = np.zeros(end - start, dtype=np.int64)
        for i in range(chunk_size):
            codes += tokens[start + i : end + i].astype(np.int64) * vocab_size**i
        distinct = np.union1d(distinct, codes)
        if most is not None and len(distinct) > most:
            raise ConfigError(
                f"train.cache_targets: the text has more than {most:,} distinct chunks, the most whose posteriors "
                f"fit into {LARGEST_BYTES / 2**30:.0f} GB; set it to false"
            )
    return distinct


@torch.no_grad()
def build_table(autoencoder: Autoencoder, codes: npt.NDArray[np.int64]) -> PosteriorTable:
    """Encode the chunks in float32."""
    k, vocab = autoencoder.chunk_size, autoencoder.vocab_size
    numbers = torch.from_numpy(codes).to(next(autoencoder.parameters()).device)
    places = vocab ** torch.arange(k, device=numbers.device)
    parts = [autoencoder.encode(part[:, None] // places % vocab) for part in numbers.split(_ENCODED_AT_ONCE)]
    mean = torch.cat([part.mean for part in parts])
    log_std = torch.cat([part.log_std for part in parts])
    return PosteriorTable(numbers, mean, log_std, chunk_size=k, vocab_size=vocab)


def _key(autoencoder: Autoencoder, tokens: npt.NDArray[np.integer[Any]]) -> str:
    """Of the weights and the text (the weights of a run's own folder need not be those of the cache), and of what
    decides about the last bits of a product."""
    device = next(autoencoder.parameters()).device.type
    parts = (_FORMAT, autoencoder.chunk_size, tokens.dtype, device, torch.get_num_threads(), torch.__version__)
    digest = hashlib.sha256(repr(parts).encode())
    for name, tensor in sorted(autoencoder.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    for start in range(0, len(tokens), _COUNTED_AT_ONCE):
        digest.update(tokens[start : start + _COUNTED_AT_ONCE].tobytes())
    return digest.hexdigest()[:16]
