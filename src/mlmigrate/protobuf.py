"""Protobuf's wire format, as far as logs on disk and OTLP need it.

The fields of each message are data of the adapter that reads them. A field that is not
among them, or has another wire type, is kept as ``#NUMBER``: the records of older and
newer clients are read without loss.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, TypeAlias

#: message -> number -> (name, kind). A kind is a scalar or a message; ``*`` repeats.
Messages: TypeAlias = Mapping[str, Mapping[int, tuple[str, str]]]

_DOUBLE = struct.Struct("<d")
_FLOAT = struct.Struct("<f")
_WIRES = {
    "int": 0,
    "uint": 0,
    "sint": 0,
    "bool": 0,
    "double": 1,
    "fixed": 1,
    "float": 5,
}


def decode(data: bytes, message: str, messages: Messages) -> dict[str, Any]:
    """Return the fields of a message by name; a repeated or unknown one is a list.

    Args:
        data: its bytes.
        message: its name in *messages*.
        messages: the fields of it, and of those in it.

    Raises:
        ValueError: it is no message.
    """
    fields = messages[message]
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
        wanted = _WIRES.get(scalar, 2)
        if wire == 2 != wanted and kind.endswith("*"):
            packed = _unpacked(value, wanted)
            found.setdefault(name, []).extend(_value(one, scalar) for one in packed)
            continue
        if not name or wire != wanted:
            kept = value if wire == 0 else b64encode(value).decode()
            found.setdefault(f"#{number}", []).append(kept)
            continue
        value = (
            decode(value, scalar, messages)
            if scalar in messages
            else _value(value, scalar)
        )
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
        case "fixed":
            return int.from_bytes(value, "little")
        case "double":
            return _DOUBLE.unpack(value)[0]
        case "float":
            return _FLOAT.unpack(value)[0]
        case _:
            return value


def _unpacked(data: bytes, wire: int) -> list[Any]:
    """Part repeated numbers, which are written as one field."""
    found: list[Any] = []
    at, size = 0, {1: 8, 5: 4}.get(wire)
    while at < len(data):
        if size is None:
            value, at = _varint(data, at)
            found.append(value)
        elif at + size > len(data):
            raise ValueError("a list of numbers is cut off")
        else:
            found.append(data[at : at + size])
            at += size
    return found


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


# -- writing --------------------------------------------------------------------------


def whole_field(number: int, value: int) -> bytes:
    """Return a field that holds a whole number, of 64 bits and any sign."""
    return _tag(number, 0) + _packed(value & 0xFFFFFFFFFFFFFFFF)


def fixed_field(number: int, value: int) -> bytes:
    """Return a field that holds a whole number, not negative, as 8 bytes."""
    return _tag(number, 1) + value.to_bytes(8, "little")


def double_field(number: int, value: float) -> bytes:
    """Return a field that holds a float of 64 bits."""
    return _tag(number, 1) + _DOUBLE.pack(value)


def bytes_field(number: int, value: bytes) -> bytes:
    """Return a field that holds bytes, which may be a message."""
    return _tag(number, 2) + _packed(len(value)) + value


def text_field(number: int, value: str) -> bytes:
    """Return a field that holds text.

    Raises:
        UnicodeEncodeError: it has half a character.
    """
    return bytes_field(number, value.encode())


def _tag(number: int, wire: int) -> bytes:
    return _packed(number << 3 | wire)


def _packed(value: int) -> bytes:
    packed = bytearray()
    while value > 127:
        packed.append(value & 127 | 128)
        value >>= 7
    packed.append(value)
    return bytes(packed)
