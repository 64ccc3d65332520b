"""The queue of operations that a 1.x client keeps in a folder: files of JSON lines.

Neptune's own reader opens them for writing and may delete them; this one only reads,
and goes on behind damage.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from json import JSONDecoder
from pathlib import Path
from typing import Any

_LOG = re.compile(r"data-(\d+)\.log$")
#: A line of more bytes is no operation: a log file has 64 MiB, and one line beyond.
_LONGEST = 1 << 28
#: What an operation begins with, by which the next one is found behind damage.
_BEGIN = '{"obj"'
_NUMBER = r"-?(?:\d{1,300}(?:\.\d+)?(?:[eE][+-]?\d+)?|NaN|Infinity)"
_POINT = rf'\{{"value": {_NUMBER}, "step": (?:null|{_NUMBER}), "ts": {_NUMBER}\}}'
_PATH = r'\["[^"\\]*"(?:, "[^"\\]*")*\]'
#: Points of a series of numbers as the client writes them, and nothing else.
_POINTS = re.compile(
    (
        rf'\{{"obj": \{{"type": "LogFloats", "path": {_PATH},'
        rf' "values": \[{_POINT}(?:, {_POINT})*\]\}},'
        rf' "version": \d+(?:, "at": {_NUMBER})?\}}\n'
    ).encode()
)
#: Texts of old clients may hold control characters.
_DECODER = JSONDecoder(strict=False)


@dataclass(slots=True)
class Queue:
    """The operations in one folder, and what is wrong with them.

    What stands here about them is complete when `records` is exhausted.
    """

    folder: Path
    sent: int = 0  # the last operation that the server took
    put: int = 0  # the last that was written, or was about to be
    read: int = 0
    first: int | None = None
    last: int = 0
    began: float | None = None  # seconds
    heard: float | None = None
    removed: int = 0  # operations that the client sent, and removed
    wrong: list[str] = field(default_factory=list)
    _damaged: int = 0

    def records(self, *, points: bool = True) -> Iterator[dict[str, Any]]:
        """Yield operations, each as the client wrote it.

        Args:
            points: also those that only add to series of numbers, of which no file is
                made: most of a log, as a rule.

        Raises:
            OSError: a log cannot be read.
        """
        self.sent = self._number("last_ack_version")
        self.put = self._number("last_put_version")
        logs = logs_of(self.folder)
        for at, log in enumerate(logs):
            with log.open("rb") as file:
                number, place = 0, 0
                while line := file.readline(_LONGEST):
                    number += 1
                    if not points and _POINTS.fullmatch(line):
                        continue
                    end = at == len(logs) - 1 and not line.endswith(b"\n")
                    yield from self._parsed(line, (log.name, number, place), end)
                    place += len(line)
        self._check_end()

    @property
    def count(self) -> int:
        """How many operations were ever written."""
        return max(self.put, self.last)

    def _parsed(
        self, line: bytes, place: tuple[str, int, int], end: bool
    ) -> Iterator[dict[str, Any]]:
        where = "{}, line {} (byte {})"
        text = line.decode("utf-8", "backslashreplace")
        at = 0
        while (at := text.find("{", at)) >= 0:
            try:
                record, at = _DECODER.raw_decode(text, at)
                version = record["version"]
                said = record["obj"]
                fits = isinstance(version, int) and isinstance(said, dict)
            except (ValueError, KeyError, TypeError, RecursionError):
                fits = False
                at = text.find(_BEGIN, at + 1)
            if fits:
                self._saw(version, record.get("at"))
                yield record
                continue
            self._damaged += 1
            what = "is cut off" if end and at < 0 else "is damaged"
            self._tell(
                f"{where.format(*place)}: an operation {what}, and is not copied"
            )
            if at < 0:
                return
        if "{" not in text and text.strip():
            self._damaged += 1
            self._tell(f"{where.format(*place)}: this is no operation")

    def _saw(self, version: int, at: object) -> None:
        self.read += 1
        if self.first is None:
            self.first = version
            self.removed = max(min(version - 1, self.sent), 0)
            missing = version - 1 - self.removed
        else:
            missing = version - self.last - 1
        if missing > self._damaged:
            until = version - 1
            self._tell(f"operations {until - missing + 1} to {until} are not there")
        self._damaged = 0
        self.last = max(version, self.last)
        if isinstance(at, int | float) and abs(at) < 1e12:
            self.began = at if self.began is None else min(self.began, at)
            self.heard = at if self.heard is None else max(self.heard, at)

    def _check_end(self) -> None:
        if self.first is None:
            self.removed = min(self.sent, self.put)
        missing = self.put - max(self.last, self.removed) - self._damaged
        if missing > 0:
            self._tell(
                f"the last {missing} operations are not there: the client was stopped"
                " before it wrote them to its log"
            )

    def _number(self, name: str) -> int:
        path = self.folder / name
        if path.is_symlink() or not path.is_file():
            return 0
        try:
            with path.open("rb") as file:
                text = file.read(100).decode("utf-8", "replace").strip()
            return int(text) if text else 0
        except (OSError, ValueError) as error:
            self._tell(f"{name} cannot be read: {error}")
            return 0

    def _tell(self, what: str) -> None:
        self.wrong.append(what)


def logs_of(folder: Path) -> list[Path]:
    """Return the log files of a queue, oldest first.

    Raises:
        OSError: the folder cannot be listed.
    """
    found = [
        (int(match.group(1)), path)
        for path in folder.iterdir()
        if (match := _LOG.match(path.name)) and path.is_file() and not path.is_symlink()
    ]
    return [path for _, path in sorted(found)]
