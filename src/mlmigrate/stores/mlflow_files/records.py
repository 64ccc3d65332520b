"""The files of one key each: params, tags, aliases and metrics.

Damage costs only the damaged file, and is told.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias

from mlmigrate.marks import MARK, ORIGIN
from mlmigrate.model import Finding, MetricHistory, Note, Problem
from mlmigrate.stores.mlflow_files import parse, points
from mlmigrate.stores.mlflow_files.strays import SYNC_COPY, is_litter_file


def files_of(folder: Path) -> Iterator[tuple[str, str]]:
    """Yield (key, path) for every file below *folder*: a key with slashes is a path."""
    stack = [(str(folder), "")]
    while stack:
        path, prefix = stack.pop()
        try:
            entries = sorted(os.scandir(path), key=lambda entry: entry.name)
        except (FileNotFoundError, NotADirectoryError):
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                stack.append((entry.path, f"{prefix}{entry.name}/"))
            elif not is_litter_file(entry.name, entry.path):
                yield prefix + entry.name, entry.path


#: Bytes of a file that are read first; most are smaller.
_CHUNK = 65536


def chunks_of(path: str) -> Iterator[bytes]:
    """Yield a file's bytes: of a small file in three system calls, where `open` makes
    seven.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        data = os.read(handle, _CHUNK)
        if not data and not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError(0, "is no regular file")
        yield data
        while len(data) >= _CHUNK and (data := os.read(handle, 1 << 20)):
            yield data
    finally:
        os.close(handle)


def bytes_of(path: str) -> bytes:
    """Return a file's bytes.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    return b"".join(chunks_of(path))


def key_of(name: str, kind: str, where: str, findings: list[Finding]) -> str:
    r"""Return the key that a file's name is; what is not UTF-8 appears as ``\\xNN``."""
    key, sound = parse.read_text(os.fsencode(name))
    if not sound:
        what = f"{kind}/{key} has a name that is not UTF-8: kept with \\x escapes"
        findings.append(Problem(where, what))
    return key


def read_pairs(folder: Path, where: str) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Read a folder of one file a key: params, tags, aliases."""
    pairs: list[tuple[str, str]] = []
    problems: list[Finding] = []
    for name, path in files_of(folder):
        key = key_of(name, folder.name, where, problems)
        try:
            value, sound = parse.read_text(bytes_of(path))
        except OSError as error:
            what = f"{folder.name}/{key} cannot be read: {error.strerror}"
            problems.append(Problem(where, what))
            continue
        if not sound:
            problems.append(
                Problem(
                    where, f"{folder.name}/{key} is not UTF-8: kept with \\x escapes"
                )
            )
        pairs.append((key, value))
    return pairs, problems


def read_own_tags(folder: Path) -> list[tuple[str, str]]:
    """Read the tags by which mlmigrate knows its copies, where they are."""
    pairs: list[tuple[str, str]] = []
    for key in (ORIGIN, MARK):
        with suppress(OSError):
            pairs.append((key, parse.read_text(bytes_of(str(folder / key)))[0]))
    return pairs


def read_old_tags(
    meta: Mapping[str, Any], pairs: list[tuple[str, str]], where: str
) -> tuple[list[tuple[str, str]], list[Finding]]:
    """Read the tags that MLflow < 0.5 kept inside meta.yaml, but for those that the
    files of the tags, *pairs*, say as well.
    """
    tags = meta.get("tags")
    if not tags:
        return [], []
    found: list[tuple[str, str]] = []
    problems: list[Finding] = []
    files = dict(pairs)
    for tag in tags if isinstance(tags, list) else [tags]:
        if not isinstance(tag, dict) or not {"key", "value"} <= tag.keys():
            what = f"meta.yaml: tags hold {tag!r}, which is none: not copied"
            problems.append(Problem(where, what))
            continue
        key, value = str(tag["key"]), str(tag["value"])
        if key not in files:
            files[key] = value
            found.append((key, value))
        elif files[key] != value:
            what = f"meta.yaml: tag {key} = {value!r} stands twice: not copied"
            problems.append(Problem(where, what))
    return found, problems


#: Metric files that are parsed together.
_TOGETHER = 50

#: A file's name, its key, its history, what is wrong with its lines, and how many of
#: its points name datasets.
_History: TypeAlias = tuple[str, str, MetricHistory, list[str], int]


def _histories(folder: Path, where: str, findings: list[Finding]) -> Iterator[_History]:
    """Read the metric files of a folder, some at a time."""
    files = files_of(folder)
    while part := list(islice(files, _TOGETHER)):
        names: list[str] = []
        texts: list[tuple[str, bytes]] = []
        for name, path in part:
            key = key_of(name, "metrics", where, findings)
            try:
                chunks = chunks_of(path)
                first = next(chunks)
                if len(first) < _CHUNK:
                    names.append(name)
                    texts.append((key, first))
                else:
                    yield name, key, *points.read_metric(key, chain([first], chunks))
            except OSError as error:
                what = f"metrics/{key} cannot be read: {error.strerror}"
                findings.append(Problem(where, what))
        plain = points.read_together(texts)
        for name, (key, text), metric in zip(names, texts, plain, strict=True):
            if metric is not None:
                yield name, key, metric, [], 0
            else:
                yield name, key, *points.read_metric(key, [text])


def read_metrics(
    folder: Path, where: str, start: int | None, end: int | None
) -> tuple[list[MetricHistory], list[str], list[Finding]]:
    """Read a folder of metric files; *start* and *end* are those of the run.

    Returns:
        The histories, the names of the files that name datasets, and what is wrong.
    """
    metrics: list[MetricHistory] = []
    datasets: list[str] = []
    findings: list[Finding] = []
    seconds = 0
    for name, key, metric, wrong, named in _histories(folder, where, findings):
        if named:
            datasets.append(name)
        findings += [Problem(where, f"metrics/{key}: {what}") for what in wrong[:20]]
        if len(wrong) > 20:
            what = f"metrics/{key}: {len(wrong) - 20} more lines are no points"
            findings.append(Problem(where, what))
        if SYNC_COPY.match(name):
            findings.append(
                Note(where, f"metrics/{key} looks like a sync tool's copy: kept as is")
            )
        if not len(metric.steps):
            if not wrong:
                findings.append(Problem(where, f"metrics/{key} is empty: not copied"))
            continue
        converted = points.seconds_to_millis(metric, start, end)
        seconds += converted is not None
        metrics.append(converted or metric)
    if seconds:
        what = "metric timestamps in seconds, as MLflow 0.x wrote them: read as such"
        findings.append(Note(where, what))
    return metrics, datasets, findings
