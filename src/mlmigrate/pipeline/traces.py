"""Traces: copied last, since they refer to runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from mlmigrate.ahead import reading
from mlmigrate.contract import Selection
from mlmigrate.model import Failed, Item, Loss, Ref, Trace
from mlmigrate.pipeline.deciding import copy_items
from mlmigrate.pipeline.experiments import Groups
from mlmigrate.pipeline.job import Event, Job, Total
from mlmigrate.pipeline.references import any_there, runs_of
from mlmigrate.pipeline.runs import wanted


def copy_traces(job: Job, groups: Groups) -> Iterator[Event]:
    """Copy the traces of the experiments of *groups*, or tell of each experiment how
    many of its traces the sink has no place for.
    """
    if not job.options.filters.takes("trace"):
        return
    if job.sink.capabilities.traces is None:
        yield from _lost(job, groups)
        return
    refs = wanted(job, groups, "trace")
    if not any(refs):
        return
    yield Total("trace", sum(map(len, refs)))
    with reading(job.sources, refs, workers=job.options.workers) as read:
        yield from copy_items(job, read, lambda at, item: takes_trace(job, at, item))


def takes_trace(job: Job, at: int, item: Item) -> bool:
    """Tell whether a trace is wanted: filters select runs, and it follows those during
    which it was made or that judged it.
    """
    return not job.options.filters.of_runs or any_there(job, at, item, runs_of(item))


def _lost(job: Job, groups: Groups) -> Iterator[Event]:
    for members in groups.values():
        for at, item in members:
            selection = Selection("trace", frozenset({item.ref.id}))
            refs = list(job.sources[at][1].refs(selection))
            if job.options.filters.of_runs and refs:
                yield from _lost_of_some(job, at, refs)
            elif refs:
                yield _loss(item.ref, len(refs))


def _lost_of_some(job: Job, at: int, refs: list[Ref]) -> Iterator[Event]:
    wanted: list[list[Ref]] = [[] for _ in job.sources]
    wanted[at] = refs
    counts: Counter[Ref] = Counter()
    with reading(job.sources, wanted, workers=job.options.workers) as read:
        for _, batch in read:
            for entry in batch:
                if isinstance(entry, Failed):
                    yield entry
                elif takes_trace(job, at, entry.item):
                    assert isinstance(entry.item.header, Trace)
                    counts[entry.item.header.experiment] += 1
    yield from (_loss(ref, count) for ref, count in counts.items())


def _loss(ref: Ref, count: int) -> Loss:
    return Loss(ref, f"{count} traces: the sink has no place for them", carried=False)
