"""Sources to a sink: a generator of outcomes.

Workers read, digest and fit batches of refs; this process decides what each item's
copy lacks and hands that to the sink. Nothing is remembered between two copies but
what the sink's marks say, so a copy that was killed is simply run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mlmigrate.ahead import reading
from mlmigrate.locations import Opened
from mlmigrate.pipeline.experiments import copy_experiments, read_experiments
from mlmigrate.pipeline.job import Event, Job, Options, Total, open_stores
from mlmigrate.pipeline.models import copy_models
from mlmigrate.pipeline.runs import copy_runs, unread, wanted_runs

__all__ = ["Event", "Options", "Total", "copy"]


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
    with open_stores(sources, sink) as (opened, target):
        job = Job(opened, target, options, dry)
        groups, failed = read_experiments(opened, options)
        yield from failed
        wanted = wanted_runs(opened, groups)
        total = sum(map(len, wanted))
        skipped, wanted = unread(job, wanted) if options.quick else ([], wanted)
        # A sink may take seconds to open or to make: runs are read meanwhile.
        with reading(opened, wanted, workers=options.workers) as read:
            yield from copy_experiments(job, groups)
            yield Total("run", total)
            yield from skipped
            yield from copy_runs(job, read)
        yield from copy_models(job)
        for _, source in opened:
            yield from source.findings()
        if not dry:
            yield from target.finish()
