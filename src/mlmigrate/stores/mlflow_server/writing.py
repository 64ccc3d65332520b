"""The sink half for runs, and `Writer`, which writes everything."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import cast

from mlmigrate import marks
from mlmigrate.artifacts import combined_checksum
from mlmigrate.contract import Delivery, Written
from mlmigrate.errors import ItemError, StoreError
from mlmigrate.model import (
    DatasetInput,
    Failed,
    Finding,
    Item,
    Loss,
    MetricHistory,
    Note,
    Param,
    Ref,
    Run,
    Tag,
)
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.entity_writing import Entities
from mlmigrate.stores.mlflow_server.experiments import (
    Experiments,
    delete_run,
    restore_run,
)
from mlmigrate.stores.mlflow_server.index import Index, KnownRun, known_run
from mlmigrate.stores.mlflow_server.model_writing import LoggedModels
from mlmigrate.stores.mlflow_server.reading import Reader
from mlmigrate.stores.mlflow_server.registry import Registry
from mlmigrate.stores.mlflow_server.rest import Json, Refused, Rest, creating
from mlmigrate.stores.mlflow_server.trace_writing import Traces
from mlmigrate.stores.mlflow_server.uploads import Uploads

#: On a run whose artifacts were linked, not copied: where they are.
LINKED = "mlmigrate.artifact_uri"

_METRICS_A_BATCH = 1000
_OTHERS_A_BATCH = 100
_BYTES_A_BATCH = 900_000
_INPUTS_A_BATCH = 100


@dataclass(slots=True)
class _Work:
    """One run while it is written."""

    delivery: Delivery
    header: Run
    id: str
    findings: list[Finding] = field(default_factory=list)
    checksums: dict[str, str] = field(default_factory=dict)
    bytes: int = 0


class Writer:
    """Writes deliveries of all kinds. Safe to use from many threads."""

    def __init__(
        self,
        rest: Rest,
        reader: Reader,
        *,
        threads: int,
        maps: Sequence[tuple[str, str]],
        fire_webhooks: bool,
        fresh: bool,
    ) -> None:
        self._rest = rest
        self._reader = reader
        self._uploads = Uploads(rest, reader.files, maps)
        self._pool = ThreadPoolExecutor(threads, "mlmigrate-write")
        self._datasets_lock = threading.Lock()
        self.index = Index(reader)
        self._experiments = Experiments(rest, reader, self.index)
        self._models = LoggedModels(
            rest, reader, self.index, self._experiments, self._uploads
        )
        self._traces = Traces(
            rest, reader, self._experiments, self._uploads, self._pool
        )
        self.entities = Entities(rest, fresh=fresh)
        self._registry = Registry(rest, reader, fire_webhooks=fire_webhooks)

    def close(self) -> None:
        """Stop all threads. May be called twice."""
        self._pool.shutdown(cancel_futures=True)

    def write(self, deliveries: Sequence[Delivery]) -> list[Written | Failed]:
        """See `mlmigrate.contract.Sink.write`."""
        if deliveries and all(each.item.ref.kind == "trace" for each in deliveries):
            return self._traces.write(deliveries)
        futures: list[Future[Written | Failed]] = []
        for delivery in deliveries:
            if delivery.item.ref.kind in ("run", "logged_model"):
                futures.append(self._pool.submit(self._write_one, delivery))
            else:
                done: Future[Written | Failed] = Future()
                done.set_result(self._write_one(delivery))
                futures.append(done)
        return [future.result() for future in futures]

    def _write_one(self, delivery: Delivery) -> Written | Failed:
        try:
            match delivery.item.ref.kind:
                case "experiment":
                    return self._experiments.write(delivery)
                case "run":
                    return self._write_run(delivery)
                case "logged_model":
                    return self._models.write(delivery)
                case "registered_model":
                    return self._registry.write(delivery)
                case "trace":
                    return self._traces.write([delivery])[0]
                case _:
                    return self.entities.write(delivery)
        except StoreError:
            raise
        except (ItemError, OSError) as error:
            return Failed(delivery.item.ref, str(error))

    def finish(self) -> Iterable[Finding]:
        """See `mlmigrate.contract.Sink.finish`."""
        findings: list[Finding] = []
        for id, origin in sorted(self.index.unresolved().items()):
            try:
                self._resolve_parent(id, origin)
            except ItemError as error:
                what = f"its parent {origin} cannot be linked: {error}"
                findings.append(Note(f"run/{id}", what))
        findings += self._models.finish()
        self._experiments.finish()
        self._reader.forget_all()
        return findings

    def _resolve_parent(self, id: str, origin: str) -> None:
        parent = self.index.copies([Ref("run", origin)]).get(Ref("run", origin))
        if parent is None:
            return
        self._reader.forget(id)
        info = self._reader.run(id)["info"]
        deleted = answers.lifecycle(info) == "deleted"
        if deleted:  # a deleted run takes no tags
            restore_run(self._rest, id)
        self._set_tags(id, [Tag(marks.PARENT, parent.ref.id)])
        self._delete_tag(id, marks.UNRESOLVED)
        if deleted:
            delete_run(self._rest, id)
        self.index.resolved(id)

    # -- one run ------------------------------------------------------------------

    def _write_run(self, delivery: Delivery) -> Written:
        item, header = delivery.item, delivery.item.header
        if not isinstance(header, Run):
            raise ItemError(f"{item.ref}: not a run")
        findings: list[Finding] = []
        held = self._open_copy(delivery) if delivery.into else None
        if held is None:
            known = self.index.run_of(item.origin) if not delivery.into else None
            if known is not None:
                held = self._open_run(known.id)
            else:
                held = self._create_run(delivery, header, findings)
                # Whatever fails from here on, the next try goes on with this one.
                made = KnownRun(answers.run_id(held), None, "active")
                self.index.note_run(item.origin, made, None)
        work = _Work(delivery, header, answers.run_id(held), findings)
        self._fill(work, held)
        mark = delivery.mark
        if work.checksums:
            # Of a copy that was added to, only a part was read just now.
            whole = None if delivery.into else combined_checksum(work.checksums)
            mark = replace(mark, checksums=whole)
        *own, last = marks.own_tags(delivery, mark=mark)
        if delivery.missing_links:
            own.append(answers.waiting_tag(delivery.missing_links))
        self._finish_run(work, held, [*own, last])
        if delivery.missing_links:
            self.index.note_links(work.id, delivery.missing_links)
        self.index.note_run(
            item.origin,
            KnownRun(work.id, marks.dump(mark), header.lifecycle),
            delivery.missing_parent,
        )
        self._experiments.note_run(
            str(held["info"]["experiment_id"]),
            work.id,
            active=header.lifecycle == "active",
        )
        return Written(
            Ref("run", work.id),
            checksums=mark.checksums,
            files=len(work.checksums),
            bytes=work.bytes,
            findings=tuple(work.findings),
        )

    def _open_copy(self, delivery: Delivery) -> Json:
        assert delivery.into is not None
        return self._open_run(delivery.into.id)

    def _open_run(self, id: str) -> Json:
        """Make a copy writable, and incomplete."""
        self._reader.forget(id)
        held = self._reader.run(id)
        if answers.lifecycle(held["info"]) == "deleted":
            restore_run(self._rest, id)
        if marks.MARK in answers.tags_of(held):
            self._delete_tag(id, marks.MARK)
        return held

    def _create_run(
        self, delivery: Delivery, header: Run, findings: list[Finding]
    ) -> Json:
        """Create a run once, also when answers are lost or another copy is at it."""
        experiment = header.experiment.id
        origin = delivery.item.origin
        body = self._new_run(delivery, header, findings)
        self._experiments.open(experiment)

        def create() -> Json:
            return cast(Json, self._rest.create("runs/create", body)["run"])

        def find() -> Json | None:
            return next(iter(self._same_origin(origin, experiment)), None)

        try:
            made = creating(create, find)
        except Refused:
            # Another copy may have deleted the experiment just now.
            if self.index.refresh(experiment).lifecycle == "active":
                raise
            self._experiments.open(experiment)
            made = creating(create, find)
        twins = self._same_origin(origin, experiment)
        if len(twins) < 2:
            return made
        stays, *others = twins
        for other in others:
            self._discard(other, stays, findings)
        if answers.run_id(stays) == answers.run_id(made):
            return stays
        return self._open_run(answers.run_id(stays))

    def _same_origin(self, origin: str, experiment: str) -> list[Json]:
        """Return the runs that bear an origin, the one to keep first."""
        found = self.index.search_origin(origin, experiment)
        return sorted(
            found,
            key=lambda run: (known_run(run).mark is None, answers.run_id(run)),
        )

    def _discard(self, run: Json, stays: Json, findings: list[Finding]) -> None:
        """Delete what a lost answer or another copy made twice."""
        if known_run(run).mark is not None:
            return  # it is whole: nothing that we may judge
        id, kept = answers.run_id(run), answers.run_id(stays)
        if answers.lifecycle(run["info"]) == "deleted":
            return
        self._set_tags(id, [Tag(answers.DUPLICATE, kept)])
        self._delete_tag(id, marks.ORIGIN)
        delete_run(self._rest, id)
        what = f"made twice; {kept} stays, {id}, which was empty, is deleted"
        findings.append(Note(f"run/{kept}", what))

    def _new_run(
        self, delivery: Delivery, header: Run, findings: list[Finding]
    ) -> Json:
        item = delivery.item
        there = _name_tag(item)
        # The server would invent a name for a run without.
        given = header.name or there or item.origin
        tags = [
            Tag(marks.ORIGIN, item.origin),
            Tag(marks.SOURCE, delivery.source),
            # Before MLflow 1.30 this is a run's only name.
            Tag(answers.RUN_NAME, given),
        ]
        if (header.name, there) != (given, given):
            said = {"given": given, "name": header.name, "tag": there}
            tags.append(Tag(answers.NAMED, json.dumps(said)))
        if header.name and there and header.name != there:
            what = f"tag {answers.RUN_NAME} ({there}) is the name here ({given})"
            findings.append(Loss(item.ref, what, carried=True))
        if delivery.missing_parent is not None:
            tags.append(Tag(marks.UNRESOLVED, delivery.missing_parent))
        if header.parent is not None:
            tags.append(Tag(marks.PARENT, header.parent.id))
        body: Json = {
            "experiment_id": header.experiment.id,
            "run_name": given,
            "user_id": header.user or "",
            "tags": _pairs(tags),
        }
        if header.start_time is not None:
            body["start_time"] = header.start_time
        return body

    def _fill(self, work: _Work, held: Json) -> None:
        """Write everything but the end of a run and its mark."""
        item = work.delivery.item
        tags = [tag for tag in item.tags if tag.key != answers.RUN_NAME]
        if work.header.parent is not None:
            tags.append(Tag(marks.PARENT, work.header.parent.id))
        if work.delivery.artifacts == "link" and work.header.artifact_uri:
            tags.append(Tag(LINKED, work.header.artifact_uri))
            what = "its artifacts stay where they are; tag mlmigrate.artifact_uri"
            work.findings.append(Loss(item.ref, what, carried=True))
        params = _pairs(item.params)
        for batch in _batches(params, _pairs(tags), item.metrics):
            self._rest.post("runs/log-batch", {"run_id": work.id, **batch})
        for at in range(0, len(item.inputs), _INPUTS_A_BATCH):
            self._log_inputs(work.id, item.inputs[at : at + _INPUTS_A_BATCH])
        self._models.log_links(work.id, item.links)
        if item.artifacts and work.delivery.open is not None:
            uri = str(held["info"].get("artifact_uri") or "")
            work.checksums, work.bytes = self._uploads.write(
                Ref("run", work.id), uri, work.delivery, work.findings
            )

    def _log_inputs(self, id: str, inputs: Sequence[DatasetInput]) -> None:
        """Write dataset inputs, one run after the other.

        A server fails where it makes the same dataset for two runs at once.
        """
        body = {"run_id": id, "datasets": [_dataset(one) for one in inputs]}
        with self._datasets_lock:
            try:
                self._rest.post("runs/log-inputs", body)
            except Refused as refusal:
                if refusal.status != 400:
                    raise
                # Another copy may have made it just now: then it is found.
                self._rest.post("runs/log-inputs", body)

    def _finish_run(self, work: _Work, held: Json, own: Sequence[Tag]) -> None:
        header = work.header
        update: Json = {"run_id": work.id, "status": header.status}
        if header.end_time is not None:
            update["end_time"] = header.end_time
        name = header.name or _name_tag(work.delivery.item)
        shown = answers.there_name(held["info"], list(answers.tags_of(held).items()))
        *others, mark = own
        if work.delivery.into and name and name != shown:
            update["run_name"] = name
            others.append(Tag(answers.RUN_NAME, name))
        self._rest.post("runs/update", update)
        have = answers.tags_of(held)
        if lacking := [tag for tag in others if have.get(tag.key) != tag.value]:
            self._set_tags(work.id, lacking)
        self._set_tags(work.id, [mark])
        if header.lifecycle == "deleted":
            delete_run(self._rest, work.id)
        self._reader.forget(work.id)

    def _set_tags(self, id: str, tags: Sequence[Tag]) -> None:
        self._rest.post("runs/log-batch", {"run_id": id, "tags": _pairs(tags)})

    def _delete_tag(self, id: str, key: str) -> None:
        try:
            self._rest.post("runs/delete-tag", {"run_id": id, "key": key})
        except Refused as refusal:
            if not refusal.absent:  # an answer was lost, and it is gone already
                raise


def _name_tag(item: Item) -> str | None:
    found = (tag.value for tag in item.tags if tag.key == answers.RUN_NAME)
    return next(found, None)


# -- records to requests ----------------------------------------------------------


def _batches(
    params: Sequence[Json], tags: Sequence[Json], metrics: Iterable[MetricHistory]
) -> Iterator[Json]:
    """Yield the bodies of as few ``log-batch`` requests as the limits allow."""
    points = _points(metrics)
    waiting = {"params": list(reversed(params)), "tags": list(reversed(tags))}
    while True:
        batch: dict[str, list[Json]] = {"params": [], "tags": [], "metrics": []}
        left, count = _BYTES_A_BATCH, 0
        for field_name, entries in waiting.items():
            taken = batch[field_name]
            while entries and len(taken) < _OTHERS_A_BATCH:
                left -= len(json.dumps(entries[-1]))
                if left < 0 and count:
                    break
                taken.append(entries.pop())
                count += 1
        while count < _METRICS_A_BATCH and left > 0:
            point = next(points, None)
            if point is None:
                break
            batch["metrics"].append(point)
            left -= len(point["key"]) * 6 + 120
            count += 1
        if not count:
            return
        yield {name: entries for name, entries in batch.items() if entries}


def _points(metrics: Iterable[MetricHistory]) -> Iterator[Json]:
    for metric in metrics:
        columns = zip(
            metric.steps.tolist(),
            metric.timestamps.tolist(),
            metric.values.tolist(),
            strict=True,
        )
        for step, timestamp, value in columns:
            yield {
                "key": metric.key,
                "value": _number(value),
                "timestamp": timestamp,
                "step": step,
            }


def _number(value: float) -> float | str:
    """Return a value as JSON can say it."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _pairs(records: Iterable[Param | Tag]) -> list[Json]:
    return [{"key": one.key, "value": one.value} for one in records]


def _dataset(record: DatasetInput) -> Json:
    dataset = {
        "name": record.name,
        "digest": record.digest,
        "source_type": record.source_type,
        "source": record.source,
    }
    if record.schema is not None:
        dataset["schema"] = record.schema
    if record.profile is not None:
        dataset["profile"] = record.profile
    return {"dataset": dataset, "tags": _pairs(record.tags)}
