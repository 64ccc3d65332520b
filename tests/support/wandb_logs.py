"""Run folders as W&B's client writes them: framing and wire format, by themselves."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

BLOCK = 32768
Fields = Sequence[tuple[int, Any]]


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    return bytes([*out, number])


def message(*fields: tuple[int, Any]) -> bytes:
    """Encode fields: integers as varints, floats as doubles, all else as bytes."""
    out = b""
    for number, value in fields:
        if isinstance(value, float):
            out += varint(number << 3 | 1) + struct.pack("<d", value)
        elif isinstance(value, int):
            out += varint(number << 3) + varint(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            out += varint(number << 3 | 2) + varint(len(data)) + data
    return out


def timestamp(seconds: float) -> bytes:
    return message((1, int(seconds)), (2, round(seconds % 1 * 1e9)))


def pairs(number: int, values: Mapping[str, Any]) -> Fields:
    """Encode keys and values as W&B's items, each in the field *number*."""
    return [
        (number, message((1, key), (16, json.dumps(value))))
        for key, value in values.items()
    ]


def run(
    id: str = "abc",
    *,
    entity: str = "team",
    project: str = "proj",
    config: Mapping[str, Any] | None = None,
    start: float = 1_700_000_000.0,
    more: Fields = (),
) -> bytes:
    record = message(
        (1, id),
        (2, entity),
        (3, project),
        (4, message(*pairs(1, config or {}))),
        (17, timestamp(start)),
        *more,
    )
    return message((17, record))


def row(step: int | None, time: float | None, **values: Any) -> bytes:
    said = dict(values)
    if time is not None:
        said["_timestamp"] = time
    if step is not None:
        said["_step"] = step
    return message((2, message(*pairs(1, said))))


def summary(values: Mapping[str, Any]) -> bytes:
    return message((3, message(*pairs(1, values))))


def stats(time: float, values: Mapping[str, Any]) -> bytes:
    return message((7, message((2, timestamp(time)), *pairs(3, values))))


def output(line: str, time: float = 1_700_000_001.0) -> bytes:
    return message((13, message((1, 1), (2, timestamp(time)), (3, line))))


def exit(code: int = 0, runtime: int = 60) -> bytes:
    return message((18, message((1, code), (2, runtime))))


def framed(records: Iterable[bytes]) -> bytes:
    """Put records into blocks, those that cross one in fragments."""
    out = bytearray(struct.pack("<4sHB", b":W&B", 0xBEE1, 0))
    for record in records:
        rest, first = record, True
        while True:
            room = BLOCK - len(out) % BLOCK
            if room < 7:
                out += b"\0" * room
                room = BLOCK
            part, rest = rest[: room - 7], rest[room - 7 :]
            kind = (2 if rest else 1) if first else (3 if rest else 4)
            check = zlib.crc32(bytes([kind]) + part)
            out += struct.pack("<IHB", check, len(part), kind) + part
            first = False
            if not rest:
                break
    return bytes(out)


def write_run(
    root: Path,
    records: Iterable[bytes],
    *,
    id: str = "abc",
    time: str = "20231114_221320",
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a run folder below *root*, a ``wandb/`` folder, and return its log."""
    folder = root / f"offline-run-{time}-{id}"
    (folder / "files").mkdir(parents=True, exist_ok=True)
    for path, text in (files or {}).items():
        place = folder / "files" / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
    log = folder / f"run-{id}.wandb"
    log.write_bytes(framed(records))
    return log
