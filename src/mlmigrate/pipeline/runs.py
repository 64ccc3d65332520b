"""Which runs and logged models there are to read, and which need not be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mlmigrate.ahead import batches
from mlmigrate.contract import Glance, Glancing, Selection
from mlmigrate.entities import HOUSES
from mlmigrate.model import TERMINAL, Kind, Ref, Skipped
from mlmigrate.pipeline.experiments import Groups
from mlmigrate.pipeline.job import Job

#: Runs whose state is asked for at once.
_GLANCES = 500


def wanted(job: Job, groups: Groups, kind: Kind) -> list[list[Ref]]:
    """Return the refs of each source's items of a kind in these experiments."""
    filters = job.options.filters
    # Nothing wanted is in the workspace.
    empty = kind in HOUSES and filters.narrow and not groups
    if not filters.takes(kind) or empty:
        return [[] for _ in job.sources]
    ids: list[set[str]] = [set() for _ in job.sources]
    for members in groups.values():
        for at, item in members:
            ids[at].add(item.ref.id)
    return [
        list(source.refs(Selection(kind, frozenset(ids[at]))))
        for at, (_, source) in enumerate(job.sources)
    ]


def unread(
    job: Job, found: Sequence[Sequence[Ref]]
) -> tuple[list[Skipped], list[list[Ref]]]:
    """Sort out runs that need not be read: they had ended when they were copied, and
    neither they nor their copies have changed state since.
    """
    skipped: list[Skipped] = []
    rest: list[list[Ref]] = []
    for (_, source), refs in zip(job.sources, found, strict=True):
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
