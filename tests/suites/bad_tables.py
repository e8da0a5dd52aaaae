"""Hypothesis strategies of tables of results that are not as they should be."""

from __future__ import annotations

from hypothesis import strategies as st

from tests.suites.bad_inputs import names


def _table() -> str:
    """Results that follow a law, enough to plan from: token models, K = 1 and K = 2, three sizes, two budgets."""
    rows = [
        "model,brierlm,K,train_flops,brierlm_se,num_clusters,model_parameters,tokens,latent_dim,seed,phase,dataset"
    ]
    for k in ("", "1", "2"):
        for size in (1e6, 4e6, 16e6):
            for budget in (1e15, 1e16):
                tokens = budget / (6 * size) * (int(k) if k else 1)
                score = 40 / (1 + (1e6 / size) ** 0.3 + (1e9 / tokens) ** 0.3 + 0.2 * (k == "2"))
                rows.append(
                    f"{k or 't'}-{size:g},{score:.3f},{k},{budget:g},0.05,60,{size:g},{tokens:g},"
                    f"{16 * int(k) if k else ''},0,decayed,x"
                )
    return "\n".join(rows) + "\n"


TABLE = _table()
cells = st.one_of(
    names.filter(lambda text: not any(0xD800 <= ord(letter) < 0xE000 for letter in text)),
    st.sampled_from(["", "nan", "inf", "-inf", "1e400", "1e308", "5e-324", "-1", "0", "1e5", "1,5", "9" * 400]),
    st.sampled_from(["0x10", "1_000", "１２", "true", "1e", "--1", "½", "1 000", '"', '""', "a,b", "\n", "\0"]),
    st.integers().map(str),
    st.floats().map(str),
)
RAW_TABLES: tuple[bytes, ...] = (
    b"",
    b"\n",
    b"\n\n\n",
    b",",
    b",,,\n,,,\n",
    b"\0",
    b"\xff\xfe\x00",
    b"PAR1",
    b"PAR1" + b"\0" * 20 + b"PAR1",
    TABLE.encode("utf-16"),
    TABLE.encode("utf-8-sig"),
    TABLE.replace(",", ";").encode(),
    TABLE.replace(",", "\t").encode(),
    TABLE.replace("\n", "\r").encode(),
    TABLE.replace("\n", "\r\n").encode(),
    TABLE.split("\n")[0].encode(),
    TABLE.replace("model,brierlm", "brierlm,brierlm").encode(),
    TABLE.replace("1-1e+06", '"1-1e+06').encode(),
    TABLE.replace("1-1e+06", '1"1e+06').encode(),
    (TABLE + TABLE.split("\n")[3] + "\n").encode(),
    (TABLE + "z,1\n").encode(),
    (TABLE + "z" + ",1" * 40 + "\n").encode(),
    TABLE.encode() + b"\xe9" * 10,
    b"model,brierlm,K,train_flops\n" + b"x" * 200_000 + b",1,1,1e15\n",
    b"model,brierlm,K,train_flops\n" + b"a,1,1,1e15\n" * 3000,
    (",".join(f"c{i}" for i in range(3000)) + "\n").encode(),
    b"x,model,brierlm,K,train_flops,kind\n",
)


@st.composite
def tables(draw: st.DrawFn) -> bytes:
    """CSV files of results: raw ones, and a good one with some cells replaced and rows left out."""
    if draw(st.integers(0, 3)) == 0:
        return draw(st.one_of(st.sampled_from(RAW_TABLES), st.binary(max_size=100)))
    rows = [line.split(",") for line in TABLE.strip().split("\n")]
    for _ in range(draw(st.integers(1, 4))):
        row = draw(st.integers(0, len(rows) - 1))
        column = draw(st.integers(0, len(rows[row]) - 1)) if rows[row] else 0
        action = draw(st.sampled_from(["cell", "cell", "cell", "cell", "drop", "short", "long"]))
        if action == "cell" and rows[row]:
            rows[row][column] = draw(cells)
        elif action == "drop" and len(rows) > 1:
            del rows[row]
        elif action == "short":
            rows[row] = rows[row][:column]
        else:
            rows[row].append(draw(cells))
    quote = draw(st.booleans())
    return "\n".join(",".join(_quoted(cell) if quote else cell for cell in row) for row in rows).encode()


def _quoted(cell: str) -> str:
    return '"' + cell.replace('"', '""') + '"' if any(mark in cell for mark in ',"\n\r') else cell
