from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.suites.released_weights import BEGIN, END, LANGUAGE_MODEL, PAD, tokenizer_json
from workbench.errors import DataError
from workbench.released.vocabulary import TOKENIZER, find_tokenizer, tokenizer_section


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / TOKENIZER).write_text(tokenizer_json(), encoding="utf-8")
    return tmp_path / TOKENIZER


@pytest.mark.parametrize(
    ("keys", "end", "pad"),
    [
        ({}, BEGIN, PAD),
        ({"pad_token_id": None}, BEGIN, PAD),
        ({"pad_token_id": END}, BEGIN, END),
        ({"pad_token_id": 0}, BEGIN, PAD),  # an ordinary token, "!" of Llama-3: it occurs in text
        ({"pad_token_id": BEGIN}, BEGIN, PAD),
        ({"pad_token_id": [END], "eos_token_id": [END, PAD]}, BEGIN, END),
    ],
)
def test_which_tokens_take_the_reserved_ids(path: Path, keys: dict[str, Any], end: int, pad: int) -> None:
    section = tokenizer_section(path, LANGUAGE_MODEL | keys)
    assert (section["end_id"], section["pad_id"]) == (end, pad)


def test_where_nothing_is_put_before_a_text(path: Path) -> None:
    from tokenizers import Tokenizer, processors

    plain = Tokenizer.from_str(tokenizer_json())
    plain.post_processor = processors.ByteLevel()
    path.write_text(plain.to_str(), encoding="utf-8")
    assert tokenizer_section(path, LANGUAGE_MODEL)["end_id"] == END
    with pytest.raises(DataError, match="one is needed that stands between documents"):
        tokenizer_section(path, LANGUAGE_MODEL | {"eos_token_id": None})


def test_where_it_is_looked_for(path: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert (
        find_tokenizer(path, ()) == find_tokenizer(tmp_path, ()) == find_tokenizer(None, (empty, tmp_path)) == path
    )
    with pytest.raises(DataError, match=r"there is no tokenizer at .*empty; wanted is a tokenizer.json"):
        find_tokenizer(empty, (tmp_path,))
    with pytest.raises(DataError, match=r"no tokenizer.json in .*empty; give the model's own .* with --tokenizer"):
        find_tokenizer(None, (empty,))
