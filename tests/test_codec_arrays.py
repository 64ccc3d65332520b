"""Arrow arrays made of bytes are those that pyarrow itself makes."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlmigrate.codec.arrays import of_numbers, of_texts, of_values

_KINDS = [
    (pa.int32(), st.integers(-(2**31), 2**31 - 1)),
    (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    (pa.float64(), st.floats(allow_nan=False)),
    (pa.bool_(), st.booleans()),
]


@pytest.mark.parametrize(("type", "some"), _KINDS, ids=lambda kind: str(kind)[:7])
@settings(deadline=None)  # pyarrow's own way imports pandas
@given(data=st.data())
def test_values(type: pa.DataType, some: st.SearchStrategy[Any], data: Any) -> None:
    """Numbers and truth values, some of which may be missing."""
    values = data.draw(st.lists(some | st.none(), max_size=40))
    made = of_values(values, type)
    made.validate(full=True)

    assert pa.array(values, type).equals(made)


@settings(deadline=None)
@given(values=st.lists(st.text() | st.none(), max_size=40))
def test_texts(values: list[str | None]) -> None:
    """Texts of any length, some of which may be missing."""
    made = of_texts(values)
    made.validate(full=True)

    assert pa.array(values, pa.string()).equals(made)


@pytest.mark.parametrize("type", [np.int32, np.int64, np.float64])
def test_numbers(type: Any) -> None:
    """Arrays of numpy's, also those that do not lie in one piece."""
    values = np.arange(20, dtype=type)[::2]

    assert pa.array(values).equals(of_numbers(values))
    assert 0 == len(of_numbers(np.empty(0, type)))


def test_what_does_not_fit() -> None:
    """A number that a column does not hold, and a text that UTF-8 does not."""
    with pytest.raises(OverflowError):
        of_values([2**63], pa.int64())
    with pytest.raises(UnicodeEncodeError):
        of_texts(["\ud800"])


def test_pandas_stays_out() -> None:
    """Half a second is saved by what these arrays are for."""
    code = """
import sys
import pyarrow
from mlmigrate.codec.arrays import of_texts, of_values
of_values([1, None], pyarrow.int64())
of_texts(["a", None])
sys.exit("pandas" in sys.modules)
"""
    assert 0 == subprocess.run([sys.executable, "-c", code], check=False).returncode
