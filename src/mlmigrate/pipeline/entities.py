"""Entities: copied last, row by row; those of one name in one experiment become one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from mlmigrate import entities, marks, merge
from mlmigrate.contract import Copy, Delivery
from mlmigrate.digest import digest
from mlmigrate.entities import ENTITIES
from mlmigrate.errors import ItemError
from mlmigrate.fit.entities import status_of, switched
from mlmigrate.model import (
    Copied,
    Entity,
    Failed,
    Finding,
    Item,
    Kind,
    Loss,
    Note,
    Problem,
    Ref,
    Row,
    Skipped,
    Updated,
)
from mlmigrate.pipeline.experiments import Groups
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
from mlmigrate.pipeline.runs import wanted


def copy_entities(job: Job, groups: Groups, kinds: Iterable[Kind]) -> Iterator[Event]:
    """Copy the entities of some kinds, or tell of each that the sink has no place."""
    for kind in kinds:
        refs = wanted(job, groups, kind)
        if not any(refs):
            continue
        if kind in job.sink.capabilities.entities:
            yield Total(kind, sum(map(len, refs)))
        note_own(job, refs)
        #: What a plan would have written by now.
        planned: dict[Ref, Item] = {}
        for at, own in enumerate(refs):
            for item in job.sources[at][1].read(own):
                if isinstance(item, Failed):
                    yield item
                elif takes_entity(job, at, item):
                    yield from _copy(job, at, item, planned)


def note_own(job: Job, refs: list[list[Ref]]) -> None:
    """Remember which entities of a kind each source has."""
    job.own.update((at, ref) for at, own in enumerate(refs) for ref in own)


def takes_entity(job: Job, at: int, item: Item) -> bool:
    """Tell whether an entity is wanted: filters select experiments, and it follows
    those that it belongs to.
    """
    if ENTITIES[item.ref.kind].houses:
        known = item.ref.kind in job.sink.capabilities.entities
        return item.ref.id == job.workspace or not known
    if not job.options.filters.narrow:
        return True
    header = item.header
    assert isinstance(header, Entity)
    homes = [header.experiment] if header.experiment else _experiments(item)
    return any(job.experiments.get((at, home.id)) is not None for home in homes)


def _experiments(item: Item) -> list[Ref]:
    """Return the experiments that the rows of an entity refer to."""
    found = []
    for row in item.rows:
        said = entities.values(row)
        for column, kind in entities.table_of(item.ref.kind, row).refs.items():
            if kind == "experiment" and column in said:
                found.append(Ref(kind, str(said[column])))
    return found


@dataclass(frozen=True, slots=True)
class Placed:
    """An entity as it belongs at the sink, and the copy that stands there."""

    item: Item
    findings: tuple[Finding, ...]
    copy: Copy | None


def placed(job: Job, at: int, item: Item) -> Placed | Failed:
    """Return an entity with its references replaced by the sink's, fitted; or why it
    has no place.
    """
    header = item.header
    assert isinstance(header, Entity)
    home = header.experiment
    # What a plan would make may bear an id that another has at the sink.
    to_come = home is not None and (at, home.id) in job.to_come
    if home is not None:
        home = job.experiments.get((at, home.id))
        if home is None:
            return Failed(item.ref, f"its {header.experiment} is not at the sink")
    found: list[Finding] = []
    rows = tuple(_resolved(job, at, item, found))
    header = replace(header, experiment=home)
    item = replace(item, header=header, rows=rows)
    item, findings = fitted(item, job.options, job.sink.capabilities)
    header = replace(header, name=_name(item))
    item = replace(item, header=header)
    wanted = [item.ref, entities.address(item.ref.kind, header)]
    copies = job.sink.copies(wanted[:1] if to_come else wanted)
    copy = next((copies[ref] for ref in wanted if ref in copies), None)
    if copy is not None and not _may_have(job, at, item.ref, copy.ref):
        if not job.sink.capabilities.keeps_ids:
            return Failed(item.ref, "another of its name, of the same store, is there")
        copy = None
    if copy is not None:
        _note_place(job, at, item.ref, copy.ref)
    return Placed(item, (*findings, *found), copy)


def _name(item: Item) -> str:
    """Return the name that the own row of an entity says: it may have been masked."""
    own = ENTITIES[item.ref.kind].own
    for row in item.rows:
        if row.table == own.name:
            return entities.name(item.ref.kind, item.ref.id, entities.values(row))
    return item.header.name if isinstance(item.header, Entity) else item.ref.id


def _may_have(job: Job, at: int, ref: Ref, place: Ref) -> bool:
    """Tell whether an entity may have a place at the sink: two of one source are two,
    whatever their names.
    """
    if place != ref and (at, place) in job.own and job.sink.capabilities.keeps_ids:
        return False
    return job.places.get((at, place), ref) == ref


def _note_place(job: Job, at: int, ref: Ref, place: Ref) -> None:
    """Remember where an entity is at the sink."""
    job.entities[at, ref] = place
    job.places[at, place] = ref


def _resolved(job: Job, at: int, item: Item, found: list[Finding]) -> Iterator[Row]:
    """Yield the rows of an entity as they belong at the sink; without those that name
    an experiment which is not there.
    """
    for row in item.rows:
        table = entities.table_of(item.ref.kind, row)
        said = entities.values(row)
        now: dict[str, str | int | None] = {}
        for column, kind in table.refs.items():
            if column in said:
                here = _at_sink(job, at, Ref(kind, str(said[column])))
                now[column] = None if here is None else _like(said[column], here.id)
        lost = [column for column, id in now.items() if id is None]
        for column in lost:
            what = f"{table.refs[column]} {said[column]} is not at the sink"
            if table.refs[column] == "experiment":  # that it is not of alone
                found.append(Note(str(item.ref), what))
            else:
                found.append(Loss(item.ref, what, carried=False))
        if any(column in table.key for column in lost):
            continue
        yield entities.changed(row, **now) if now else row


def _like(held: Any, id: str) -> str | int:
    """Return an id of the type that a column has."""
    return int(id) if isinstance(held, int) and id.isdecimal() else id


def _at_sink(job: Job, at: int, ref: Ref) -> Ref | None:
    """Return the sink's ref of what a row refers to; None where it is not there."""
    if ref.kind == "experiment":
        return job.experiments.get((at, ref.id))
    if ref.kind in ENTITIES:
        placed_at = job.entities.get((at, ref))
        if placed_at is None and ref in job.sink.copies([ref]):
            return ref
        return placed_at
    origin = Ref(ref.kind, origin_of(job, at, ref))
    copy = job.sink.copies([origin]).get(origin)
    here = copy.ref if copy is not None else job.planned.get(origin)
    if here is None and ref.kind == "trace" and job.sink.capabilities.columns is None:
        return ref  # its id is its own everywhere: it may still come
    return here


def _refused(item: Item, rows: Iterable[Row]) -> Iterator[Problem]:
    for row in rows:
        table = entities.table_of(item.ref.kind, row)
        label = entities.label(table, entities.values(row))
        what = f"{label}: something else stands at the sink, and stays"
        yield Problem(str(item.ref), what)


def _copy(job: Job, at: int, item: Item, planned: dict[Ref, Item]) -> Iterator[Event]:
    if item.ref.kind not in job.sink.capabilities.entities:
        what = "the sink has no place for it"
        if ENTITIES[item.ref.kind].houses:
            what += ": what is in it comes to what is in others"
        yield Loss(item.ref, what, carried=False)
        return
    try:
        found = placed(job, at, item)
        if isinstance(found, Failed):
            yield found
            return
        wanted, findings, into = found.item, found.findings, None
        held = read_one(job.sink, found.copy.ref) if found.copy is not None else None
    except ItemError as error:  # it fails alone
        yield Failed(item.ref, str(error))
        return
    assert isinstance(wanted.header, Entity)
    named = entities.address(wanted.ref.kind, wanted.header)
    if named in planned and _may_have(job, at, item.ref, planned[named].ref):
        held = planned[named]
    if held is not None:
        into = held.ref
        wanted = switched(wanted, held, job.sink.capabilities)
        try:
            lacking = merge.entity_additions(
                held, wanted, job.sink.capabilities.columns
            )
        except ItemError as error:
            yield Failed(item.ref, str(error))
            return
        findings = (*findings, *lacking.notes, *_refused(item, lacking.refused))
        if not lacking.rows:
            yield Skipped(item.ref, into, findings)
            return
        wanted = replace(wanted, rows=lacking.rows)
    source = label(job, at)
    mark = marks.mark_of(
        wanted, digest=digest(wanted), options=job.options.key, source=source
    )
    (answer,) = deliver(job, [Delivery(wanted, mark, source, into=into)])
    if isinstance(answer, Failed):
        yield answer
        return
    _note_place(job, at, item.ref, answer.ref)
    if job.dry:
        rows = wanted.rows if held is None else merge.with_rows(held, wanted.rows)
        planned[named] = replace(wanted, ref=answer.ref, rows=rows)
    if into is None and status_of(item) != status_of(wanted):
        what = "it is disabled at the sink, where it would be called"
        findings = (*findings, Note(str(item.ref), what))
    made = Copied if into is None else Updated
    yield made(item.ref, answer.ref, (*findings, *answer.findings))
