"""Experiments: those of one name become one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TypeAlias

from mlmigrate import marks, merge
from mlmigrate.artifacts import redact
from mlmigrate.contract import Copy, Delivery, Selection, Sink, Source, Written
from mlmigrate.digest import digest
from mlmigrate.locations import Opened, workspace_of
from mlmigrate.model import (
    Copied,
    Experiment,
    Failed,
    Finding,
    Item,
    Loss,
    Ref,
    Skipped,
    Updated,
)
from mlmigrate.pipeline.job import (
    Event,
    Job,
    Options,
    Total,
    deliver,
    fitted,
    label,
    read_one,
)


def target_name(template: str, opened: Opened, name: str) -> str:
    """Return *template* with the names of the store, of its workspace and of the
    experiment filled in.
    """
    store = PurePath(redact(opened.location).rstrip("/"))
    label = store.parent.name if store.name in ("mlruns", "mlflow.db") else store.name
    template = template.replace("{store}", label or store.name)
    template = template.replace("{workspace}", workspace_of(opened))
    return template.replace("{name}", name)


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


def copy_experiments(job: Job, groups: Groups) -> Iterator[Event]:
    """Copy experiments, and note in *job* which became which."""
    if job.sink.capabilities.needs_a_run and not has_runs(job):
        yield from _no_place(groups)
        groups = {}
    yield Total("experiment", len(groups))
    deliveries: list[
        tuple[Delivery, Sequence[tuple[int, Item]], tuple[Finding, ...]]
    ] = []
    for members in groups.values():
        merged = merge.merge_experiments([item for _, item in members])
        fitting, found = fitted(merged, job.options, job.sink.capabilities)
        findings = (
            *(finding for _, item in members for finding in item.findings),
            *found,
        )
        held = _experiment_copy(job.sink, merged)
        mark = marks.mark_of(
            fitting,
            digest=digest(merged),
            options=job.options.key,
            source=label(job, members[0][0]),
        )
        assert isinstance(fitting.header, Experiment)
        mark = replace(mark, lifecycle=fitting.header.lifecycle, tags=None)
        delivery = Delivery(
            fitting, mark, label(job, members[0][0]), artifacts=job.options.artifacts
        )
        if held is not None:
            item = read_one(job.sink, held.ref)
            added, kept = merge.experiment_additions(item, fitting, held.mark)
            findings = (*findings, *kept)
            for at, member in members:
                job.experiments[at, member.ref.id] = held.ref
            if added is None:
                yield Skipped(merged.ref, held.ref, findings)
                continue
            delivery = replace(delivery, item=added, into=held.ref)
        deliveries.append((delivery, members, findings))
    answers = deliver(job, [delivery for delivery, _, _ in deliveries])
    for (delivery, members, findings), answer in zip(deliveries, answers, strict=True):
        written = answer
        if isinstance(answer, Failed):
            # Perhaps another process made it meanwhile.
            again = _experiment_copy(job.sink, delivery.item)
            written = answer if again is None else Written(again.ref)
        for at, member in members:
            ref = written.ref if isinstance(written, Written) else None
            job.experiments[at, member.ref.id] = ref
            if job.dry and delivery.into is None:
                job.to_come.add((at, member.ref.id))
        if isinstance(written, Failed):
            yield Failed(delivery.item.ref, written.why)
            continue
        made = Copied if delivery.into is None else Updated
        yield made(delivery.item.ref, written.ref, (*findings, *written.findings))


def has_runs(job: Job) -> bool:
    """Tell whether the sink has runs, or will have."""
    stores: list[Source] = [job.sink]
    if job.options.filters.takes("run"):
        stores += (source for _, source in job.sources)
    found = (next(iter(store.refs(Selection("run"))), None) for store in stores)
    return any(ref is not None for ref in found)


def _no_place(groups: Groups) -> Iterator[Loss]:
    what = "no run is there, and the sink has no other place for experiments"
    for members in groups.values():
        for _, item in members:
            yield Loss(item.ref, what, carried=False)


def _experiment_copy(sink: Sink, merged: Item) -> Copy | None:
    refs = [Ref("experiment", origin) for origin in merge.origins_of(merged.origin)]
    found = sink.copies(refs)
    return next((found[ref] for ref in refs if ref in found), None)
