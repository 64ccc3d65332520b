"""Logged models: copied when the runs are there that made and evaluated them."""

from __future__ import annotations

from collections.abc import Iterator

from mlmigrate.ahead import reading
from mlmigrate.model import Failed, Item, LoggedModel, Loss
from mlmigrate.pipeline.deciding import copy_items
from mlmigrate.pipeline.experiments import Groups
from mlmigrate.pipeline.job import Event, Job, Total
from mlmigrate.pipeline.references import any_there
from mlmigrate.pipeline.runs import wanted


def copy_logged_models(job: Job, groups: Groups) -> Iterator[Event]:
    """Copy the logged models of the experiments of *groups*, or tell of each that the
    sink has no place for it.
    """
    refs = wanted(job, groups, "logged_model")
    if not any(refs):
        return
    workers = job.options.workers
    if job.sink.capabilities.logged_models is None:
        what = "the sink has no place for logged models"
        if not job.options.filters.of_runs and job.options.filters.deleted != "skip":
            for own in refs:
                yield from (Loss(ref, what, carried=False) for ref in own)
            return
        with reading(job.sources, refs, workers=workers) as read:
            for at, batch in read:
                for entry in batch:
                    if isinstance(entry, Failed):
                        yield entry
                    elif takes_model(job, at, entry.item):
                        yield Loss(entry.item.ref, what, carried=False)
        return
    yield Total("logged_model", sum(map(len, refs)))
    with reading(job.sources, refs, workers=workers) as read:
        yield from copy_items(job, read, lambda at, item: takes_model(job, at, item))


def takes_model(job: Job, at: int, item: Item) -> bool:
    """Tell whether a logged model is wanted: filters select runs, and it follows those
    that made, evaluated or used it.
    """
    header, filters = item.header, job.options.filters
    assert isinstance(header, LoggedModel)
    if filters.deleted == "skip" and header.lifecycle == "deleted":
        return False
    if not filters.of_runs or (at, item.ref) in job.linked:
        return True
    runs = [metric.run for metric in item.model_metrics]
    if header.source_run is not None:
        runs.append(header.source_run)
    return any_there(job, at, item, runs)
