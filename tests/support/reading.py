"""Items as a test looks at them: read where they are, and in plain values."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np

from mlmigrate.contract import Selection, Source
from mlmigrate.digest import digest
from mlmigrate.locations import resolve
from mlmigrate.metrics import history
from mlmigrate.model import (
    KINDS,
    Item,
    Kind,
    MetricHistory,
    Note,
    Problem,
    Ref,
    Run,
)
from mlmigrate.testing.items import RUN


def held(store: Source, kind: Kind = "run") -> list[Item]:
    """Return all items of a kind that a store holds; none may fail."""
    found = list(store.read(list(store.refs(Selection(kind)))))
    assert all(isinstance(each, Item) for each in found), found
    return [each for each in found if isinstance(each, Item)]


def held_at(location: str, kind: Kind = "run") -> dict[str, Item]:
    """Return all items of a kind that are at a location, by their ids."""
    with closing(resolve(location).source()) as store:
        return {item.ref.id: item for item in held(store, kind)}


def only(store: Source) -> Item:
    """Return the one run that a store holds."""
    (item,) = held(store)
    return item


def run_at(location: str, id: str = RUN) -> Item:
    """Return one run of those at a location."""
    with closing(resolve(location).source()) as store:
        (found,) = store.read([Ref("run", id)])
        assert isinstance(found, Item), found
        return found


def digests(store: Source) -> dict[str, str]:
    """Return the digest of every item, without where its copies lie."""
    found = {}
    for kind in KINDS:
        for item in held(store, kind):
            versions = tuple(
                replace(each, source=None, storage_location=None)
                for each in item.versions
            )
            found[str(item.ref)] = digest(replace(item, versions=versions))
    return found


def digests_at(location: str) -> dict[str, str]:
    """Return the digest of every item at a location."""
    with closing(resolve(location).source()) as store:
        return digests(store)


def contents(store: Source, item: Item) -> dict[str, bytes]:
    """Return all artifacts of an item, each of the size that it says."""
    found = {}
    for artifact in item.artifacts:
        with store.open(item.ref, artifact.path) as file:
            found[artifact.path] = file.read()
        assert len(found[artifact.path]) == artifact.size, artifact
    return found


def header(item: Item) -> Run:
    """Return the header of a run."""
    assert isinstance(item.header, Run)
    return item.header


def params(item: Item) -> dict[str, str]:
    """Return the params by their keys."""
    return {param.key: param.value for param in item.params}


def tags(item: Item) -> dict[str, str]:
    """Return the tags by their keys."""
    return {tag.key: tag.value for tag in item.tags}


def points(item: Item) -> dict[str, list[tuple[int, int, float]]]:
    """Return steps, times and values by the keys of their metrics."""

    def rows(metric: MetricHistory) -> list[tuple[int, int, float]]:
        columns = (metric.steps, metric.timestamps, metric.values)
        return list(zip(*(column.tolist() for column in columns), strict=True))

    return {metric.key: rows(metric) for metric in item.metrics}


def problems(item: Item) -> list[str]:
    """Return what is wrong with it."""
    return [each.what for each in item.findings if isinstance(each, Problem)]


def notes(item: Item) -> list[str]:
    """Return what is told of it although nothing is wrong."""
    return [each.what for each in item.findings if isinstance(each, Note)]


def metric(key: str, *points: tuple[int, int, float]) -> MetricHistory:
    """Return the history of steps, times and values."""
    steps, times, values = zip(*points, strict=True)
    return history(
        key,
        np.array(steps, dtype=np.int64),
        np.array(times, dtype=np.int64),
        np.array(values, dtype=np.float64),
    )
