"""Protobuf's wire format, as far as W&B's records need it.

A field that is not in the schema, or has another wire type, is kept as ``#NUMBER``: the
records of older and newer clients are read without loss.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from typing import Any

from mlmigrate.stores.wandb_offline.schema import MESSAGES

_DOUBLE = struct.Struct("<d")
_WIRES = {"int": 0, "sint": 0, "bool": 0, "double": 1}


def decode(data: bytes, message: str = "Record") -> dict[str, Any]:
    """Return the fields of a message by name; a repeated or unknown one is a list.

    Raises:
        ValueError: it is no message.
    """
    fields = MESSAGES[message]
    found: dict[str, Any] = {}
    at, end = 0, len(data)
    while at < end:
        tag, at = (data[at], at + 1) if data[at] < 128 else _varint(data, at)
        number, wire = tag >> 3, tag & 7
        value: Any
        if wire == 0:
            value, at = _varint(data, at)
        else:
            size = {1: 8, 5: 4}.get(wire)
            if wire == 2:
                size, at = _varint(data, at)
            if size is None or at + size > end:
                raise ValueError(f"field {number} is cut off")
            value = data[at : at + size]
            at += size
        name, kind = fields.get(number, ("", ""))
        scalar = kind.rstrip("*")
        if not name or wire != _WIRES.get(scalar, 2):
            kept = value if wire == 0 else b64encode(value).decode()
            found.setdefault(f"#{number}", []).append(kept)
            continue
        value = _value(value, scalar)
        if kind.endswith("*"):
            found.setdefault(name, []).append(value)
        else:
            found[name] = value
    return found


def _value(value: Any, kind: str) -> Any:
    match kind:
        case "text":
            return value.decode("utf-8", "backslashreplace")
        case "int":
            return value - (1 << 64) if value >> 63 else value
        case "sint":
            return (value >> 1) ^ -(value & 1)
        case "bool":
            return bool(value)
        case "double":
            return _DOUBLE.unpack(value)[0]
        case _:
            return decode(value, kind)


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 70 and at < len(data):
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
    raise ValueError(f"the number at byte {at} does not end")
