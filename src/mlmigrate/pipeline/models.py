"""The registry: models of one name become one, and each version keeps its number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from mlmigrate import marks, merge
from mlmigrate.contract import Delivery, Selection
from mlmigrate.digest import digest
from mlmigrate.errors import ItemError
from mlmigrate.model import (
    Copied,
    Failed,
    Finding,
    Item,
    Loss,
    Note,
    Ref,
    RegisteredModel,
    Skipped,
    Tag,
    Updated,
)
from mlmigrate.pipeline.experiments import has_runs
from mlmigrate.pipeline.job import (
    Event,
    Job,
    Total,
    deliver,
    fitted,
    label,
    origin_of,
    read_one,
)

#: The tag by which MLflow finds the prompts of an experiment: their ids between commas.
_EXPERIMENTS = "_mlflow_experiment_ids"


def copy_models(job: Job) -> Iterator[Event]:
    """Copy registered models whose runs are at the sink by now."""
    if not job.options.filters.takes("registered_model"):
        return
    groups: dict[str, list[tuple[int, Item]]] = {}
    homeless = job.sink.capabilities.needs_a_run and not has_runs(job)
    for at, (_, source) in enumerate(job.sources):
        for item in source.read(list(source.refs(Selection("registered_model")))):
            if isinstance(item, Failed):
                yield item
                continue
            resolved = resolve_versions(job, at, item)
            if resolved is not None and homeless:
                what = "no run is there, and the sink has no other place for models"
                yield Loss(item.ref, what, carried=False)
            elif resolved is not None:
                assert isinstance(item.header, RegisteredModel)
                groups.setdefault(item.header.name, []).append((at, resolved))
    yield Total("registered_model", len(groups))
    for name, members in groups.items():
        yield from _copy_model(job, name, members)


def resolve_versions(job: Job, at: int, item: Item) -> Item | None:
    """Return the model with its versions' runs and logged models replaced by the
    sink's; None where a filter leaves none of them.
    """
    versions = []
    for version in item.versions:
        origins = {
            ref: Ref(ref.kind, origin_of(job, at, ref))
            for ref in (
                version.run,
                version.source_run,
                version.source_model,
                version.logged_model,
            )
            if ref is not None
        }
        found = job.sink.copies(list(origins.values()))
        here = {
            ref: found[origin].ref for ref, origin in origins.items() if origin in found
        }
        for ref, origin in origins.items():
            if origin in job.planned:
                here.setdefault(ref, job.planned[origin])
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
                source_model=here.get(
                    version.source_model, version.source_model if keep else None
                )
                if version.source_model
                else None,
                logged_model=here.get(
                    version.logged_model, version.logged_model if keep else None
                )
                if version.logged_model
                else None,
            )
        )
    if job.options.filters.narrow and not versions:
        return None
    return _at_home(job, at, replace(item, versions=tuple(versions)))


def _at_home(job: Job, at: int, item: Item) -> Item:
    """Return a prompt whose tag names its experiments as they are at the sink."""
    tags: list[Tag] = []
    findings: list[Finding] = []
    for tag in item.tags:
        if tag.key != _EXPERIMENTS:
            tags.append(tag)
            continue
        ids = [id for id in tag.value.split(",") if id]
        homes = [job.experiments.get((at, id)) for id in ids]
        there = dict.fromkeys(home.id for home in homes if home is not None)
        if there:
            tags.append(Tag(tag.key, f",{','.join(there)},"))
        if len(there) < len(set(ids)):
            what = "experiments that it belongs to are not at the sink"
            findings.append(Note(str(item.ref), what))
    if not findings and tuple(tags) == item.tags:
        return item
    return replace(item, tags=tuple(tags), findings=(*item.findings, *findings))


def _copy_model(
    job: Job, name: str, members: Sequence[tuple[int, Item]]
) -> Iterator[Event]:
    items: list[Item] = []
    findings: list[Finding] = []
    for _, item in members:
        fitting, found = fitted(item, job.options, job.sink.capabilities)
        items.append(fitting)
        findings += found
    ref = Ref("registered_model", name)
    copy = job.sink.copies([ref]).get(ref)
    try:
        held = read_one(job.sink, copy.ref) if copy is not None else None
    except ItemError as error:  # it fails alone
        yield Failed(ref, str(error))
        return
    merged, renumbered, notes = merge.merge_models(items, held)
    findings += notes
    for change in renumbered:
        job.versions[members[change.of][0], name, change.old] = change.new
        what = f"version {change.old} is version {change.new} at the sink"
        findings.append(Note(f"registered_model/{name}", what))
    findings = list(dict.fromkeys(findings))
    if merged is None:
        assert copy is not None
        yield Skipped(ref, copy.ref, tuple(findings))
        return
    mark = marks.mark_of(
        merged,
        digest=digest(merged),
        options=job.options.key,
        source=label(job, members[0][0]),
    )
    into = copy.ref if copy is not None else None
    delivery = Delivery(merged, mark, label(job, members[0][0]), into=into)
    (answer,) = deliver(job, [delivery])
    if isinstance(answer, Failed):
        yield answer
        return
    made = Copied if into is None else Updated
    yield made(ref, answer.ref, (*findings, *answer.findings))
