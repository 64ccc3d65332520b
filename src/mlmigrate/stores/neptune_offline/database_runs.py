"""Runs that the 3.x client left: the operations in their databases, done again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from mlmigrate.errors import StoreError
from mlmigrate.model import Note, Problem
from mlmigrate.neptune_runs.attributes import MILLIONTHS, Scalar
from mlmigrate.protobuf import decode
from mlmigrate.stores.neptune_offline import database
from mlmigrate.stores.neptune_offline.database import Head
from mlmigrate.stores.neptune_offline.gathered import Gathered
from mlmigrate.stores.neptune_offline.made import Made
from mlmigrate.stores.neptune_offline.schema import MESSAGES
from mlmigrate.stores.neptune_offline.snapshots import (
    Scope,
    Snapshots,
    milliseconds,
    step_of,
)
from mlmigrate.stores.neptune_offline.told import Told


def told_by_databases(
    heads: Sequence[Head],
    family: Mapping[str, tuple[Head, ...]],
    made: Made,
    temporary: str | None,
) -> Told:
    """Return a run that a 3.x client left.

    Args:
        heads: its databases, oldest first.
        family: those of all runs of its project, by their ids.
        made: where files go that are made.
        temporary: where copies of databases go, if any are needed.
    """
    told = Told(Gathered(made), str(heads[-1].path))
    snapshots = Snapshots(told.gathered)
    above = list(_above(heads[0].id, heads, family))
    for id, limit, configs in reversed(above):
        if id not in family:
            what = (
                f"run {id}, which it was forked from, is not in this folder: what it"
                " has from there is not copied"
            )
            told.found.append(Problem(told.where, what))
        for head in family.get(id, ()):
            _replay(told, head, snapshots, temporary, limit, configs=configs)
    for head in heads:
        _replay(told, head, snapshots, temporary)
        _add_creation(told, head)
    told.finish()
    return told


def _above(
    id: str, heads: Sequence[Head], family: Mapping[str, tuple[Head, ...]]
) -> Iterator[tuple[str, int, bool]]:
    """Yield the runs that a run comes from, nearest first: the last step of each that
    counts, and whether its configs do.
    """
    seen, configs = {id}, True
    limit: int | None = None
    while heads and (fork := _fork_of(heads[0])):
        configs = configs and creation_of(heads[0]).get("inherit_configs", True)
        id, step = fork
        if id in seen:
            return  # no run comes from itself
        seen.add(id)
        limit = step if limit is None else min(limit, step)
        yield id, limit, configs
        heads = family.get(id, ())


def _replay(
    told: Told,
    head: Head,
    snapshots: Snapshots,
    temporary: str | None,
    limit: int | None = None,
    *,
    configs: bool = True,
) -> None:
    """Do the operations of one database again: with a limit, those of a parent."""
    name = f"{head.path.parent.name}/{head.path.name}"
    numbers: list[int] = []  # the first and the last
    read = 0
    damaged: Counter[str] = Counter()
    try:
        with database.opened(head.path, temporary) as opened:
            if "run_operations" not in opened.tables:
                told.wrong(name, ["it has no table of operations"])
                return
            scope = Scope(opened.requests(), head.path.parent, limit, configs)
            for number, time, type, data in opened.operations():
                numbers = [numbers[0] if numbers else number, number]
                read += 1
                if limit is None and isinstance(time, int):
                    told.saw(time)
                if type != database.CREATE_RUN:
                    try:
                        snapshots.apply(data, scope)
                    except (ValueError, TypeError, OverflowError) as error:
                        damaged[str(error)] += 1
            written = max(opened.written(), numbers[1] if numbers else 0)
            errors = opened.errors() if limit is None else []
    except StoreError as error:
        told.wrong(name, [f"after {read} operations: {error}"])
        return
    told.wrong(
        name,
        [
            f"{count} operations cannot be read: {what}"
            for what, count in damaged.items()
        ],
    )
    first, last = numbers or (written + 1, written)
    if missing := last - first + 1 - read:
        told.wrong(name, [f"{missing} operations are not there"])
    if limit is not None and first > 1:
        what = (
            f"{first - 1} operations were sent and removed: the run was forked from it"
        )
        told.wrong(name, [what])
    if limit is None:
        told.sent += first - 1
        told.removed += first - 1
        told.written += written
        told.found += _about(errors, told.where)


def _about(errors: Iterable[str], where: str) -> list[Note]:
    counts = Counter(errors)
    return [
        Note(where, f"{count} errors that its client told of: {what}")
        for what, count in list(counts.items())[:20]
    ]


def creation_of(head: Head) -> dict[str, Any]:
    """Return the operation that created a run; nothing where it cannot be read."""
    try:
        return decode(head.creation or b"", "Run", MESSAGES)
    except ValueError:
        return {}


def _fork_of(head: Head) -> tuple[str, int] | None:
    """Return the run that a run was forked from, and the step in millionths."""
    fork = creation_of(head).get("fork_point", {})
    if not fork.get("parent_run_id"):
        return None
    return fork["parent_run_id"], step_of(fork.get("step", {}))


def _add_creation(told: Told, head: Head) -> None:
    said = creation_of(head)
    scalars = told.gathered.scalars
    created = milliseconds(said.get("creation_time"))
    if created is not None:
        scalars.setdefault("sys/creation_time", Scalar("datetime", created))
    fork = _fork_of(head)
    for path, text in (
        ("sys/custom_run_id", head.id),
        ("sys/family", said.get("family")),
        ("sys/experiment/name", said.get("experiment_id")),
        ("sys/name", said.get("experiment_id")),
        ("sys/forking/parent", fork and fork[0]),
    ):
        if text:
            scalars.setdefault(path, Scalar("string", text))
    if fork:
        step = Scalar("float", fork[1] / MILLIONTHS)
        scalars.setdefault("sys/forking/step", step)
    if head.version:
        told.about["storage_version"] = head.version
