"""Sources to a sink: a generator of outcomes.

Workers read, digest and fit batches of refs; this process decides what each item's
copy lacks and hands that to the sink. Nothing is remembered between two copies but
what the sink's marks say, so a copy that was killed is simply run again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from pathlib import PurePath
from typing import TypeAlias

from mlmigrate import marks, merge
from mlmigrate.ahead import Digested, Read, reading
from mlmigrate.artifacts import checksum_of, redact
from mlmigrate.contract import (
    ArtifactsMode,
    Capabilities,
    Copy,
    Delivery,
    Selection,
    Sink,
    Source,
    Written,
)
from mlmigrate.digest import digest
from mlmigrate.errors import UsageError
from mlmigrate.filters import Filters
from mlmigrate.fit import fit
from mlmigrate.locations import Opened, identity
from mlmigrate.model import (
    Conflict,
    Copied,
    Experiment,
    Failed,
    Finding,
    Item,
    Loss,
    Note,
    Outcome,
    Problem,
    Ref,
    RegisteredModel,
    Run,
    Skipped,
    Updated,
)
from mlmigrate.redaction import redacted

_GROUP_RUNS = 100
_GROUP_POINTS = 200_000

Event: TypeAlias = "Outcome | Finding | Total"


@dataclass(frozen=True, slots=True)
class Total:
    """How many items of a kind are to come: for progress bars."""

    kind: str
    items: int


@dataclass(frozen=True, slots=True)
class Options:
    """What a copy is asked for beside its stores."""

    filters: Filters = field(default_factory=Filters)
    artifacts: ArtifactsMode = "copy"
    on_conflict: merge.OnConflict = "fail"
    experiment_name: str | None = None  # a template of {store} and {name}
    redact_credentials: bool = False
    deep: bool = False
    workers: int | None = None

    @property
    def key(self) -> str:
        """The options that change what is written, as a mark holds them."""
        changing = [self.artifacts, self.redact_credentials]
        return blake2b(json.dumps(changing).encode(), digest_size=4).hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class Prepared:
    """An item, read and fitted, with the digest that it had before."""

    item: Item
    digest: str
    findings: tuple[Finding, ...]


def prepare(read: Digested, options: Options, sink: Capabilities) -> Prepared:
    """Make of an item what the sink can hold."""
    item = redacted(read.item) if options.redact_credentials else read.item
    fitted, losses = fit(item, sink)
    return Prepared(fitted, read.digest, (*read.item.findings, *losses))


@dataclass(slots=True)
class Job:
    """One copy under way."""

    sources: list[tuple[Opened, Source]]
    sink: Sink
    options: Options
    dry: bool
    experiments: dict[tuple[int, str], Ref | None] = field(default_factory=dict)
    origins: dict[tuple[int, Ref], str] = field(default_factory=dict)
    planned: dict[str, Ref] = field(default_factory=dict)
    renumbered: list[merge.Renumbered] = field(default_factory=list)


def check_distinct(sources: Sequence[Opened], sink: Opened) -> None:
    """Refuse a sink that is also a source.

    Raises:
        UsageError: it is.
    """
    for source in sources:
        if identity(source) == identity(sink):
            raise UsageError(
                f"{redact(sink.location)} is both a source and the sink: nothing to do"
            )


def copy(
    sources: Sequence[Opened], sink: Opened, options: Options, *, dry: bool = False
) -> Iterator[Event]:
    """Copy everything from *sources* into *sink*, and yield what became of each item.

    Args:
        sources: in the order in which they are read.
        sink: where to.
        options: what to copy, and how.
        dry: decide everything, but write nothing to the sink.

    Raises:
        UsageError: the sink is a source, too.
        StoreError: a store cannot be opened at all.
    """
    check_distinct(sources, sink)
    opened: list[tuple[Opened, Source]] = []
    target: Sink | None = None
    try:
        for store in sources:
            opened.append((store, store.source()))
        target = sink.sink()
        job = Job(opened, target, options, dry)
        groups, failed = read_experiments(opened, options)
        yield from failed
        wanted = wanted_runs(opened, groups)
        # A sink may take seconds to open or to make: runs are read meanwhile.
        with reading(opened, wanted, workers=options.workers) as read:
            yield from _copy_experiments(job, groups)
            yield Total("run", sum(map(len, wanted)))
            yield from _copy_runs(job, read)
        yield from _copy_models(job)
        for _, source in opened:
            yield from source.findings()
        if not dry:
            yield from target.finish()
    finally:
        for _, source in opened:
            source.close()
        if target is not None:
            target.close()


# -- experiments ----------------------------------------------------------------------


def target_name(template: str, opened: Opened, name: str) -> str:
    """Return *template* with the store's and the experiment's name filled in."""
    store = PurePath(redact(opened.location).rstrip("/"))
    label = store.parent.name if store.name in ("mlruns", "mlflow.db") else store.name
    return template.replace("{store}", label or store.name).replace("{name}", name)


#: Name at the sink -> the experiments that bear it, each with its source's place.
Groups: TypeAlias = "Mapping[str, Sequence[tuple[int, Item]]]"


def read_experiments(
    sources: Sequence[tuple[Opened, Source]], options: Options
) -> tuple[Groups, list[Failed]]:
    """Read every wanted experiment, grouped by the name that it gets at the sink."""
    groups: dict[str, list[tuple[int, Item]]] = {}
    failed: list[Failed] = []
    for at, (opened, source) in enumerate(sources):
        refs = list(source.refs(Selection("experiment")))
        for item in source.read(refs):
            if isinstance(item, Failed):
                failed.append(item)
            elif options.filters.takes_experiment(item):
                name, named = _named(item, opened, options.experiment_name)
                groups.setdefault(name, []).append((at, named))
    return groups, failed


def _named(item: Item, opened: Opened, template: str | None) -> tuple[str, Item]:
    """Return an experiment and the name that it gets at the sink."""
    assert isinstance(item.header, Experiment)
    if template is None:
        return item.header.name, item
    name = target_name(template, opened, item.header.name)
    header = replace(item.header, name=name)
    # Two stores may have equal `id/name`: the new name tells them apart.
    return name, replace(item, header=header, origin=f"{item.ref.id}/{name}")


def _copy_experiments(job: Job, groups: Groups) -> Iterator[Event]:
    yield Total("experiment", len(groups))
    deliveries: list[
        tuple[Delivery, Sequence[tuple[int, Item]], tuple[Finding, ...]]
    ] = []
    for members in groups.values():
        merged = merge.merge_experiments([item for _, item in members])
        fitted, losses = fit(merged, job.sink.capabilities)
        findings = (
            *(finding for _, item in members for finding in item.findings),
            *merged.findings,
            *losses,
        )
        held = _experiment_copy(job.sink, merged)
        mark = marks.mark_of(
            fitted,
            digest=digest(merged),
            options=job.options.key,
            source=_label(job, members[0][0]),
        )
        assert isinstance(fitted.header, Experiment)
        mark = replace(mark, lifecycle=fitted.header.lifecycle, tags=None)
        delivery = Delivery(
            fitted, mark, _label(job, members[0][0]), artifacts=job.options.artifacts
        )
        if held is not None:
            item = _read_one(job.sink, held.ref)
            added = merge.experiment_additions(item, fitted, held.mark)
            for at, member in members:
                job.experiments[at, member.ref.id] = held.ref
            if added is None:
                yield Skipped(merged.ref, held.ref, findings)
                continue
            delivery = replace(delivery, item=added, into=held.ref)
        deliveries.append((delivery, members, findings))
    answers = _deliver(job, [delivery for delivery, _, _ in deliveries])
    for (delivery, members, findings), answer in zip(deliveries, answers, strict=True):
        written = answer
        if isinstance(answer, Failed):
            # Perhaps another process made it meanwhile.
            again = _experiment_copy(job.sink, delivery.item)
            written = answer if again is None else Written(again.ref)
        for at, member in members:
            ref = written.ref if isinstance(written, Written) else None
            job.experiments[at, member.ref.id] = ref
        if isinstance(written, Failed):
            yield Failed(delivery.item.ref, written.why)
            continue
        made = Copied if delivery.into is None else Updated
        yield made(delivery.item.ref, written.ref, (*findings, *written.findings))


def _experiment_copy(sink: Sink, merged: Item) -> Copy | None:
    refs = [Ref("experiment", origin) for origin in merge.origins_of(merged.origin)]
    found = sink.copies(refs)
    return next((found[ref] for ref in refs if ref in found), None)


def _label(job: Job, at: int) -> str:
    return redact(job.sources[at][0].location)


def _read_one(store: Source, ref: Ref) -> Item:
    item = next(iter(store.read([ref])))
    if isinstance(item, Failed):
        raise UsageError(f"{ref} at {store.location} cannot be read back: {item.why}")
    return item


def _deliver(job: Job, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
    if not job.dry:
        return job.sink.write(deliveries)
    return [
        Written(
            delivery.into or delivery.item.ref,
            files=len(delivery.item.artifacts),
            bytes=sum(entry.size for entry in delivery.item.artifacts),
        )
        for delivery in deliveries
    ]


# -- runs -----------------------------------------------------------------------------


def wanted_runs(
    sources: Sequence[tuple[Opened, Source]], groups: Groups
) -> list[list[Ref]]:
    """Return the refs of each source's runs in the experiments of *groups*."""
    ids: list[set[str]] = [set() for _ in sources]
    for members in groups.values():
        for at, item in members:
            ids[at].add(item.ref.id)
    return [
        list(source.refs(Selection("run", frozenset(ids[at]))))
        for at, (_, source) in enumerate(sources)
    ]


def _copy_runs(job: Job, read: Iterator[Read]) -> Iterator[Event]:
    for at, group in _gathered(read):
        yield from _copy_group(job, at, group)


def _gathered(read: Iterator[Read]) -> Iterator[Read]:
    """Join a source's batches into groups worth a transaction: of so many runs or
    points.
    """
    group: list[Digested | Failed] = []
    points, of = 0, 0
    for at, batch in read:
        if group and at != of:
            yield of, group
            group, points = [], 0
        of = at
        group += batch
        points += sum(
            len(metric.steps)
            for entry in batch
            if isinstance(entry, Digested)
            for metric in entry.item.metrics
        )
        if len(group) >= _GROUP_RUNS or points >= _GROUP_POINTS:
            yield of, group
            group, points = [], 0
    if group:
        yield of, group


def _copy_group(
    job: Job, at: int, group: Sequence[Digested | Failed]
) -> Iterator[Event]:
    prepared: dict[str, Prepared] = {}
    for read in group:
        if isinstance(read, Failed):
            yield read
            continue
        entry = prepare(read, job.options, job.sink.capabilities)
        if not job.options.filters.takes_run(entry.item):
            continue
        if entry.item.mark is not None:
            job.origins[at, entry.item.ref] = entry.item.origin
        if entry.item.origin in prepared:  # the same run twice in one source
            yield from _decide_and_write(job, at, list(prepared.values()))
            prepared = {}
        prepared[entry.item.origin] = entry
    yield from _decide_and_write(job, at, list(prepared.values()))


def _decide_and_write(
    job: Job, at: int, batch: Sequence[Prepared], *, again: bool = False
) -> Iterator[Event]:
    if not batch:
        return
    found = job.sink.copies([Ref("run", entry.item.origin) for entry in batch])
    deliveries: list[tuple[Delivery, Prepared]] = []
    for entry in batch:
        decided = _decide(job, at, entry, found.get(Ref("run", entry.item.origin)))
        if isinstance(decided, Delivery):
            deliveries.append((decided, entry))
        else:
            yield from decided
    answers = _deliver(job, [delivery for delivery, _ in deliveries])
    raced: list[Prepared] = []
    for (delivery, entry), answer in zip(deliveries, answers, strict=True):
        if isinstance(answer, Failed):
            if delivery.into is None and not again:
                raced.append(entry)
            else:
                yield answer
            continue
        if job.dry:
            job.planned[entry.item.origin] = answer.ref
        made = Copied if delivery.into is None else Updated
        yield made(
            entry.item.ref,
            answer.ref,
            (*entry.findings, *answer.findings),
            answer.files,
            answer.bytes,
            sum(len(metric.steps) for metric in delivery.item.metrics),
        )
    if raced:  # perhaps another process made them meanwhile: look once more
        yield from _decide_and_write(job, at, raced, again=True)


def _decide(
    job: Job, at: int, entry: Prepared, copy: Copy | None
) -> Delivery | list[Event]:
    """Return what to write, or what became of the item without writing."""
    item, options = entry.item, job.options
    header = item.header
    assert isinstance(header, Run)
    if copy is None and item.origin in job.planned:
        return [Skipped(item.ref, job.planned[item.origin], entry.findings)]
    experiment = job.experiments.get((at, header.experiment.id))
    if experiment is None:
        return [Failed(item.ref, f"its experiment {header.experiment.id} failed")]
    same = copy is not None and copy.mark is not None
    if copy is not None and copy.mark is not None:
        removed = copy.lifecycle == "deleted" and copy.mark.lifecycle != "deleted"
        if removed:
            what = "its copy was deleted at the sink, and stays so"
            note = Note(str(item.ref), what)
            return [Skipped(item.ref, copy.ref, (*entry.findings, note))]
        finished = copy.lifecycle == copy.mark.lifecycle
        same = (
            finished
            and copy.mark.digest == entry.digest
            and copy.mark.options == options.key
        )
        if same and not options.deep:
            return [Skipped(item.ref, copy.ref, entry.findings)]
    parent, missing = _resolve_parent(job, at, item, header)
    item = merge.with_refs(item, experiment=experiment, parent=parent)
    delivery = Delivery(
        item,
        marks.mark_of(
            item, digest=entry.digest, options=options.key, source=_label(job, at)
        ),
        _label(job, at),
        open=job.sources[at][1].open if options.artifacts == "copy" else None,
        artifacts=options.artifacts,
        read_ref=entry.item.ref,
        missing_parent=missing,
    )
    if copy is None:
        return delivery
    return _decide_update(job, at, entry, delivery, copy)


def _decide_update(
    job: Job, at: int, entry: Prepared, delivery: Delivery, copy: Copy
) -> Delivery | list[Event]:
    held = _read_one(job.sink, copy.ref)
    assert isinstance(held.header, Run)
    mark = copy.mark
    if (
        mark is not None
        and not job.sink.capabilities.keeps_ids
        and (mark.lifecycle, copy.lifecycle) == ("deleted", "active")
    ):
        # Where a mark is no part of a transaction, the deletion comes after it: this
        # copy was killed in between.
        mark = None
    other_options = mark is not None and mark.options != job.options.key
    if other_options and job.options.artifacts == "copy":
        # What an earlier copy linked or skipped is now written.
        header = replace(held.header, artifact_uri=None)
        held = replace(held, artifacts=(), header=header)
    if job.options.artifacts != "copy":
        delivery = replace(delivery, item=replace(delivery.item, artifacts=()))
    if job.options.deep and job.options.artifacts == "copy":
        held = _without_changed(job, at, entry, held)
    same_source = mark is not None and mark.source == _label(job, at)
    found = merge.additions(held, delivery.item, mark=mark, same_source=same_source)
    if found.conflict is not None:
        match job.options.on_conflict:
            case "fail":
                return [Conflict(entry.item.ref, found.conflict, entry.findings)]
            case "keep-both":
                return _keep_both(job, at, entry, found.conflict)
            case "newest":
                pass
    if found.item is None:
        return [Skipped(entry.item.ref, copy.ref, entry.findings)]
    return replace(delivery, item=found.item, into=copy.ref)


def _keep_both(
    job: Job, at: int, entry: Prepared, conflict: str
) -> Delivery | list[Event]:
    """Treat a version that conflicts as a run of its own, always the same one."""
    suffix = blake2b(entry.digest.encode(), digest_size=4).hexdigest()
    origin = f"{entry.item.origin}~{suffix}"
    note = Note(str(entry.item.ref), f"kept as a second run: {conflict}")
    other = Prepared(
        replace(entry.item, origin=origin), entry.digest, (*entry.findings, note)
    )
    copy = job.sink.copies([Ref("run", origin)]).get(Ref("run", origin))
    return _decide(job, at, other, copy)


def _without_changed(job: Job, at: int, entry: Prepared, held: Item) -> Item:
    """Return the copy without the artifacts whose bytes differ from the source's."""
    source = job.sources[at][1]
    wanted = {artifact.path for artifact in entry.item.artifacts}
    kept = []
    for artifact in held.artifacts:
        if artifact.path in wanted:
            with (
                source.open(entry.item.ref, artifact.path) as one,
                job.sink.open(held.ref, artifact.path) as other,
            ):
                if checksum_of(one) != checksum_of(other):
                    continue
        kept.append(artifact)
    return replace(held, artifacts=tuple(kept))


def _origin_of(job: Job, at: int, ref: Ref) -> str:
    """Return the origin of a run of a source: its id, unless it is itself a copy."""
    known = job.origins.get((at, ref))
    if known is not None:
        return known
    item = next(iter(job.sources[at][1].read([ref])), None)
    origin = item.origin if isinstance(item, Item) else ref.id
    job.origins[at, ref] = origin
    return origin


def _resolve_parent(
    job: Job, at: int, item: Item, header: Run
) -> tuple[Ref | None, str | None]:
    """Return the parent's ref at the sink, and its origin where it is not there yet."""
    if header.parent is None:
        return None, None
    # Only a run that is itself a copy can have a parent whose id is not its origin.
    origin = header.parent.id
    if item.mark is not None:
        origin = _origin_of(job, at, header.parent)
    wanted = Ref("run", origin)
    if job.sink.capabilities.keeps_ids:
        return wanted, None
    found = job.sink.copies([wanted]).get(wanted)
    return (found.ref, None) if found is not None else (None, origin)


# -- the registry ---------------------------------------------------------------------


def _copy_models(job: Job) -> Iterator[Event]:
    groups: dict[str, list[tuple[int, Item]]] = {}
    for at, (_, source) in enumerate(job.sources):
        for item in source.read(list(source.refs(Selection("registered_model")))):
            if isinstance(item, Failed):
                yield item
                continue
            resolved = resolve_versions(job, at, item)
            if resolved is not None:
                assert isinstance(item.header, RegisteredModel)
                groups.setdefault(item.header.name, []).append((at, resolved))
    yield Total("registered_model", len(groups))
    for name, members in groups.items():
        yield from _copy_model(job, name, members)


def resolve_versions(job: Job, at: int, item: Item) -> Item | None:
    """Return the model with its versions' runs replaced by the sink's; None where a
    filter leaves none of its runs.
    """
    versions = []
    for version in item.versions:
        origins = {
            ref: Ref("run", _origin_of(job, at, ref))
            for ref in (version.run, version.source_run)
            if ref is not None
        }
        found = job.sink.copies(list(origins.values()))
        here = {
            ref: found[origin].ref for ref, origin in origins.items() if origin in found
        }
        for ref, origin in origins.items():
            if origin.id in job.planned:
                here.setdefault(ref, job.planned[origin.id])
        if job.options.filters.narrow and not here:
            continue
        keep = job.sink.capabilities.keeps_ids
        versions.append(
            replace(
                version,
                run=here.get(version.run, version.run if keep else None)
                if version.run
                else None,
                source_run=here.get(version.source_run) if version.source_run else None,
            )
        )
    if job.options.filters.narrow and not versions:
        return None
    return replace(item, versions=tuple(versions))


def _copy_model(
    job: Job, name: str, members: Sequence[tuple[int, Item]]
) -> Iterator[Event]:
    fitted_items, findings = [], []
    for _, item in members:
        fitted, losses = fit(item, job.sink.capabilities)
        fitted_items.append(fitted)
        findings += [*item.findings, *losses]
    ref = Ref("registered_model", name)
    copy = job.sink.copies([ref]).get(ref)
    held = _read_one(job.sink, copy.ref) if copy is not None else None
    merged, renumbered, notes = merge.merge_models(fitted_items, held)
    findings += notes
    for change in renumbered:
        if change not in job.renumbered:
            job.renumbered.append(change)
            what = f"version {change.old} is version {change.new} at the sink"
            findings.append(Note(f"registered_model/{name}", what))
    if merged is None:
        assert copy is not None
        yield Skipped(ref, copy.ref, tuple(findings))
        return
    mark = marks.mark_of(
        merged,
        digest=digest(merged),
        options=job.options.key,
        source=_label(job, members[0][0]),
    )
    into = copy.ref if copy is not None else None
    delivery = Delivery(merged, mark, _label(job, members[0][0]), into=into)
    (answer,) = _deliver(job, [delivery])
    if isinstance(answer, Failed):
        yield answer
        return
    made = Copied if into is None else Updated
    yield made(ref, answer.ref, (*findings, *answer.findings))


def is_loss(finding: Finding) -> bool:
    """Tell whether a finding means that something did not arrive."""
    return isinstance(finding, Problem) or (
        isinstance(finding, Loss) and not finding.carried
    )
