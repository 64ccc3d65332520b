"""References of runs, logged models and traces, as they are at the sink."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace

from mlmigrate.model import (
    Assessment,
    Finding,
    Item,
    LoggedModel,
    Loss,
    ModelLink,
    ModelMetric,
    Ref,
    Run,
    Tag,
    Trace,
    TraceLink,
)
from mlmigrate.pipeline.job import Job, origin_of

#: The tag that names the prompts which a trace used.
_PROMPTS = "mlflow.linkedPrompts"
#: The key of an assessment's metadata that says by which run it was made, as JSON.
_MADE_BY = '"mlflow.assessment.sourceRunId"'


@dataclass(frozen=True, slots=True)
class Resolved:
    """An item that refers to items of the sink."""

    item: Item
    missing_parent: str | None = None  # origin of a parent that the sink lacks
    missing_links: tuple[ModelLink, ...] = ()  # likewise
    left_out: tuple[Finding, ...] = ()  # what refers to an item that the sink lacks


def resolved(job: Job, at: int, item: Item) -> Resolved | None:
    """Return a run, a logged model or a trace with its references replaced by the
    sink's; None where its experiment failed.
    """
    header = item.header
    assert isinstance(header, Run | LoggedModel | Trace)
    experiment = job.experiments.get((at, header.experiment.id))
    if experiment is None:
        return None
    if isinstance(header, LoggedModel):
        return _model(job, at, item, replace(header, experiment=experiment))
    if isinstance(header, Trace):
        return _trace(job, at, item, replace(header, experiment=experiment))
    parent, missing = _parent(job, at, item, header)
    links, waiting = _links(job, at, item)
    return Resolved(
        replace(
            item,
            header=replace(header, experiment=experiment, parent=parent),
            links=links,
        ),
        missing,
        waiting,
    )


def has_place(job: Job, item: Item) -> bool:
    """Tell whether the sink has a place for a logged model."""
    facts = job.sink.capabilities.logged_models
    header = item.header
    assert isinstance(header, LoggedModel)
    return facts is not None and (facts.deleted or header.lifecycle == "active")


def _model(job: Job, at: int, item: Item, header: LoggedModel) -> Resolved:
    runs = [metric.run for metric in item.model_metrics]
    if header.source_run is not None:
        runs.append(header.source_run)
    origins, there = _looked_up(job, at, item, runs)
    facts = job.sink.capabilities.logged_models
    kept: list[ModelMetric] = []
    lost: dict[Ref, int] = {}
    for metric in item.model_metrics:
        run = there.get(metric.run)
        if run is None and facts is not None and facts.needs_runs:
            points = len(metric.history.steps)
            lost[metric.run] = lost.get(metric.run, 0) + points
        else:
            kept.append(replace(metric, run=run or origins[metric.run]))
    source = header.source_run
    if source is not None:
        keeps = job.sink.capabilities.keeps_ids
        source = there.get(source) or (origins[source] if keeps else None)
    return Resolved(
        replace(
            item,
            header=replace(header, source_run=source),
            model_metrics=tuple(kept),
        ),
        left_out=tuple(
            Loss(item.ref, f"{count} points of metrics: {run} is not there", False)
            for run, count in lost.items()
        ),
    )


def _trace(job: Job, at: int, item: Item, header: Trace) -> Resolved:
    origins, there = _looked_up(job, at, item, runs_of(item))
    now = {ref: there.get(ref) or origin for ref, origin in origins.items()}
    source = header.source_run
    facts = job.sink.capabilities.traces
    links: list[TraceLink] = []
    lost: list[Finding] = []
    for link in item.trace_links:
        run = Ref("run", link.id)
        if link.kind != "run":
            links.append(_numbered(job, at, link))
        elif run not in there and facts is not None and facts.needs_runs:
            lost.append(Loss(item.ref, f"link to {run}, which is not there", False))
        else:
            links.append(replace(link, id=now[run].id))
    assessments = (
        _of_run(each, now[each.run]) if each.run else each for each in item.assessments
    )
    return Resolved(
        replace(
            item,
            header=replace(header, source_run=now[source] if source else None),
            tags=tuple(_of_prompts(job, at, tag) for tag in item.tags),
            assessments=tuple(assessments),
            trace_links=tuple(links),
        ),
        left_out=tuple(lost),
    )


def _numbered(job: Job, at: int, link: TraceLink) -> TraceLink:
    """Return a link, one to the version of a prompt by its number at the sink."""
    name, _, version = link.id.rpartition("/")
    if link.kind != "prompt_version" or not version.isdecimal():
        return link
    number = job.versions.get((at, name, int(version)))
    return link if number is None else replace(link, id=f"{name}/{number}")


def _of_prompts(job: Job, at: int, tag: Tag) -> Tag:
    """Return a trace's tag, that of its prompts with the numbers that these have at the
    sink. It holds ``[{"name": …, "version": "1"}, …]``.
    """
    if tag.key != _PROMPTS or not job.versions:
        return tag
    try:
        prompts = json.loads(tag.value)
        for prompt in prompts:
            key = (at, prompt["name"], int(prompt["version"]))
            prompt["version"] = str(job.versions.get(key, key[2]))
    except (ValueError, TypeError, KeyError, RecursionError):
        return tag  # whatever it is, it names no prompts
    return Tag(tag.key, json.dumps(prompts))


def _of_run(assessment: Assessment, run: Ref) -> Assessment:
    """Return an assessment that was made by *run*, which its metadata may say, too."""
    assert assessment.run is not None
    metadata = assessment.metadata
    if run != assessment.run and metadata is not None:
        old, new = json.dumps(assessment.run.id), json.dumps(run.id)
        metadata = metadata.replace(f"{_MADE_BY}: {old}", f"{_MADE_BY}: {new}")
    return replace(assessment, run=run, metadata=metadata)


def runs_of(item: Item) -> list[Ref]:
    """Return the runs that a trace refers to."""
    assert isinstance(item.header, Trace)
    runs = [item.header.source_run, *(each.run for each in item.assessments)]
    linked = (Ref("run", each.id) for each in item.trace_links if each.kind == "run")
    return [*(run for run in runs if run is not None), *linked]


def look_ahead(job: Job, at: int, items: Iterable[Item]) -> None:
    """Look up at once what many traces refer to."""
    origins = {
        origin
        for item in items
        if isinstance(item.header, Trace)
        for origin in _origins(job, at, item, runs_of(item)).values()
    }
    wanted = origins - job.there.keys()
    if wanted:
        found = job.sink.copies(wanted)
        job.there.update((origin, found.get(origin)) for origin in wanted)


def _links(
    job: Job, at: int, item: Item
) -> tuple[tuple[ModelLink, ...], tuple[ModelLink, ...]]:
    """Return the links that can be made, and those whose model is not there yet."""
    models = [link.model for link in item.links]
    # What a run made is at home in its store; what it used may be a copy.
    for link in item.links:
        if link.role == "input":
            origin_of(job, at, link.model)
    origins, there = _looked_up(job, at, item, models)
    ready: list[ModelLink] = []
    waiting: list[ModelLink] = []
    for link in item.links:
        here = there.get(link.model)
        lasting = here is not None or job.sink.capabilities.keeps_ids
        own = replace(link, model=here or origins[link.model])
        (ready if lasting else waiting).append(own)
    return tuple(ready), tuple(waiting)


def any_there(job: Job, at: int, item: Item, refs: Iterable[Ref]) -> bool:
    """Tell whether the sink has, or will have, any of an item's references."""
    return bool(_looked_up(job, at, item, refs)[1])


def _looked_up(
    job: Job, at: int, item: Item, refs: Iterable[Ref]
) -> tuple[dict[Ref, Ref], dict[Ref, Ref]]:
    """Return the origin of each of an item's references, and the copy at the sink of
    those that are there, or will be.
    """
    origins = _origins(job, at, item, refs)
    if not origins:
        return {}, {}
    known = {origin: job.there.get(origin) for origin in origins.values()}
    if not job.there.keys() >= known.keys():
        known.update(job.sink.copies(list(known)))
    there: dict[Ref, Ref] = {}
    for ref, origin in origins.items():
        copy = known[origin]
        if copy is not None:
            there[ref] = copy.ref
        elif origin in job.planned:
            there[ref] = job.planned[origin]
    return origins, there


def _origins(job: Job, at: int, item: Item, refs: Iterable[Ref]) -> dict[Ref, Ref]:
    """Return the origin of each of an item's references."""
    origins: dict[Ref, Ref] = {}
    for ref in dict.fromkeys(refs):
        id = job.origins.get((at, ref), ref.id)
        if item.mark is not None:  # only a copy has others whose ids are not origins
            id = origin_of(job, at, ref)
        origins[ref] = Ref(ref.kind, id)
    return origins


def _parent(
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
