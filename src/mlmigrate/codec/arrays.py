"""Arrow arrays, made of the bytes of their values, and those bytes again.

``pyarrow.array`` imports pandas, to see whether it was given any of that: half a second
that no command needs. So does pyarrow when it is handed an array of numpy's, or a value
of Python's, or asked for an array of numpy's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

_NUMPY = {
    pa.int32(): np.int32,
    pa.int64(): np.int64,
    pa.float64(): np.float64,
}
_ARROW = {np.dtype(each): type for type, each in _NUMPY.items()}
#: The offsets of a string array are 32-bit numbers.
_MOST_BYTES = (1 << 31) - 1


def of_numbers(values: np.ndarray, missing: np.ndarray | None = None) -> pa.Array:
    """Return an array of numbers, of which none, or those in *missing*, are missing."""
    type = _ARROW[values.dtype]
    data = pa.py_buffer(np.ascontiguousarray(values))
    valid = None
    if missing is not None and missing.any():
        valid = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(type, len(values), [valid, data])


def of_values(values: Sequence[Any], type: pa.DataType) -> pa.Array:
    """Return an array of integers, floats or truth values, of which None is missing.

    Raises:
        OverflowError: a number does not fit *type*.
    """
    whole = [0 if value is None else value for value in values]
    if type == pa.bool_():
        bits = np.packbits(np.array(whole, dtype=bool), bitorder="little")
        data = pa.py_buffer(bits)
    else:
        data = pa.py_buffer(np.array(whole, dtype=_NUMPY[type]))
    return pa.Array.from_buffers(type, len(values), [_validity(values), data])


def of_texts(values: Sequence[str | None]) -> pa.Array:
    """Return an array of texts; None for one that is missing.

    Raises:
        UnicodeEncodeError: a text has lone surrogates.
    """
    encoded = [b"" if value is None else value.encode() for value in values]
    offsets = np.zeros(len(values) + 1, np.int64)
    np.cumsum([len(each) for each in encoded], out=offsets[1:])
    if offsets[-1] > _MOST_BYTES:
        return pa.array(values, pa.string())
    return pa.Array.from_buffers(
        pa.string(),
        len(values),
        [
            _validity(values),
            pa.py_buffer(offsets.astype(np.int32)),
            pa.py_buffer(b"".join(encoded)),
        ],
    )


def numbers_in(array: pa.Array) -> np.ndarray:
    """Return the values of an array of numbers or times; any for a missing one."""
    data = array.buffers()[1]
    kind = "f" if pa.types.is_floating(array.type) else "i"
    dtype = np.dtype(f"{kind}{array.type.bit_width // 8}")
    if data is None:
        return np.zeros(len(array), dtype)
    return np.frombuffer(data, dtype)[array.offset : array.offset + len(array)]


def missing_in(array: pa.Array) -> np.ndarray:
    """Return for each value of an array whether it is missing."""
    if not array.null_count:
        return np.zeros(len(array), dtype=bool)
    bitmap = array.buffers()[0]
    if bitmap is None:
        return np.ones(len(array), dtype=bool)
    bits = np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")
    missing: np.ndarray = bits[array.offset : array.offset + len(array)] == 0
    return missing


def _validity(values: Sequence[Any]) -> pa.Buffer | None:
    valid = np.array([value is not None for value in values], dtype=bool)
    if valid.all():
        return None
    return pa.py_buffer(np.packbits(valid, bitorder="little"))
