"""The sink half for logged models, and for links of runs to them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import cast

from mlmigrate import marks
from mlmigrate.artifacts import combined_checksum
from mlmigrate.contract import Delivery, Written
from mlmigrate.errors import ItemError
from mlmigrate.model import (
    Finding,
    LoggedModel,
    Loss,
    ModelLink,
    ModelMetric,
    Note,
    Param,
    Ref,
    Tag,
)
from mlmigrate.stores.mlflow_server import answers, logged_models
from mlmigrate.stores.mlflow_server.experiments import (
    Experiments,
    delete_run,
    restore_run,
)
from mlmigrate.stores.mlflow_server.index import Index, KnownRun
from mlmigrate.stores.mlflow_server.logged_models import place
from mlmigrate.stores.mlflow_server.reading import Reader
from mlmigrate.stores.mlflow_server.rest import (
    Ambiguous,
    Json,
    Refused,
    Rest,
    creating,
)
from mlmigrate.stores.mlflow_server.uploads import Uploads

#: On a logged model whose artifacts were linked, not copied: where they are.
LINKED = "mlmigrate.artifact_uri"

_A_BATCH = 100
_POINTS_A_BATCH = 1000
_STATUSES = {own: there for there, own in logged_models.STATUSES.items()}
_TRIES = 6


class LoggedModels:
    """Writes logged models, and links of runs. Safe to use from many threads."""

    def __init__(
        self,
        rest: Rest,
        reader: Reader,
        index: Index,
        experiments: Experiments,
        uploads: Uploads,
    ) -> None:
        self._rest = rest
        self._reader = reader
        self._index = index
        self._experiments = experiments
        self._uploads = uploads

    def write(self, delivery: Delivery) -> Written:
        """Write one logged model, or what its copy lacks.

        Raises:
            ItemError: the server refuses it.
        """
        item, header = delivery.item, delivery.item.header
        if not isinstance(header, LoggedModel):
            raise ItemError(f"{item.ref}: not a logged model")
        findings: list[Finding] = []
        self._experiments.open(header.experiment.id)
        if delivery.into is not None:
            held = self._opened(delivery.into.id)
        else:
            held = self._made(delivery, header, findings)
        id = str(held["info"]["model_id"])
        self._log_params(id, held, item.params)
        self._set_tags(id, self._own_tags(delivery, header, findings))
        for metric in item.model_metrics:
            self._log_points(id, metric)
        checksums: dict[str, str] = {}
        size = 0
        if item.artifacts and delivery.open is not None:
            uri = str(held["info"].get("artifact_uri") or "")
            ref = Ref("logged_model", id)
            checksums, size = self._uploads.write(ref, uri, delivery, findings)
        if header.status != logged_models.STATUSES.get(held["info"].get("status")):
            body = {"model_id": id, "status": _STATUSES[header.status]}
            self._rest.change("PATCH", place(id), body)
        mark = delivery.mark
        if checksums:
            # Of a copy that was added to, only a part was read just now.
            whole = None if delivery.into else combined_checksum(checksums)
            mark = replace(mark, checksums=whole)
        *others, last = marks.own_tags(delivery, mark=mark)
        self._set_tags(id, others)
        self._set_tags(id, [last])
        self._index.note_model(item.origin, KnownRun(id, last.value, "active"))
        return Written(
            Ref("logged_model", id),
            mark.checksums,
            len(checksums),
            size,
            tuple(findings),
        )

    def _opened(self, id: str) -> Json:
        """Return a copy that is to be changed, which is incomplete from now on."""
        held = self._reader.logged_model(id)
        if marks.MARK in answers.pairs_of(held["info"]):
            try:
                path = f"{place(id)}/tags/{marks.MARK}"
                self._rest.change("DELETE", path, {})
            except Refused as refusal:
                if not refusal.absent:  # an answer was lost, and it is gone already
                    raise
        return held

    def _made(
        self, delivery: Delivery, header: LoggedModel, findings: list[Finding]
    ) -> Json:
        origin, home = delivery.item.origin, header.experiment.id
        body: Json = {
            "experiment_id": home,
            "name": header.name,
            "tags": _pairs([Tag(marks.ORIGIN, origin)]),
        }
        if header.model_type is not None:
            body["model_type"] = header.model_type
        if header.source_run is not None:
            body["source_run_id"] = header.source_run.id

        def create() -> Json:
            return cast(Json, self._rest.create("logged-models", body)["model"])

        def find() -> Json | None:
            return next(self._unfinished(origin, home), None)

        made = creating(create, find)
        self._reader.note_logged_models()
        # Whatever fails from here on, the next try goes on with this one.
        id = str(made["info"]["model_id"])
        self._index.note_model(origin, KnownRun(id, None, "active"))
        return made

    def _unfinished(self, origin: str, experiment: str) -> Iterator[Json]:
        for model in self._reader.logged_models([experiment]):
            tags = answers.pairs_of(model["info"])
            if tags.get(marks.ORIGIN) == origin and not tags.get(marks.MARK):
                yield model

    def _own_tags(
        self, delivery: Delivery, header: LoggedModel, findings: list[Finding]
    ) -> list[Tag]:
        tags = list(delivery.item.tags)
        if delivery.artifacts == "link" and header.artifact_location:
            tags.append(Tag(LINKED, header.artifact_location))
            what = "its artifacts stay where they are; tag mlmigrate.artifact_uri"
            findings.append(Loss(delivery.item.ref, what, carried=True))
        return tags

    def _set_tags(self, id: str, tags: Sequence[Tag]) -> None:
        for at in range(0, len(tags), _A_BATCH):
            body = {"model_id": id, "tags": _pairs(tags[at : at + _A_BATCH])}
            self._rest.change("PATCH", f"{place(id)}/tags", body)

    def _log_params(self, id: str, held: Json, params: Sequence[Param]) -> None:
        """Write params, which a server takes only once."""
        for attempt in range(_TRIES):
            there = (held.get("data") or {}).get("params")
            have = dict(answers.key_values(there))
            lacking = [param for param in params if param.key not in have]
            try:
                for at in range(0, len(lacking), _A_BATCH):
                    own = _pairs(lacking[at : at + _A_BATCH])
                    body = {"model_id": id, "params": own}
                    self._rest.create(f"{place(id)}/params", body)
                return
            except Ambiguous as error:
                if attempt == _TRIES - 1:
                    what = f"every answer to its params is lost: {error}"
                    raise ItemError(what) from None
                held = self._reader.logged_model(id)

    def _log_points(self, id: str, metric: ModelMetric) -> None:
        """Write points, through the run that measured them."""
        own = metric.history
        fields: Json = {"key": own.key, "model_id": id}
        if metric.dataset is not None:
            fields["dataset_name"] = metric.dataset
            fields["dataset_digest"] = metric.dataset_digest or ""
        points = [
            {**fields, "step": step, "timestamp": timestamp, "value": value}
            for step, timestamp, value in zip(
                own.steps.tolist(),
                own.timestamps.tolist(),
                own.values.tolist(),
                strict=True,
            )
        ]

        def write() -> None:
            for at in range(0, len(points), _POINTS_A_BATCH):
                some = points[at : at + _POINTS_A_BATCH]
                body = {"run_id": metric.run.id, "metrics": some}
                self._rest.post("runs/log-batch", body)

        self._while_active(metric.run.id, write)

    def _while_active(self, run: str, act: Callable[[], None]) -> None:
        """Do something to a run, which a deleted one does not take."""
        self._reader.forget(run)
        info = self._reader.run(run)["info"]
        if answers.lifecycle(info) == "active":
            act()
            return
        self._experiments.open(str(info["experiment_id"]))
        restore_run(self._rest, run)
        act()
        delete_run(self._rest, run)

    # -- links --------------------------------------------------------------------

    def log_links(self, run: str, links: Sequence[ModelLink]) -> None:
        """Link an active run to logged models, each once."""
        if not links:
            return
        for attempt in range(_TRIES):
            self._reader.forget(run)
            held = logged_models.links_of(self._reader.run(run))
            have = {(link.role, link.model.id) for link in held}
            lacking = [each for each in links if (each.role, each.model.id) not in have]
            made = [
                {"model_id": each.model.id, "step": each.step}
                for each in lacking
                if each.role == "output"
            ]
            used = [
                {"model_id": each.model.id} for each in lacking if each.role == "input"
            ]
            try:
                if made:
                    self._rest.create("runs/outputs", {"run_id": run, "models": made})
                if used:
                    body = {"run_id": run, "models": used}
                    self._rest.create("runs/log-inputs", body)
                return
            except Ambiguous as error:
                if attempt == _TRIES - 1:
                    what = f"every answer to its links is lost: {error}"
                    raise ItemError(what) from None

    def finish(self) -> Iterator[Finding]:
        """Link the runs that were written before their logged models."""
        for run, waiting in sorted(self._index.waiting_links().items()):
            try:
                self._link_now(run, waiting)
            except ItemError as error:
                what = f"its logged models cannot be linked: {error}"
                yield Note(f"run/{run}", what)

    def _link_now(self, run: str, waiting: Sequence[ModelLink]) -> None:
        found = self._index.copies([link.model for link in waiting])
        here = [
            replace(link, model=found[link.model].ref)
            for link in waiting
            if link.model in found
        ]
        if not here:
            return
        left = [link for link in waiting if link.model not in found]

        def write() -> None:
            self.log_links(run, here)
            tags = _pairs([answers.waiting_tag(left)])
            self._rest.post("runs/log-batch", {"run_id": run, "tags": tags})

        self._while_active(run, write)
        self._index.note_links(run, left)
        self._reader.forget(run)


def _pairs(records: Sequence[Param | Tag]) -> list[Json]:
    return [{"key": one.key, "value": one.value} for one in records]
