"""Sources to a sink: a generator of outcomes.

Workers read, digest and fit batches of refs; this process decides what each item's
copy lacks and hands that to the sink. Nothing is remembered between two copies but
what the sink's marks say, so a copy that was killed is simply run again.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import closing

from mlmigrate.ahead import reading
from mlmigrate.contract import Recording
from mlmigrate.entities import HOUSED, HOUSES
from mlmigrate.locations import Opened
from mlmigrate.model import Finding, Problem
from mlmigrate.pipeline.deciding import copy_items
from mlmigrate.pipeline.entities import copy_entities
from mlmigrate.pipeline.experiments import copy_experiments, read_experiments
from mlmigrate.pipeline.job import Event, Job, Options, Total
from mlmigrate.pipeline.logged_models import copy_logged_models
from mlmigrate.pipeline.models import copy_models
from mlmigrate.pipeline.recording import beside_items, label_of_all
from mlmigrate.pipeline.runs import unread, wanted
from mlmigrate.pipeline.traces import copy_traces
from mlmigrate.pipeline.workspaces import Pass, passes

__all__ = ["Event", "Options", "Total", "copy"]


def copy(
    sources: Sequence[Opened], sink: Opened, options: Options, *, dry: bool = False
) -> Generator[Event, None, None]:
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
    with closing(passes(sources, sink)) as each:
        for one in each:
            if isinstance(one, Problem):
                yield one
            else:
                yield from _copy(one, options, dry=dry)


def _copy(one: Pass, options: Options, *, dry: bool) -> Generator[Event, None, None]:
    """Copy one workspace: in a store that has no others, everything."""
    target = one.sink
    job = Job(one.sources, target, options, dry, one.workspace)
    beside: dict[Finding, None] = dict.fromkeys(one.problems)
    yield from one.problems
    with closing(_copied(job)) as events:
        for event in events:
            beside.update(dict.fromkeys(beside_items(event)))
            yield event
    if dry:
        return
    if isinstance(target, Recording):
        target.record(label_of_all(job), beside)
    yield from target.finish()


def _copied(job: Job) -> Generator[Event, None, None]:
    """Copy every item, and tell what was found beside them."""
    sources, options = job.sources, job.options
    groups, failed = read_experiments(sources, options)
    yield from failed
    runs = wanted(job, groups, "run")
    total = sum(map(len, runs))
    skipped, runs = unread(job, runs) if options.quick else ([], runs)
    # A sink may take seconds to open or to make: runs are read meanwhile.
    with reading(sources, runs, workers=options.workers) as read:
        yield from copy_entities(job, groups, HOUSES)
        yield from copy_experiments(job, groups)
        yield Total("run", total)
        yield from skipped
        yield from copy_items(job, read, lambda _, run: options.filters.takes_run(run))
    yield from copy_logged_models(job, groups)
    yield from copy_models(job)
    yield from copy_traces(job, groups)
    yield from copy_entities(job, groups, HOUSED)
    for _, source in sources:
        yield from source.findings()
