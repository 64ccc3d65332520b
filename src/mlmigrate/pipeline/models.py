"""The registry: models of one name become one, and each version keeps its number."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from mlmigrate import marks, merge
from mlmigrate.contract import Copy, Delivery, Written
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
from mlmigrate.pipeline.named_versions import (
    in_order,
    naming_at_sink,
    read_models,
    with_files,
)

#: The tag by which MLflow finds the prompts of an experiment: their ids between commas.
_EXPERIMENTS = "_mlflow_experiment_ids"


def copy_models(job: Job) -> Iterator[Event]:
    """Copy registered models whose runs are at the sink by now."""
    if not job.options.filters.takes("registered_model"):
        return
    groups: dict[str, list[tuple[int, Item]]] = {}
    homeless = job.sink.capabilities.needs_a_run and not has_runs(job)
    for at, item in read_models(job):
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
    found: list[_Model] = []
    for name, members in groups.items():
        try:
            found.append(_numbered(job, name, members))
        except ItemError as error:  # it fails alone
            yield Failed(Ref("registered_model", name), str(error))
    lacking: list[_Lacking] = []
    for model in found:
        merged = _merged(job, model)
        if isinstance(merged, Skipped):
            yield merged
        else:
            lacking.append(merged)
    yield from _write(job, lacking)


def resolve_versions(job: Job, at: int, item: Item) -> Item | None:
    """Return the model with its versions' runs and logged models replaced by the
    sink's; None where a filter leaves none of them.
    """
    versions = []
    for version in (with_files(job, at, version) for version in item.versions):
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


@dataclass(frozen=True, slots=True)
class _Model:
    """The models of one name, and what the sink holds of them."""

    name: str
    sources: tuple[int, ...]
    items: tuple[Item, ...]
    findings: tuple[Finding, ...]
    copy: Copy | None
    held: Item | None


@dataclass(slots=True)
class _Lacking:
    """What the sink lacks of a model."""

    model: _Model
    item: Item
    findings: list[Finding]
    into: Ref | None

    @property
    def name(self) -> str:
        """What it is called at the sink."""
        assert isinstance(self.item.header, RegisteredModel)
        return self.into.id if self.into is not None else self.item.header.name


def _numbered(job: Job, name: str, members: Sequence[tuple[int, Item]]) -> _Model:
    """Note which numbers the versions of a model have at the sink, which the sources of
    versions of any model may name.

    Raises:
        ItemError: what the sink holds cannot be read.
    """
    items: list[Item] = []
    findings: list[Finding] = []
    for _, item in members:
        fitting, found = fitted(item, job.options, job.sink.capabilities)
        items.append(replace(fitting, findings=()))
        findings += found
    ref = Ref("registered_model", name)
    copy = job.sink.copies([ref]).get(ref)
    held = read_one(job.sink, copy.ref) if copy is not None else None
    _, renumbered, _ = merge.merge_models(items, held)
    sources = tuple(at for at, _ in members)
    for change in renumbered:
        job.versions[sources[change.of], name, change.old] = change.new
        what = f"version {change.old} is version {change.new} at the sink"
        findings.append(Note(f"registered_model/{name}", what))
    for at, item in zip(sources, items, strict=True):
        assert isinstance(item.header, RegisteredModel)
        there = copy.ref.id if copy is not None else item.header.name
        for version in item.versions:
            number = job.versions.get((at, name, version.version), version.version)
            job.named[at, item.ref.id, version.version] = (there, number)
    return _Model(name, sources, tuple(items), tuple(findings), copy, held)


def _merged(job: Job, model: _Model) -> _Lacking | Skipped:
    """Say what the sink lacks of a model."""
    naming = [
        naming_at_sink(job, at, item)
        for at, item in zip(model.sources, model.items, strict=True)
    ]
    merged, _, notes = merge.merge_models(naming, model.held)
    findings = [*model.findings, *(each for item in naming for each in item.findings)]
    findings = list(dict.fromkeys([*findings, *notes]))
    into = model.copy.ref if model.copy is not None else None
    if merged is None:
        assert into is not None
        return Skipped(Ref("registered_model", model.name), into, tuple(findings))
    return _Lacking(model, merged, findings, into)


def _write(job: Job, lacking: Sequence[_Lacking]) -> Iterator[Event]:
    """Write what the sink lacks of models, at once but where a version has to wait for
    one of another model.
    """
    order = [(at, each.item.versions) for at, each in enumerate(lacking)]
    if job.sink.capabilities.follows_sources:
        order = list(in_order([(each.name, each.item.versions) for each in lacking]))
    last = {at: place for place, (at, _) in enumerate(order)}
    failed: set[int] = set()
    for place, (at, versions) in enumerate(order):
        if at in failed:
            continue
        own, final = lacking[at], place == last[at]
        aliases = own.item.aliases if final else ()  # their versions may be to come
        answer = _deliver(
            job, own, replace(own.item, versions=versions, aliases=aliases)
        )
        if isinstance(answer, Failed):
            failed.add(at)
            yield answer
            continue
        own.findings += answer.findings
        if final:
            made = Copied if own.model.copy is None else Updated
            ref = Ref("registered_model", own.model.name)
            yield made(ref, answer.ref, tuple(own.findings))
        else:
            own.into, own.item = answer.ref, replace(own.item, tags=())


def _deliver(job: Job, own: _Lacking, item: Item) -> Written | Failed:
    source = label(job, own.model.sources[0])
    mark = marks.mark_of(
        item, digest=digest(item), options=job.options.key, source=source
    )
    (answer,) = deliver(job, [Delivery(item, mark, source, into=own.into)])
    return answer
