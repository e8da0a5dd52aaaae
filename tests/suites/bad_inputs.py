"""Hypothesis strategies of what a user can get wrong: names, YAML, values, texts, tables, JSON.

Every name is also a probe: ``FOREIGN`` are elements that no page of ours holds, ``STYLES`` are marks that a
console would take for styles.
"""

from __future__ import annotations

import copy
import datetime
import json
from typing import Any

import yaml
from hypothesis import strategies as st

Tree = dict[str, Any]

FOREIGN = (
    "<img src=x onerror=alert(1)>",
    "<script>alert(1)</script>",
    "</title><svg onload=alert(1)>",
    "</script><iframe src=//x>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\"onmouseover='alert(1)'",
    "&lt;b&gt;&#x3c;",
    "]]>--><!--",
)
STYLES = ("[bold]b[/bold]", "[/]", "[/red]", "[link=x]y", "\\[x]", "[", ":smile:", "[@click=x]y[/]")
PATHS = (
    "../../escaped",
    "..",
    ".",
    "a/../../b",
    "/",
    "//",
    "~",
    "~root/x",
    "a\\b",
    "-rf",
    "--help",
    ".hidden",
    "con",
    "a//b",
    "single",
    "mlartifacts",
    ".cache",
    "a:b",
    "*",
    "?",
    "$HOME",
    "%s%n",
    "`id`",
    "$(id)",
    "a;b",
    "a|b",
    " ",
    "\t",
    "a\nb",
    "a\rb",
)
ODD = (
    "x" * 300,
    "🙂" * 100,
    "é" * 150,
    "🙂",
    "ｆｕｌｌ",
    "e\u0301",
    "\u202egnp.exe",
    "\u200b",
    "\x1b[31mred",
    "\x07",
    "\ufeffx",
    "\udcff",
    "ẞ",
    "\\textbf{x}",
    "100%_#&$^~{}",
    "=1+1",
    "@sum",
    "'\"",
    "None",
    "nan",
    "1e5",
    "true",
)

names = st.one_of(
    st.sampled_from([*FOREIGN, *STYLES, *PATHS, *ODD]),
    st.text(max_size=40).filter(lambda text: "\0" not in text),
    st.builds("".join, st.lists(st.sampled_from([*FOREIGN, *STYLES, *PATHS, "x", " "]), min_size=2, max_size=4)),
)
"""Names that fit into the arguments of a process (no NUL)."""

numbers: st.SearchStrategy[Any] = st.one_of(
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 0]),
    st.sampled_from(
        ["nan", "inf", "-inf", "1e400", "1e308", "-1e308", "5e-324", "-0.0", "0.5", "1e12", "1e-12", ""]
    ),
    st.sampled_from([1.0, 1e15, 1e16, 0.0, 2.0, 1e3, 7, 100, 4096]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from(["true", "1,5", "0x10", "1_0", "１", " 1 ", "1e", "½"]),
)
"""For options that want one."""
scalars: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 5),
    st.sampled_from([2**31, 2**63, 2**64, -(2**63), 10**30, 10**400, 10**4000]),
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([1e308, -1e308, 5e-324, -0.0, 0.5, 1e12]),
    st.text(max_size=12),
    names,
    st.sampled_from(["\0", "a\0b", "text:\0", "\ud800"]),
    st.dates(),
    st.sampled_from([datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)]),
    st.binary(max_size=8),
)
values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.one_of(st.text(max_size=8), names), inner, max_size=3)
    ),
    max_leaves=6,
)
"""Anything that YAML can hold, most of it wrong wherever it stands."""
json_values: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-3, 5),
        st.sampled_from([2**63, 10**30, 10**400, -1]),
        st.floats(allow_nan=True, allow_infinity=True),
        names,
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(names, inner, max_size=3)),
    max_leaves=6,
)


def bomb(levels: int = 9) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


YAML_TEXTS: tuple[bytes, ...] = (
    b"",
    b"\n\n",
    b"# nothing",
    b"---\n---\n",
    b"a: 1\n---\nb: 2\n",
    b"- 1\n- 2\n",
    b"just text",
    b"42",
    b"null",
    b"\tmodel: {}",
    b"model:\n\tkind: calm",
    b"\xef\xbb\xbfseed: 1\n",
    b"\xff\xfes\x00e\x00e\x00d\x00",
    b"\x00\x01\x02",
    b"seed: \x00",
    b"PK\x03\x04",
    b"\x89PNG\r\n\x1a\n",
    b"seed: 1\r\nname: x\r\n",
    b"seed: 1\nseed: 2\n",
    b"model: {kind: calm}\nmodel: {kind: baseline}\n",
    b"model: &m {kind: calm}\ndata: *m\n",
    b"model: &m\n  backbone: *m\n",
    b"&a [*a]",
    b"model: *nowhere",
    b"<<: [1, 2]\n",
    b"<<: {seed: 3}\n",
    b"model: {<<: 5}\n",
    b"!!python/object/apply:os.system ['touch escaped']\n",
    b"seed: !!python/object/new:os.system ['touch escaped']\n",
    b"seed: !!python/name:os.system\n",
    b"seed: !unknown 5\n",
    b"seed: !!int five\n",
    b"seed: !!float x\n",
    b"seed: !!bool maybe\n",
    b"seed: !!timestamp x\n",
    b"seed: !!binary x\n",
    b"seed: !!set {1, 2}\n",
    b"seed: !!omap [a: 1]\n",
    b"seed: !!pairs [a: 1]\n",
    b"seed: 2020-13-45\n",
    b"seed: 2020-02-30 25:61:61\n",
    b"seed: 1:99:99\n",
    b"seed: 0x\nname: 0b2\n",
    b"seed: " + b"9" * 5000,
    b"seed: 1e999999\n",
    b"seed: .nan\nname: .inf\n",
    b"? [a, b]\n: 1\n",
    b"? {a: b}\n: 1\n",
    b"1: 2\n",
    b"null: 2\n",
    b"true: 2\n1.5: x\n",
    b"2020-01-01: 2\n",
    b"calm: 1\n",
    b"energy: 1\nbaseline: 2\n",
    b"model: {calm: {energy: 1}}\n",
    b"model: {head: {energy: 1}}\n",
    b"model: {head: energy}\n",
    b"model: {head: [1]}\n",
    b"model: {kind: [x]}\n",
    b"model: {kind: {x: y}}\n",
    b"model: {head: {kind: [x]}}\n",
    b"model: []\n",
    b"model: calm\n",
    b"train: 5\n",
    b"data: null\n",
    b"model:\n",
    b"'': 1\n",
    b"a.b: 1\n",
    b"model.chunk_size: 4\n",
    b"name: [bold]x[/bold]\n",
    b"name: '[/]'\nbad: '[/]'\n",
    b"'[/]': 1\n",
    b'name: "a\\0b"\n',
    b'name: "\\ud800"\n',
    b'data: {corpus: "text:a\\0b"}\n',
    b"{" * 3000,
    b"[" * 3000 + b"]" * 3000,
    b"a: " * 500,
    b"".join(b" " * i + b"a:\n" for i in range(600)),
    b"model: {backbone: {width: 1000000000000}}\n",
    b"model: {backbone: {num_layers: 100000000}}\n",
    b"train: {train_tokens: 1e400}\n",
    b"train: {train_flops: 1e308}\n",
    b"train: {num_evaluations: 1000000000}\n",
    b"eval: {network_calls: [0, -1, 1e9]}\n",
    b"optim: {lr: 1e-320}\n",
    bomb().encode(),
    b"model:\n" + b"".join(b"  " + line + b"\n" for line in bomb().encode().split(b"\n")),
    b"name: " + b"x" * 200_000,
    b"x" * 200_000,
    b"seed: [" + b"1, " * 50_000 + b"1]",
)


def yaml_texts(tree: Tree) -> st.SearchStrategy[bytes]:
    """Configuration files: raw ones, and a good one changed at some places or cut off."""
    changed = mutations(tree, values).map(_dumped)
    return st.one_of(
        st.sampled_from(YAML_TEXTS),
        changed,
        changed,
        st.tuples(changed, st.integers(0, 4000)).map(lambda pair: pair[0][: pair[1]]),
        st.tuples(changed, st.integers(0, 400), st.binary(max_size=4)).map(
            lambda given: given[0][: given[1]] + given[2] + given[0][given[1] :]
        ),
        st.binary(max_size=60),
        st.text(max_size=60).map(lambda text: text.encode("utf-8", "surrogatepass")),
    )


def _dumped(tree: Any) -> bytes:
    """As YAML; JSON, which is YAML too, where it holds what YAML cannot be written with."""
    try:
        return yaml.safe_dump(tree, sort_keys=False).encode("utf-8", "surrogatepass")
    except (yaml.YAMLError, ValueError):
        try:
            return json.dumps(tree, default=str).encode()
        except ValueError:  # an integer of thousands of digits
            return b"seed: 1" + b"0" * 5000


def places(tree: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to every value of a nested mapping or list."""
    found: list[tuple[Any, ...]] = []
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        found.append((*before, key))
        found += places(value, (*before, key))
    return found


@st.composite
def mutations(draw: st.DrawFn, tree: Any, new: st.SearchStrategy[Any]) -> Any:
    """``tree`` with one to three of its values replaced, left out or joined by another."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        known = places(tree)
        if not known:
            return draw(new)
        *parents, leaf = draw(st.sampled_from(known))
        node = tree
        for key in parents:
            node = node[key]
        action = draw(st.sampled_from(["replace", "replace", "replace", "remove", "add"]))
        if action == "remove":
            del node[leaf]
        elif action == "add" and isinstance(node, dict):
            node[draw(names)] = draw(new)
        else:
            node[leaf] = draw(new)
    return tree


def assignments(fields: list[str]) -> st.SearchStrategy[str]:
    """``--set`` values."""
    raw = st.sampled_from([text.decode("utf-8", "replace").replace("\0", "") for text in YAML_TEXTS])
    content = st.one_of(raw.filter(lambda text: len(text) < 10_000), names, scalars.map(shown))
    name = st.one_of(
        st.sampled_from(fields),
        st.sampled_from(fields),
        st.sampled_from(["", ".", "..", "model", "model.", ".model", "model.head", "model..head", "model.kind.x"]),
        st.sampled_from(
            ["calm", "energy", "name", "data", "train", "model.head.energy", "data.tokenizer", "a.b.c"]
        ),
        names,
    )
    return st.one_of(st.builds("{}={}".format, name, content), names).filter(lambda text: "\0" not in text)


def shown(value: Any) -> str:
    try:
        return str(value)
    except ValueError:  # an integer of thousands of digits
        return "1" + "0" * 5000


# ---- texts -------------------------------------------------------------------------------------

TEXTS: tuple[bytes, ...] = (
    b"",
    b"x",
    b"\n",
    b"\0",
    b"\0" * 5000,
    b"\xff\xfe",
    b"\xc3",
    b"caf\xe9 " * 1000,
    b"a\r\nb\r\n" * 3000,
    b"a\rb\r" * 3000,
    b"x" * 100_000,
    b"ab " * 30_000,
    b"a\n" * 20_000,
    b"\n" * 50_000,
    b" " * 50_000,
    b"\t\n" * 20_000,
    "\u2028é".encode() * 10_000,
    "🙂".encode() * 5_000,
    b"e" + "\u0301".encode() * 20_000,
    b"\xef\xbb\xbf" * 3_000,
    b"\xef\xbb\xbfhello " * 3_000,
    b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x4b\x4c\x4a\x06\x00",
    b"PK\x03\x04" + b"\x14\x00" * 50,
    b"\x80" * 100,
    "text in another encoding".encode("utf-16") * 300,
    b"{}",
    b"[]",
    b"{",
    b"null",
    b"[1, 2]",
    b'{"text": 1}',
    b'{"text": null}',
    b'{"text": "a"}\n{"text": ["b"]}',
    b'{"text": "a"}\nnot json',
    b'[{"text": "a"}, 5]',
    b'{"other": "a"}',
    b'{"text": "\\ud800"}',
    b'{"text": "\\u0000"}',
    b'{"text": "a", "text": "b"}',
    b'{"text": NaN}',
    b'{"n": ' + b"9" * 5000 + b', "text": "a"}',
    b"[" * 100_000,
    b'{"a":' * 50_000,
    b'{"text": "x"}\n' * 20_000,
    b'[{"text": "' + b"x" * 20_000 + b'"}]',
)
texts = st.one_of(
    st.sampled_from(TEXTS),
    st.binary(max_size=200),
    st.tuples(st.binary(min_size=1, max_size=6), st.integers(1, 20_000)).map(lambda pair: pair[0] * pair[1]),
    st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")),
    st.lists(json_values, max_size=4).map(lambda rows: "\n".join(json.dumps(row) for row in rows).encode()),
)
