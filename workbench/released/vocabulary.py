"""The tokenizer of released weights: found, and which of its special tokens take our two reserved ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import files
from workbench.errors import DataError
from workbench.given_files import read_text
from workbench.pretrained_tokenizer import FILE, put_before, special_tokens
from workbench.released.settings import TOKENIZER_SIZE
from workbench.tokenizer import END_ID, NUM_RESERVED, PAD_ID, byte_of_letter

TOKENIZER = FILE


def find_tokenizer(given: Path | None, folders: Sequence[Path]) -> Path:
    """``tokenizer.json``: as given (the file or a folder with it), otherwise in one of the folders.

    Raises DataError where there is none."""
    places = [given] if given is not None else list(folders)
    for place in places:
        path = place / TOKENIZER if place.is_dir() else place
        if path.is_file():
            return path
    if given is not None:
        raise DataError(f"there is no tokenizer at {given}; wanted is a {TOKENIZER}, or a folder with one")
    raise DataError(
        f"no {TOKENIZER} in {' or '.join(map(str, folders))}; give the model's own (Llama-3's for the released "
        "weights) with --tokenizer"
    )


def tokenizer_section(path: Path, language_model: Mapping[str, Any]) -> dict[str, Any]:
    """``data.tokenizer`` of the run. Raises DataError where the vocabulary is of another size than the model's, or
    has no special tokens that could take the reserved ids.

    Between documents stands what the tokenizer puts before each one of them, for so the released models were
    trained; where it puts nothing, the model's eos_token_id. Dropped tokens: the model's pad_token_id where that
    is a special token, otherwise the last special token."""
    bpe = _read(path)
    vocab, size = language_model["vocab_size"], bpe.get_vocab_size(with_added_tokens=True)
    wanted = language_model.get(TOKENIZER_SIZE, vocab)
    if size != wanted or size > vocab:
        raise DataError(
            f"{path} has {size:,} ids, the language model's vocabulary has {wanted:,}: it is another tokenizer; "
            "give the model's own with --tokenizer"
        )
    special = special_tokens(bpe)
    ends = [*put_before(bpe), *_ids(language_model.get("eos_token_id"))]
    end = next((token for token in ends if token in special), None)
    pads = [*_ids(language_model.get("pad_token_id")), *sorted(special, reverse=True)]
    pad = next((token for token in pads if token in special and token != end), None)
    if end is None or pad is None:
        raise DataError(
            f"{path} has {len(special)} special tokens; one is needed that stands between documents (put before "
            "each by the tokenizer, or eos_token_id of the model's config.json) and another that no text holds"
        )
    section = {"kind": "pretrained", "vocab_size": vocab, "end_id": end, "pad_id": pad}
    return {**section, "name": str(path.resolve()), "sha256": files.sha256(path)}


def of_bytes() -> str:
    """The ``tokenizer.json`` that has the ids of ``ByteTokenizer``: 0 for dropped tokens, 1 between documents,
    b + 2 for byte b."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    letters = {letter: byte + NUM_RESERVED for letter, byte in byte_of_letter().items()}
    names = {"<|pad|>": PAD_ID, "<|end|>": END_ID}
    made = Tokenizer(models.BPE(vocab=names | letters, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens([AddedToken(name, special=True) for name in names])
    return str(made.to_str(pretty=True))


def num_ids(path: Path) -> int:
    """Of a tokenizer.json, special ones included. Raises DataError."""
    return int(_read(path).get_vocab_size(with_added_tokens=True))


def _read(path: Path) -> Any:
    import tokenizers

    try:
        return tokenizers.Tokenizer.from_str(read_text(path))
    except Exception as error:  # the library has no narrower one
        raise DataError(f"{path} is no tokenizer.json of the tokenizers library: {error}") from None


def _ids(found: object) -> list[int]:
    """Of a key that holds one id, several or none."""
    return [token for token in (found if isinstance(found, list) else [found]) if type(token) is int]
