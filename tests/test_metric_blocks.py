"""A long metric file is parsed block by block: where it is cut changes nothing."""

from __future__ import annotations

from unittest.mock import patch

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmigrate.stores.mlflow_files import points

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
    whole, wrong, named = points.read_metric("loss", [data])
    chunks = [data[at : at + size] for at in range(0, len(data), size)]
    parts, wrong_there, named_there = points.read_metric("loss", chunks)
    assert np.array_equal(whole.steps, parts.steps)
    assert np.array_equal(whole.timestamps, parts.timestamps)
    assert np.array_equal(whole.values.view(np.int64), parts.values.view(np.int64))
    assert (sorted(wrong), named) == (sorted(wrong_there), named_there)


_NUMBER = st.one_of(
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(repr),
    st.sampled_from(["+5", "007", "-0", "5.", ".5", "1e3", "1e400", "", "1e", "--1"]),
)
_FILES = st.lists(
    st.one_of(
        st.lists(_POINTS, max_size=30),
        st.lists(st.lists(_NUMBER, max_size=4).map(" ".join), max_size=3),
    ).map(lambda lines: "".join(f"{line}\n" for line in lines).encode()),
    max_size=6,
)


@settings(deadline=None)  # the first of them waits for Arrow
@given(_FILES, st.booleans())
def test_files_together_give_what_each_alone_does(
    texts: list[bytes], ended: bool
) -> None:
    """Those that can be read together at all."""
    files = [(f"m{at}", text if ended else text[:-1]) for at, text in enumerate(texts)]
    with patch.object(points, "_FEW", 0):
        together = points.read_together(files)
    for (key, text), one in zip(files, together, strict=True):
        if one is None:
            continue
        alone, wrong, named = points.read_metric(key, [text])
        assert (wrong, named) == ([], 0)
        assert np.array_equal(alone.steps, one.steps)
        assert np.array_equal(alone.timestamps, one.timestamps)
        assert np.array_equal(alone.values.view(np.int64), one.values.view(np.int64))


def test_plain_files_are_read_together() -> None:
    lines = "".join(f"170000000{at:04} {at / 7!r} {at}\n" for at in range(300))
    files = [("a", lines.encode()), ("b", b"1 nan 1\n"), ("c", lines.encode())]

    assert [one is not None for one in points.read_together(files)] == [
        True,
        False,
        True,
    ]
