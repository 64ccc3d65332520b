"""The framing of a ``.wandb`` file: the log format of LevelDB, with W&B's header.

A file begins with 7 bytes, ``:W&B``, the number 0xBEE1 and a version. It is cut into
blocks of 32 KiB, counted from its beginning; a record is one fragment, or several where
it crosses blocks. A fragment has a header of 7 bytes: a CRC-32 over type and data
(zlib's, not masked, unlike LevelDB's own), the length, and the type.
"""

from __future__ import annotations

import os
import stat
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

BLOCK = 32768
HEADER = struct.pack("<4sHB", b":W&B", 0xBEE1, 0)
FULL, FIRST, MIDDLE, LAST = 1, 2, 3, 4
#: No client writes a record that is nearly as long: a row of W&B's has 10 MiB at most.
_LONGEST = 1 << 28
_FRAGMENT = struct.Struct("<IHB")
_MOST_WRONG = 20


_CHECKSUMS = [zlib.crc32(bytes([kind])) for kind in range(256)]


def checksum(kind: int, data: bytes | memoryview) -> int:
    """Return what the header of a fragment must say."""
    return zlib.crc32(data, _CHECKSUMS[kind])


def read_log(path: Path, wrong: list[str]) -> Iterator[bytes]:
    """Yield the whole records of a file, and append to *wrong* what is none.

    Damage costs the records that it lies in: reading goes on behind it.

    Raises:
        OSError: the file cannot be read, or is no regular file.
    """
    pending: list[bytes] | None = None
    length = 0
    damage: list[str] = []
    for at, kind, data in _fragments(path, damage):
        if pending is not None and kind not in (MIDDLE, LAST):
            damage.append(f"the record that ends before byte {at} is not whole")
            pending = None
        if kind == FULL:
            yield data
        elif kind == FIRST:
            pending, length = [data], len(data)
        elif pending is not None:
            length += len(data)
            if length > _LONGEST:
                damage.append(f"the record around byte {at} is absurdly long")
                pending = None
                continue
            pending.append(data)
            if kind == LAST:
                yield b"".join(pending)
                pending = None
        elif kind in (MIDDLE, LAST):
            damage.append(f"the record around byte {at} lacks its beginning")
    if pending is not None:
        damage.append("the last record is not whole")
    wrong += damage[:_MOST_WRONG]
    if len(damage) > _MOST_WRONG:
        wrong.append(f"{len(damage) - _MOST_WRONG} more places are damaged")


def _fragments(path: Path, wrong: list[str]) -> Iterator[tuple[int, int, bytes]]:
    """Yield each fragment's place, type (0 for a damaged one) and data."""
    for start, block in _blocks(path):
        at = 0
        if start == 0:
            if block[: len(HEADER)] != HEADER:
                wrong.append("the file does not begin as W&B's do")
            at = len(HEADER)
        bad = 0
        while at + _FRAGMENT.size <= len(block):
            said, length, kind = _FRAGMENT.unpack_from(block, at)
            place, at = start + at, at + _FRAGMENT.size
            if at + length > len(block):
                cut = len(block) < BLOCK
                why = "the file is cut off" if cut else "a record's length is wrong"
                wrong.append(f"{why} at byte {place}")
                yield place, 0, b""
                break
            data = block[at : at + length]
            if FULL <= kind <= LAST and checksum(kind, data) == said:
                at += length
                bad = 0
                yield place, kind, data
                continue
            wrong.append(f"the checksum of the record at byte {place} is wrong")
            yield place, 0, b""
            bad += 1
            if bad > 1 or not length:
                break  # its length is as doubtful: on with the next block
            at += length
        else:
            if at < len(block) < BLOCK:
                wrong.append(f"the file is cut off at byte {start + at}")


def _blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    with os.fdopen(handle, "rb") as file:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(0, "is no regular file")
        start = 0
        while block := file.read(BLOCK):
            yield start, block
            start += len(block)
        if not start:
            yield 0, b""


def write_log(file: BinaryIO, records: Iterable[bytes]) -> None:
    """Write a whole log: W&B's header, and *records* as fragments.

    Raises:
        OSError: it cannot be written.
    """
    file.write(HEADER)
    at = len(HEADER)
    for record in records:
        end = at + _FRAGMENT.size + len(record)
        if end <= BLOCK - _FRAGMENT.size:  # most: no block ends near
            head = _FRAGMENT.pack(checksum(FULL, record), len(record), FULL)
            file.write(head + record)
            at = end
            continue
        rest = memoryview(record)
        begun = False
        while True:
            left = BLOCK - at
            if left < _FRAGMENT.size:
                file.write(bytes(left))
                at, left = 0, BLOCK
            data = rest[: left - _FRAGMENT.size]
            rest = rest[len(data) :]
            kind = (MIDDLE, FIRST, LAST, FULL)[(not begun) + 2 * (not rest)]
            file.write(_FRAGMENT.pack(checksum(kind, data), len(data), kind))
            file.write(data)
            at = (at + _FRAGMENT.size + len(data)) % BLOCK
            begun = True
            if not rest:
                break
