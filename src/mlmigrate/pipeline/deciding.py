"""Runs, logged models and traces: what each copy lacks is decided here, and handed to
the sink in groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from hashlib import blake2b
from typing import TypeAlias

from mlmigrate import marks, merge
from mlmigrate.ahead import Digested, Read
from mlmigrate.artifacts import checksum_of
from mlmigrate.contract import Copy, Delivery
from mlmigrate.errors import ItemError
from mlmigrate.model import (
    Conflict,
    Copied,
    Failed,
    Header,
    Item,
    LoggedModel,
    Loss,
    Note,
    Ref,
    Run,
    Skipped,
    Trace,
    Updated,
)
from mlmigrate.pipeline.job import (
    Event,
    Job,
    Prepared,
    deliver,
    label,
    prepare,
    read_one,
)
from mlmigrate.pipeline.references import has_place, look_ahead, resolved

#: A group is worth a transaction: of so many items or points.
_GROUP_ITEMS = 100
_GROUP_POINTS = 200_000
#: Traces are many and small. Their characters count as points that take as many bytes.
_GROUP_TRACES = 500
_POINT = 24

#: Tells whether an item, of the source at a place among all, is wanted.
Takes: TypeAlias = "Callable[[int, Item], bool]"


def copy_items(job: Job, read: Iterator[Read], takes: Takes) -> Iterator[Event]:
    """Copy runs, logged models or traces as they are read."""
    for at, group in _gathered(read):
        yield from _copy_group(job, at, group, takes)


def _gathered(read: Iterator[Read]) -> Iterator[Read]:
    """Join a source's batches into groups worth a transaction: of so many items or
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
            _weight(entry.item) for entry in batch if isinstance(entry, Digested)
        )
        traces = bool(batch) and _ref(batch[0]).kind == "trace"
        most = _GROUP_TRACES if traces else _GROUP_ITEMS
        if len(group) >= most or points >= _GROUP_POINTS:
            yield of, group
            group, points = [], 0
    if group:
        yield of, group


def _ref(read: Digested | Failed) -> Ref:
    return read.item.ref if isinstance(read, Digested) else read.ref


def _weight(item: Item) -> int:
    """Return how much of a transaction an item takes, in points."""
    return _points(item) + sum(len(span.content) for span in item.spans) // _POINT


def _points(item: Item) -> int:
    linked = (metric.history for metric in item.model_metrics)
    return sum(len(metric.steps) for metric in (*item.metrics, *linked))


def _copy_group(
    job: Job, at: int, group: Sequence[Digested | Failed], takes: Takes
) -> Iterator[Event]:
    prepared: dict[str, Prepared] = {}
    for read in group:
        if isinstance(read, Failed):
            yield read
            continue
        entry = prepare(read, job.options, job.sink.capabilities)
        if shared := _shared_datasets(job, at, entry.item):
            entry = replace(entry, findings=(*entry.findings, *shared))
        if not takes(at, entry.item):
            continue
        job.linked.update((at, link.model) for link in read.item.links)
        if entry.item.mark is not None:
            job.origins[at, entry.item.ref] = entry.item.origin
        if entry.item.origin in prepared:  # the same run twice in one source
            yield from _decide_and_write(job, at, list(prepared.values()))
            prepared = {}
        prepared[entry.item.origin] = entry
    yield from _decide_and_write(job, at, list(prepared.values()))


def _shared_datasets(job: Job, at: int, item: Item) -> list[Loss]:
    """Tell which dataset inputs get the source, schema and profile of another run's."""
    if not item.inputs:
        return []
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
    found = job.sink.copies([_origin(entry.item) for entry in batch])
    look_ahead(job, at, (entry.item for entry in batch))
    deliveries: list[tuple[Delivery, Prepared]] = []
    for entry in batch:
        decided = _decide(job, at, entry, found.get(_origin(entry.item)))
        if isinstance(decided, tuple):
            deliveries.append(decided)
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
            job.planned[_origin(entry.item)] = answer.ref
        made = Copied if delivery.into is None else Updated
        yield made(
            entry.item.ref,
            answer.ref,
            (*entry.findings, *answer.findings),
            answer.files,
            answer.bytes,
            _points(delivery.item),
        )
    if raced:  # perhaps another process made them meanwhile: look once more
        yield from _decide_and_write(job, at, raced, again=True)


def _origin(item: Item) -> Ref:
    return Ref(item.ref.kind, item.origin)


#: What to write, and of what; or what became of the item without writing.
_Decided: TypeAlias = "tuple[Delivery, Prepared] | list[Event]"


def _decide(job: Job, at: int, entry: Prepared, copy: Copy | None) -> _Decided:
    item, options = entry.item, job.options
    if copy is None and _origin(item) in job.planned:
        return [Skipped(item.ref, job.planned[_origin(item)], entry.findings)]
    header = item.header
    assert isinstance(header, Run | LoggedModel | Trace)
    if job.experiments.get((at, header.experiment.id)) is None:
        return [Failed(item.ref, f"its experiment {header.experiment.id} failed")]
    found = None
    if isinstance(header, LoggedModel) and not has_place(job, item):
        what = "a deleted logged model has no place at the sink"
        return [Loss(item.ref, what, carried=False)]
    if _may_lack_runs(job, header):
        found = resolved(job, at, item)
        assert found is not None
        if found.left_out:
            findings = (*entry.findings, *found.left_out)
            entry = replace(entry, digest="", findings=findings)
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
            and copy.mark.digest == entry.digest != ""
            and copy.mark.options == options.key
        )
        if same and not options.deep:
            return [Skipped(item.ref, copy.ref, entry.findings)]
    found = found or resolved(job, at, item)
    assert found is not None
    item = found.item
    delivery = Delivery(
        item,
        marks.mark_of(
            item, digest=entry.digest, options=options.key, source=label(job, at)
        ),
        label(job, at),
        open=job.sources[at][1].open if options.artifacts == "copy" else None,
        artifacts=options.artifacts,
        read_ref=entry.item.ref,
        missing_parent=found.missing_parent,
        missing_links=found.missing_links,
    )
    if copy is None:
        return delivery, entry
    return _decide_update(job, at, entry, delivery, copy)


def _may_lack_runs(job: Job, header: Header) -> bool:
    """Tell whether parts of an item may be left out as long as a run is not there."""
    if isinstance(header, LoggedModel):  # its metrics' runs may still be on their way
        return True
    facts = job.sink.capabilities.traces
    return isinstance(header, Trace) and facts is not None and facts.needs_runs


def _decide_update(
    job: Job, at: int, entry: Prepared, delivery: Delivery, copy: Copy
) -> _Decided:
    try:
        held = read_one(job.sink, copy.ref)
    except ItemError as error:  # it fails alone
        return [Failed(entry.item.ref, str(error))]
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
        held = replace(held, artifacts=(), header=_elsewhere(held.header))
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
    if found.item is None and delivery.missing_links:
        item = _nothing_of(delivery.item, held)
        return replace(delivery, item=item, into=copy.ref), entry
    if found.item is None:
        return [Skipped(entry.item.ref, copy.ref, entry.findings)]
    return replace(delivery, item=found.item, into=copy.ref), entry


def _nothing_of(item: Item, held: Item) -> Item:
    """Return a run that adds nothing to its copy but its links that wait."""
    return replace(
        item,
        header=held.header,
        params=(),
        tags=(),
        metrics=(),
        inputs=(),
        links=(),
        artifacts=(),
    )


def _elsewhere(header: Header) -> Header:
    """Return a header that does not say where its artifacts are."""
    if isinstance(header, LoggedModel | Trace):
        return replace(header, artifact_location=None)
    assert isinstance(header, Run)
    return replace(header, artifact_uri=None)


def _keep_both(job: Job, at: int, entry: Prepared, conflict: str) -> _Decided:
    """Treat a version that conflicts as an item of its own, always the same one."""
    suffix = blake2b(entry.digest.encode(), digest_size=4).hexdigest()
    origin = f"{entry.item.origin}~{suffix}"
    word = entry.item.ref.kind.replace("_", " ")
    note = Note(str(entry.item.ref), f"kept as a second {word}: {conflict}")
    other = Prepared(
        replace(entry.item, origin=origin), entry.digest, (*entry.findings, note)
    )
    wanted = _origin(other.item)
    copy = job.sink.copies([wanted]).get(wanted)
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
