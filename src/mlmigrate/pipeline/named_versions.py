"""Versions whose source names another version, ``models:/NAME/NUMBER``: they were
copied from it, within a registry (``copy_model_version``), and have its files.

At a sink that version may have another number. A store keeps where the files are beside
the source; a server that makes such a version takes the files of what is named then.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from graphlib import CycleError, TopologicalSorter
from itertools import groupby, pairwise
from typing import TypeAlias

from mlmigrate.contract import Selection
from mlmigrate.errors import ItemError
from mlmigrate.model import (
    Failed,
    Finding,
    Item,
    Loss,
    ModelVersion,
    Note,
    Ref,
    named_version,
)
from mlmigrate.pipeline.job import Job, read_one

#: The model and the number of a version.
Named: TypeAlias = "tuple[str, int]"


def read_models(job: Job) -> list[tuple[int, Item | Failed]]:
    """Read the registered models of all sources, and note their versions in the job."""
    read = [
        (at, item)
        for at, (_, source) in enumerate(job.sources)
        for item in source.read(list(source.refs(Selection("registered_model"))))
    ]
    for at, item in read:
        if isinstance(item, Item):
            for version in item.versions:
                job.registered[at, item.ref.id, version.version] = version
    return read


def with_files(job: Job, at: int, version: ModelVersion) -> ModelVersion:
    """Return a version that says where its files are: as the version says that it
    names, where it does not itself.
    """
    own, seen = version, {version.origin}
    while own.source_run is None and own.source_model is None:
        named = named_version(own.source)
        other = job.registered.get((at, *named)) if named else None
        if other is None or other.origin in seen:
            return version
        own = other
        seen.add(own.origin)
    return replace(
        version,
        source_run=own.source_run,
        source_model=own.source_model,
        source_path=own.source_path,
    )


def naming_at_sink(job: Job, at: int, item: Item) -> Item:
    """Return a model whose versions name others as these are at the sink."""
    versions: list[ModelVersion] = []
    findings: list[Finding] = []
    for version in item.versions:
        own, finding = _naming_at_sink(job, at, item.ref, version)
        if own is not None:
            versions.append(own)
        if finding is not None:
            findings.append(finding)
    return replace(item, versions=tuple(versions), findings=(*item.findings, *findings))


def _naming_at_sink(
    job: Job, at: int, ref: Ref, version: ModelVersion
) -> tuple[ModelVersion | None, Finding | None]:
    """Return the same of one version, and what is to be told; no version where the sink
    would give it the files of another one.
    """
    named = named_version(version.source)
    if named is None:
        return version, None
    there = _at_sink(job, at, named)
    label = f"version {version.version}: its source, {version.source}, is not"
    if job.sink.capabilities.follows_sources:
        if there is None or _made_anew(job, at, ref, version, named):
            source = _files(version)
            what = "it names its files instead" if source else "it is not copied"
            loss = Loss(ref, f"{label} there: {what}", carried=False)
            return (replace(version, source=source) if source else None), loss
    elif there is None and (at, *named) in job.registered:
        return version, Loss(ref, f"{label} there", carried=False)
    if there is None:
        return version, Note(str(ref), f"{label} in its store, either: it stays")
    if there != named:
        return replace(version, source=f"models:/{there[0]}/{there[1]}"), None
    return version, None


def _at_sink(job: Job, at: int, named: Named) -> Named | None:
    """Return what the sink calls the version that a source calls *named*."""
    key = (at, *named)
    if key not in job.named and key in job.registered:
        # It is none of what is copied now.
        job.named[key] = _look_up(job, named[0], job.registered[key].origin)
    return job.named.get(key)


def _look_up(job: Job, name: str, origin: str) -> Named | None:
    ref = Ref("registered_model", name)
    copy = job.sink.copies([ref]).get(ref)
    if copy is None:
        return None
    try:
        held = read_one(job.sink, copy.ref)
    except ItemError:  # whoever copies that model says so
        return None
    numbers = {version.origin: version.version for version in held.versions}
    return (copy.ref.id, numbers[origin]) if origin in numbers else None


def _made_anew(
    job: Job, at: int, ref: Ref, version: ModelVersion, named: Named
) -> bool:
    """Tell whether the version that *version* names is younger: a model of that name
    was deleted and made again since, and has other files.
    """
    own = job.registered[at, ref.id, version.version].creation_time
    other = job.registered[at, *named].creation_time
    return own is not None and other is not None and other > own


def _files(version: ModelVersion) -> str | None:
    """Return a source of a version that names its files, where they are known."""
    below = f"/{version.source_path}" if version.source_path else ""
    if version.source_model is not None:
        return f"models:/{version.source_model.id}{below}"
    if version.source_run is not None:
        return f"runs:/{version.source_run.id}{below}"
    return None


def in_order(
    models: Sequence[tuple[str, Sequence[ModelVersion]]],
) -> Iterator[tuple[int, tuple[ModelVersion, ...]]]:
    """Put the versions of models in an order in which each follows the one it names.

    The versions of a model stay together, by their numbers, where that can be.

    Args:
        models: the name of each, and its versions, as the sink will hold them.

    Yields:
        Which of the models, and some of its versions, at least once for each.
    """
    places: dict[Named, int] = {}
    versions: dict[Named, ModelVersion] = {}
    for at, (name, own) in enumerate(models):
        if not own:
            yield at, ()
        for version in own:
            places[name, version.version] = at
            versions[name, version.version] = version
    for at, keys in groupby(_sorted(versions, places), key=places.__getitem__):
        yield at, tuple(versions[key] for key in keys)


def _sorted(
    versions: Mapping[Named, ModelVersion], places: Mapping[Named, int]
) -> Iterator[Named]:
    before: dict[Named, set[Named]] = {key: set() for key in versions}
    needed: set[tuple[Named, Named]] = set()
    keys = sorted(versions)
    for lower, upper in pairwise(keys):
        if lower[0] == upper[0]:
            before[upper].add(lower)
    for key, version in versions.items():
        named = named_version(version.source)
        if named in before and named != key:
            before[key].add(named)
            needed.add((named, key))
    sorter = _acyclic(before, needed)
    ready: list[Named] = []
    place: int | None = None
    while sorter.is_active():
        ready += sorter.get_ready()
        here = [key for key in ready if places[key] == place]
        key = min(here or ready, key=lambda each: (places[each], each[1]))
        ready.remove(key)
        place = places[key]
        yield key
        sorter.done(key)


def _acyclic(
    before: Mapping[Named, set[Named]], needed: set[tuple[Named, Named]]
) -> TopologicalSorter[Named]:
    """Make a sorter; where the order of numbers contradicts what is needed, that
    yields.
    """
    while True:
        sorter = TopologicalSorter(before)
        try:
            sorter.prepare()
        except CycleError as error:
            cycle: list[Named] = error.args[1]
            edges = list(pairwise(cycle))
            lower, upper = next(
                (edge for edge in edges if edge not in needed), edges[0]
            )
            before[upper].discard(lower)
        else:
            return sorter
