"""Compare what a sink reads back with what its sources hold, value by value.

What is expected is ``fit(merge(sources))``, the very functions that a copy uses, on a
fresh reading of both sides. Artifacts are compared byte by byte.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TypeAlias

from mlmigrate import entities, merge
from mlmigrate.ahead import Digested, reading
from mlmigrate.artifacts import checksum_of
from mlmigrate.contract import Copy, Selection
from mlmigrate.differences import (
    Different,
    Extra,
    count_different,
    differences,
    model_values,
    one_of,
    version_differences,
)
from mlmigrate.entities import ENTITIES
from mlmigrate.errors import ItemError
from mlmigrate.fit.entities import switched
from mlmigrate.locations import Opened
from mlmigrate.model import (
    Failed,
    Finding,
    Item,
    Kind,
    LoggedModel,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Trace,
)
from mlmigrate.pipeline.deciding import Takes
from mlmigrate.pipeline.entities import note_own, placed, takes_entity
from mlmigrate.pipeline.experiments import Groups, read_experiments
from mlmigrate.pipeline.job import (
    Job,
    Options,
    Total,
    fitted,
    prepare,
)
from mlmigrate.pipeline.logged_models import takes_model
from mlmigrate.pipeline.models import resolve_versions
from mlmigrate.pipeline.named_versions import naming_at_sink, read_models
from mlmigrate.pipeline.references import has_place, look_ahead, resolved
from mlmigrate.pipeline.runs import wanted
from mlmigrate.pipeline.traces import takes_trace
from mlmigrate.pipeline.workspaces import Pass, passes

__all__ = ["Different", "Extra", "Missing", "Same", "Verdict", "verify"]


@dataclass(frozen=True, slots=True)
class Same:
    """An item of which nothing differs."""

    ref: Ref


@dataclass(frozen=True, slots=True)
class Missing:
    """An item that the sink does not hold."""

    ref: Ref


Verdict: TypeAlias = Same | Different | Missing | Extra | Finding | Total


def verify(
    sources: Sequence[Opened], sink: Opened, options: Options
) -> Iterator[Verdict]:
    """Read both sides and yield a verdict for every item.

    Raises:
        UsageError: the sink is a source, too.
        StoreError: a store cannot be opened at all.
    """
    with closing(passes(sources, sink)) as each:
        for one in each:
            if isinstance(one, Problem):
                yield one
                continue
            yield from one.problems
            yield from _Verification(one, options).verdicts()


@dataclass(slots=True)
class _Later:
    """Versions of one item from several places, compared once all are read."""

    versions: list[tuple[int, Ref]]
    copy: Copy | None


class _Verification:
    def __init__(self, one: Pass, options: Options) -> None:
        self._sources = one.sources
        self._sink = one.sink
        self._options = options
        self._job = Job(
            self._sources, self._sink, options, dry=False, workspace=one.workspace
        )
        self._seen: dict[Kind, set[Ref]] = defaultdict(set)
        self._several: set[str] = set()

    def verdicts(self) -> Iterator[Verdict]:
        groups, failed = read_experiments(self._sources, self._options)
        for failure in failed:
            yield Problem(str(failure.ref), failure.why)
        yield from self._verify_experiments(groups)
        filters = self._options.filters
        yield from self._verify_items(
            "run", groups, lambda _, run: filters.takes_run(run)
        )
        if self._sink.capabilities.logged_models is not None:
            yield from self._verify_items(
                "logged_model",
                groups,
                lambda at, item: (
                    takes_model(self._job, at, item) and has_place(self._job, item)
                ),
            )
        if filters.takes("registered_model"):
            yield from self._verify_models()
        if self._sink.capabilities.traces is not None:
            yield from self._verify_items(
                "trace", groups, lambda at, item: takes_trace(self._job, at, item)
            )
        yield from self._verify_entities(groups)
        yield from self._sink.findings()
        for kind, seen in self._seen.items():
            count = sum(ref not in seen for ref in self._sink.refs(Selection(kind)))
            if count:
                yield Extra(kind, count)

    def _fitted(self, item: Item) -> Item:
        return fitted(item, self._options, self._sink.capabilities)[0]

    # -- experiments ----------------------------------------------------------

    def _verify_experiments(self, groups: Groups) -> Iterator[Verdict]:
        self._seen["experiment"] = set()
        yield Total("experiment", len(groups))
        for members in groups.values():
            merged = merge.merge_experiments([item for _, item in members])
            expected = self._fitted(merged)
            refs = [Ref("experiment", each) for each in merge.origins_of(merged.origin)]
            found = self._sink.copies(refs)
            copy = next((found[ref] for ref in refs if ref in found), None)
            for at, item in members:
                self._job.experiments[at, item.ref.id] = copy.ref if copy else None
            if copy is None:
                if self._has_place():
                    yield Missing(merged.ref)
                continue
            self._seen["experiment"].add(copy.ref)
            held = self._read_back(copy.ref)
            if isinstance(held, Failed):
                yield Different(merged.ref, "experiment", "readable", held.why)
                continue
            yield from self._judge(merged.ref, list(differences(expected, held)))

    def _has_place(self) -> bool:
        """Tell whether the sink has a place for what is no run."""
        if not self._sink.capabilities.needs_a_run:
            return True
        return next(iter(self._sink.refs(Selection("run"))), None) is not None

    def _read_back(self, ref: Ref) -> Item | Failed:
        return next(iter(self._sink.read([ref])))

    def _judge(self, ref: Ref, found: list[Different | Extra]) -> Iterator[Verdict]:
        if not any(isinstance(each, Different) for each in found):
            yield Same(ref)
        for each in found:
            yield replace(each, ref=ref) if isinstance(each, Different) else each

    # -- runs, logged models and traces -------------------------------------------

    def _verify_items(
        self, kind: Kind, groups: Groups, takes: Takes
    ) -> Iterator[Verdict]:
        if not self._options.filters.takes(kind):
            return
        self._seen[kind] = set()
        found = wanted(self._job, groups, kind)
        times = Counter(ref.id for refs in found for ref in refs)
        self._several = {id for id, count in times.items() if count > 1}
        yield Total(kind, sum(map(len, found)))
        later: dict[Ref, _Later] = {}
        with reading(self._sources, found, workers=self._options.workers) as read:
            for at, batch in read:
                yield from self._verify_batch(at, batch, later, takes)
        for origin, versions in later.items():
            yield from self._verify_versions(origin, versions)

    def _verify_batch(
        self,
        at: int,
        batch: Sequence[Digested | Failed],
        later: dict[Ref, _Later],
        takes: Takes,
    ) -> Iterator[Verdict]:
        items: list[Item] = []
        for read in batch:
            if isinstance(read, Failed):
                yield Problem(str(read.ref), read.why)
                continue
            entry = prepare(read, self._options, self._sink.capabilities)
            for finding in entry.findings:
                if isinstance(finding, Problem):
                    yield finding
            if takes(at, entry.item):
                items.append(entry.item)
                links = read.item.links
                self._job.linked.update((at, link.model) for link in links)
        found = self._sink.copies([_origin(item) for item in items])
        look_ahead(self._job, at, items)
        single: list[tuple[Item, Copy]] = []
        for item in items:
            copy = found.get(_origin(item))
            if copy is not None:
                self._seen[copy.ref.kind].add(copy.ref)
            if item.ref.id in self._several or _origin(item) in later:
                entry_later = later.setdefault(_origin(item), _Later([], copy))
                entry_later.versions.append((at, item.ref))
            elif copy is None:
                yield Missing(item.ref)
            else:
                single.append((item, copy))
        held = self._sink.read([copy.ref for _, copy in single])
        for (item, copy), back in zip(single, held, strict=True):
            yield from self._compare(at, item, copy, back)

    def _compare(
        self, at: int, item: Item, copy: Copy, held: Item | Failed
    ) -> Iterator[Verdict]:
        if isinstance(held, Failed):
            yield Different(item.ref, item.ref.kind, "readable", held.why)
            return
        found = list(differences(self._resolved(at, item), held))
        found += self._references(at, item, held)
        if copy.mark is None:
            found.append(Different(item.ref, "tag mlmigrate.mark", "complete", None))
        if self._options.artifacts == "copy":
            found += self._artifacts(at, item, held)
        yield from self._judge(item.ref, found)

    def _resolved(self, at: int, item: Item) -> Item:
        """Return an item with the references that its copy should have."""
        found = resolved(self._job, at, item)
        return item if found is None else found.item

    def _references(self, at: int, item: Item, held: Item) -> list[Different | Extra]:
        assert isinstance(item.header, Run | LoggedModel | Trace)
        assert isinstance(held.header, Run | LoggedModel | Trace)
        found: list[Different | Extra] = []
        home = self._job.experiments.get((at, item.header.experiment.id))
        if home != held.header.experiment:
            found.append(
                Different(
                    item.ref, "experiment", str(home), str(held.header.experiment)
                )
            )
        if not isinstance(item.header, Run) or not isinstance(held.header, Run):
            return found
        parent = item.header.parent
        if parent is None:
            return found
        origin = parent.id
        if item.mark is not None:
            source = next(iter(self._sources[at][1].read([parent])))
            origin = source.origin if isinstance(source, Item) else parent.id
        copy = self._sink.copies([Ref("run", origin)]).get(Ref("run", origin))
        own = held.header.parent
        if copy is not None and copy.ref != own:
            found.append(Different(item.ref, "parent", str(copy.ref), str(own)))
        elif copy is None and self._sink.capabilities.keeps_ids and own is None:
            found.append(Different(item.ref, "parent", origin, None))
        return found

    def _artifacts(self, at: int, item: Item, held: Item) -> list[Different | Extra]:
        source = self._sources[at][1]
        own = {artifact.path: artifact.size for artifact in held.artifacts}
        found: list[Different | Extra] = []
        for artifact in item.artifacts:
            path = artifact.path
            if path not in own:
                found.append(
                    Different(item.ref, f"artifact {path}", artifact.size, None)
                )
                continue
            try:
                with source.open(item.ref, path) as one:
                    checksum = checksum_of(one)
                with self._sink.open(held.ref, path) as other:
                    got = checksum_of(other)
            except (OSError, ItemError) as error:
                found.append(
                    Different(item.ref, f"artifact {path}", "readable", str(error))
                )
                continue
            if checksum != got:
                found.append(Different(item.ref, f"artifact {path}", checksum, got))
        extra = len(own.keys() - {artifact.path for artifact in item.artifacts})
        if extra:
            found.append(Extra("artifact", extra))
        return found

    def _verify_versions(self, origin: Ref, later: _Later) -> Iterator[Verdict]:
        """Compare an item that stands in several places with the union of them."""
        items: list[tuple[int, Item]] = []
        for at, ref in later.versions:
            item = next(iter(self._sources[at][1].read([ref])))
            if isinstance(item, Item):
                items.append((at, self._resolved(at, self._fitted(item))))
        if not items:  # they went away, or broke, since they were read
            yield Problem(str(origin), "can no longer be read from its sources")
            return
        first = items[0][1]
        if later.copy is None:
            yield Missing(first.ref)
            return
        held = self._read_back(later.copy.ref)
        if isinstance(held, Failed):
            yield Different(first.ref, first.ref.kind, "readable", held.why)
            return
        orders = (items, items[::-1])
        best: list[Different | Extra] | None = None
        for order in orders:
            expected = merge.combined([item for _, item in order])
            found = list(differences(expected, held))
            if self._options.artifacts == "copy":
                for at, item in _owners(items, expected):
                    found += [
                        each
                        for each in self._artifacts(at, item, held)
                        if isinstance(each, Different)
                    ]
                known = {artifact.path for artifact in expected.artifacts}
                extra = sum(file.path not in known for file in held.artifacts)
                found += [Extra("artifact", extra)] * bool(extra)
            if best is None or count_different(found) < count_different(best):
                best = found
            if not count_different(best):
                break
        assert best is not None
        yield from self._judge(origin, best)

    # -- the registry -----------------------------------------------------------

    def _verify_models(self) -> Iterator[Verdict]:
        self._seen["registered_model"] = set()
        groups: dict[str, list[tuple[int, Item]]] = {}
        for at, item in read_models(self._job):
            if isinstance(item, Failed):
                yield Problem(str(item.ref), item.why)
                continue
            for finding in item.findings:
                if isinstance(finding, Problem):
                    yield finding
            own = resolve_versions(self._job, at, item)
            if own is None or not self._has_place():
                continue  # the copy tells of what has no place
            expected = self._fitted(own)
            assert isinstance(expected.header, RegisteredModel)
            groups.setdefault(expected.header.name, []).append((at, expected))
        read: list[tuple[Ref, list[tuple[int, Item]], Item]] = []
        for name, members in groups.items():
            ref = Ref("registered_model", name)
            copy = self._sink.copies([ref]).get(ref)
            if copy is None:
                yield Missing(ref)
                continue
            self._seen["registered_model"].add(copy.ref)
            held = self._read_back(copy.ref)
            if isinstance(held, Failed):
                yield Different(ref, "registered model", "readable", held.why)
                continue
            read.append((ref, self._numbered(name, members, held), held))
        for ref, members, held in read:
            yield from self._verify_model(ref, members, held)

    def _numbered(
        self, name: str, members: Sequence[tuple[int, Item]], held: Item
    ) -> list[tuple[int, Item]]:
        """Note which numbers the versions of a model have at the sink, and return the
        models with the origins that these have there.
        """
        by_origin = {version.origin: version for version in held.versions}
        items = merge.told_apart([item for _, item in members], by_origin)
        for (at, _), item in zip(members, items, strict=True):
            for version in item.versions:
                own = by_origin.get(version.origin)
                key = (at, item.ref.id, version.version)
                self._job.named[key] = (held.ref.id, own.version) if own else None
                if own is not None and own.version != version.version:
                    self._job.versions[at, name, version.version] = own.version
        return [(at, item) for (at, _), item in zip(members, items, strict=True)]

    def _verify_model(
        self, ref: Ref, members: Sequence[tuple[int, Item]], held: Item
    ) -> Iterator[Verdict]:
        found: list[Different | Extra] = []
        by_origin = {version.origin: version for version in held.versions}
        items = [naming_at_sink(self._job, at, item) for at, item in members]
        places = Counter(version.origin for item in items for version in item.versions)
        for item in items:
            for version in item.versions:
                own = by_origin.get(version.origin)
                if own is None:
                    label = f"version {version.version}"
                    found.append(Different(ref, label, version.origin, None))
                    continue
                differing = version_differences(ref, version, own)
                if places[version.origin] > 1:
                    # The same version in two places: the one met first was copied.
                    differing = (
                        each
                        for each in differing
                        if not each.field.endswith("last_updated_time")
                    )
                found += differing
        found += one_of(ref, model_values(items), model_values([held]))
        yield from self._judge(ref, found)

    # -- entities ---------------------------------------------------------------

    def _verify_entities(self, groups: Groups) -> Iterator[Verdict]:
        for kind in ENTITIES:
            if kind not in self._sink.capabilities.entities:
                continue  # the copy tells of what has no place
            # The workspace that all goes into need not be one of the sources'.
            if self._options.filters.takes(kind) and not ENTITIES[kind].houses:
                self._seen[kind] = set()
            found = wanted(self._job, groups, kind)
            note_own(self._job, found)
            for at, refs in enumerate(found):
                for item in self._sources[at][1].read(refs):
                    if isinstance(item, Failed):
                        yield Problem(str(item.ref), item.why)
                    elif takes_entity(self._job, at, item):
                        yield from self._verify_entity(at, item)

    def _verify_entity(self, at: int, item: Item) -> Iterator[Verdict]:
        try:
            expected = placed(self._job, at, item)
        except ItemError as error:
            yield Problem(str(item.ref), str(error))
            return
        if isinstance(expected, Failed) or expected.copy is None:
            yield Missing(item.ref)
            return
        for finding in expected.findings:
            if isinstance(finding, Problem):
                yield finding
        ref = expected.copy.ref
        self._seen[ref.kind].add(ref)
        held = self._read_back(ref)
        if isinstance(held, Failed):
            yield Different(item.ref, item.ref.kind, "readable", held.why)
            return
        columns = self._sink.capabilities.columns
        item = switched(expected.item, held, self._sink.capabilities)
        lacking = merge.entity_additions(held, item, columns)
        standing = entities.by_place(ref.kind, held.rows)
        found: list[Different | Extra] = []
        # Where the times at the sink are its own, they do not tell what was changed.
        older = () if columns is None else lacking.older
        for row in (*lacking.rows, *lacking.refused, *older):
            table, said = entities.table_of(ref.kind, row), entities.values(row)
            own = standing.get((row.table, entities.key(table, said)))
            label = entities.label(table, said)
            found.append(Different(item.ref, label, row.values, own and own.values))
        yield from self._judge(item.ref, found)


def _origin(item: Item) -> Ref:
    return Ref(item.ref.kind, item.origin)


def _owners(
    items: Sequence[tuple[int, Item]], expected: Item
) -> list[tuple[int, Item]]:
    """Return each version with those of its artifacts that are expected at the sink."""
    left = {artifact.path: artifact for artifact in expected.artifacts}
    owners = []
    for at, item in items:
        mine = [
            artifact
            for artifact in item.artifacts
            if left.get(artifact.path) == artifact
        ]
        for artifact in mine:
            del left[artifact.path]
        owners.append((at, replace(item, artifacts=tuple(mine))))
    return owners
