"""Runs: what each copy lacks is decided here, and handed to the sink in groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b

from mlmigrate import marks, merge
from mlmigrate.ahead import Digested, Read, batches
from mlmigrate.artifacts import checksum_of
from mlmigrate.contract import Copy, Delivery, Glance, Glancing, Selection, Source
from mlmigrate.errors import ItemError
from mlmigrate.locations import Opened
from mlmigrate.model import (
    TERMINAL,
    Conflict,
    Copied,
    Failed,
    Item,
    Loss,
    Note,
    Ref,
    Run,
    Skipped,
    Updated,
)
from mlmigrate.pipeline.experiments import Groups
from mlmigrate.pipeline.job import (
    Event,
    Job,
    Prepared,
    deliver,
    label,
    origin_of,
    prepare,
    read_one,
)

#: A group is worth a transaction: of so many runs or points.
_GROUP_RUNS = 100
_GROUP_POINTS = 200_000
#: Runs whose state is asked for at once.
_GLANCES = 500


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


def unread(
    job: Job, wanted: Sequence[Sequence[Ref]]
) -> tuple[list[Skipped], list[list[Ref]]]:
    """Sort out runs that need not be read: they had ended when they were copied, and
    neither they nor their copies have changed state since.
    """
    skipped: list[Skipped] = []
    rest: list[list[Ref]] = []
    for (_, source), refs in zip(job.sources, wanted, strict=True):
        known: dict[Ref, Ref] = {}
        if isinstance(source, Glancing):
            for part in batches(refs, _GLANCES):
                known.update(_unchanged(job, source.glance(part)))
        skipped += [Skipped(ref, copy) for ref, copy in known.items()]
        rest.append([ref for ref in refs if ref not in known])
    return skipped, rest


def _unchanged(job: Job, glances: Iterable[Glance]) -> Iterator[tuple[Ref, Ref]]:
    seen = {glance: Ref("run", glance.origin) for glance in glances}
    found = job.sink.copies(seen.values())
    for glance, origin in seen.items():
        copy = found.get(origin)
        if copy is None or copy.mark is None or glance.status not in TERMINAL:
            continue
        mark = copy.mark
        if (mark.status, mark.end_time, mark.lifecycle, mark.options) == (
            glance.status,
            glance.end_time,
            glance.lifecycle,
            job.options.key,
        ) and copy.lifecycle == mark.lifecycle:
            yield glance.ref, copy.ref


def copy_runs(job: Job, read: Iterator[Read]) -> Iterator[Event]:
    """Copy runs as they are read."""
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
        if shared := _shared_datasets(job, at, entry.item):
            entry = replace(entry, findings=(*entry.findings, *shared))
        if not job.options.filters.takes_run(entry.item):
            continue
        if entry.item.mark is not None:
            job.origins[at, entry.item.ref] = entry.item.origin
        if entry.item.origin in prepared:  # the same run twice in one source
            yield from _decide_and_write(job, at, list(prepared.values()))
            prepared = {}
        prepared[entry.item.origin] = entry
    yield from _decide_and_write(job, at, list(prepared.values()))


def _shared_datasets(job: Job, at: int, item: Item) -> list[Loss]:
    """Tell which dataset inputs get the source, schema and profile of another run's."""
    assert isinstance(item.header, Run)
    experiment = job.experiments.get((at, item.header.experiment.id))
    if experiment is None or not job.sink.capabilities.one_dataset_a_digest:
        return []
    losses = []
    for entry in item.inputs:
        rest = [entry.source_type, entry.source, entry.schema, entry.profile]
        own = blake2b(repr(rest).encode("utf-8", "surrogatepass"), digest_size=8)
        key = (experiment, entry.name, entry.digest)
        if job.datasets.setdefault(key, own.digest()) != own.digest():
            what = (
                f"dataset {entry.name} ({entry.digest}): an earlier run's of that name"
                " and digest has another source, schema or profile, which stays"
            )
            losses.append(Loss(item.ref, what, carried=False))
    return losses


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
    answers = deliver(job, [delivery for delivery, _ in deliveries])
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
            item, digest=entry.digest, options=options.key, source=label(job, at)
        ),
        label(job, at),
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
    try:
        held = read_one(job.sink, copy.ref)
    except ItemError as error:  # it fails alone
        return [Failed(entry.item.ref, str(error))]
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
    same_source = mark is not None and mark.source == label(job, at)
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
    """Return the copy without the artifacts whose bytes differ from the source's, or
    cannot be compared: those are written anew, or that tells what is wrong.
    """
    source = job.sources[at][1]
    wanted = {artifact.path for artifact in entry.item.artifacts}
    kept = []
    for artifact in held.artifacts:
        if artifact.path in wanted:
            try:
                with (
                    source.open(entry.item.ref, artifact.path) as one,
                    job.sink.open(held.ref, artifact.path) as other,
                ):
                    if checksum_of(one) != checksum_of(other):
                        continue
            except (OSError, ItemError):
                continue
        kept.append(artifact)
    return replace(held, artifacts=tuple(kept))


def _resolve_parent(
    job: Job, at: int, item: Item, header: Run
) -> tuple[Ref | None, str | None]:
    """Return the parent's ref at the sink, and its origin where it is not there yet."""
    if header.parent is None:
        return None, None
    # Only a run that is itself a copy can have a parent whose id is not its origin.
    origin = header.parent.id
    if item.mark is not None:
        origin = origin_of(job, at, header.parent)
    wanted = Ref("run", origin)
    if job.sink.capabilities.keeps_ids:
        return wanted, None
    found = job.sink.copies([wanted]).get(wanted)
    return (found.ref, None) if found is not None else (None, origin)
