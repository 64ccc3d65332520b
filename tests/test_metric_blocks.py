"""A long metric file is parsed block by block: where it is cut changes nothing."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mlmigrate.stores.mlflow_files import parse

_NUMBERS = st.sampled_from(["1", "-3", "2.5", "nan", "1e400", "x", "1_0", "9" * 20, ""])
_POINTS = st.builds(
    lambda time, value, step: f"{time} {value!r} {step}",
    st.integers(0, 2**53),
    st.floats(),
    st.integers(-5, 2**40),
)
_LINES = st.lists(
    st.one_of(
        _POINTS,
        _POINTS.map(lambda line: line.rpartition(" ")[0]),
        _POINTS.map(lambda line: f"{line} iris 1a2b"),
        st.lists(_NUMBERS, max_size=5).map(" ".join),
    ),
    max_size=120,
)


@given(_LINES, st.sampled_from(["\n", "\r\n"]), st.booleans(), st.integers(1, 2000))
def test_any_chunks_give_the_same(
    lines: list[str], end: str, ended: bool, size: int
) -> None:
    data = (end.join(lines) + (end if ended else "")).encode()
    whole, wrong = parse.read_metric("loss", [data])
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    parts, wrong_there = parse.read_metric("loss", chunks)
    assert np.array_equal(whole.steps, parts.steps)
    assert np.array_equal(whole.timestamps, parts.timestamps)
    assert np.array_equal(whole.values.view(np.int64), parts.values.view(np.int64))
    assert sorted(wrong) == sorted(wrong_there)
