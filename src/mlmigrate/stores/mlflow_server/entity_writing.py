"""The sink half for entities: what a server's API makes of their rows.

A server gives ids, times and numbers of its own. What it holds is found by name, so a
copy that was killed is completed by the next one.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

from mlmigrate import entities
from mlmigrate.contract import Copy, Delivery, Written
from mlmigrate.entities import ENTITIES, HOUSES
from mlmigrate.errors import ItemError
from mlmigrate.model import Entity, Kind, Note, Ref
from mlmigrate.stores.mlflow_server import mcp_servers
from mlmigrate.stores.mlflow_server.entities import (
    API,
    WRAPPED,
    address_of,
    id_of,
    listed,
    schema_named,
    seeds_schemas,
    versions,
)
from mlmigrate.stores.mlflow_server.entity_task import Task
from mlmigrate.stores.mlflow_server.rest import (
    Json,
    Refused,
    Rest,
    creating,
    quoted,
)

_T = TypeVar("_T")
_RECORD = ("inputs", "outputs", "expectations", "tags", "source")
#: What can be set of each table; the rest a server gives, or has no place for.
COLUMNS: Mapping[str, frozenset[str]] = {
    table: frozenset(columns)
    for table, columns in {
        "evaluation_datasets": ("name",),
        "evaluation_dataset_tags": ("key", "value"),
        "evaluation_dataset_records": (
            *("input_hash", "source_id", "source_type"),
            *_RECORD,
        ),
        "entity_associations": ("destination_id",),
        "scorers": ("scorer_name",),
        "scorer_versions": ("scorer_version", "serialized_scorer"),
        "label_schemas": (
            *("name", "type", "instruction", "enable_comment"),
            *("input_type", "input_config", "is_default"),
        ),
        "review_queues": ("name", "name_key", "queue_type"),
        "review_queue_users": ("user_id",),
        "review_queue_label_schemas": ("schema_id",),
        "review_queue_items": ("item_id", "item_type", "status", "completed_by"),
        "issues": (
            *("name", "description", "status", "severity", "root_causes"),
            *("source_run_id", "categories", "created_by"),
        ),
        "webhooks": ("name", "description", "url", "status"),
        "webhook_events": ("entity", "action"),
        "mcp_servers": ("display_name", "description", "icons"),
        "mcp_server_tags": ("key", "value"),
        "mcp_server_versions": (
            *("version", "server_json", "status", "tools", "source"),
            "connect_options",
        ),
        "mcp_server_version_tags": ("version", "key", "value"),
        "mcp_server_aliases": ("alias", "version"),
        "mcp_access_endpoints": (
            *("server_version", "server_alias", "url", "transport_type"),
        ),
        # Not `default_artifact_root`: what is copied would come to lie there.
        "workspaces": (
            *("description", "trace_archival_location", "trace_archival_retention"),
        ),
    }.items()
}
#: Records, or items of a queue, in one request.
_A_BATCH = 500


class Entities:
    """What a server holds of entities, as far as it was asked for, and writes to it."""

    def __init__(self, rest: Rest, *, fresh: bool) -> None:
        self._rest = rest
        #: (kind, experiment) -> id or address -> what the server told.
        self._known: dict[tuple[Kind, str], dict[str, Json]] = {}
        #: The experiments whose label schemas are looked for one by one.
        self._unlisted: set[str] = set()
        if fresh:  # the workspace was made just now: nobody said anything of it
            self._known.update(((kind, ""), {}) for kind in HOUSES)

    def copies(self, origins: Iterable[Ref]) -> dict[Ref, Copy]:
        """Find entities by their addresses, and by their ids among those of the
        experiments that the addresses name.
        """
        wanted = list(origins)
        found: dict[Ref, Copy] = {}
        for kind, place in {(ref.kind, _place(ref)) for ref in wanted if "/" in ref.id}:
            known = self._of(kind, place)
            for ref in wanted:
                if kind == "label_schema" == ref.kind and "/" in ref.id:
                    self._look_for(known, place, ref)
                if ref.kind == kind and ref.id in known:
                    copy = Copy(Ref(kind, id_of(kind, known[ref.id])), None)
                    found.setdefault(ref, copy)
        return found

    def _of(self, kind: Kind, place: str) -> dict[str, Json]:
        if (kind, place) not in self._known:
            # To list label schemas may make one, which a plan must not.
            if kind == "label_schema" and seeds_schemas(self._rest, place):
                self._known[kind, place] = {}
                self._unlisted.add(place)
            else:
                self._list(kind, place)
        return self._known[kind, place]

    def _list(self, kind: Kind, place: str) -> dict[str, Json]:
        known = self._known[kind, place] = {}
        if kind == "label_schema":
            self._unlisted.discard(place)
        try:
            for said in listed(self._rest, kind, place):
                _note(known, kind, place, said)
        except Refused as refusal:
            if not refusal.absent:  # a plan asks for experiments that are to come
                raise
        return known

    def _look_for(self, known: dict[str, Json], place: str, ref: Ref) -> None:
        """Look for a label schema by its name, where they were not listed."""
        if ref.id in known or place not in self._unlisted:
            return
        said = schema_named(self._rest, place, ref.id.partition("/")[2])
        if said is not None:
            _note(known, ref.kind, place, said)

    def write(self, delivery: Delivery) -> Written:
        """Make an entity, or add to the one that stands.

        Raises:
            ItemError: the server refuses.
        """
        item, kind = delivery.item, delivery.item.ref.kind
        assert isinstance(item.header, Entity)
        place = item.header.experiment.id if item.header.experiment else ""
        address = entities.address(kind, item.header).id
        said: dict[str, list[Mapping[str, Any]]] = {}
        for row in item.rows:
            said.setdefault(row.table, []).append(entities.values(row))

        def find() -> Json | None:
            return self._list(kind, place).get(address)

        standing = self._of(kind, place)[delivery.into.id] if delivery.into else None
        name = item.header.name
        task = Task(self._rest, name, place, said, standing, find)
        try:
            made, notes = _WRITERS[kind](task)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ItemError(
                f"{item.ref} cannot be said over REST: {error!r}"
            ) from error
        _note(self._of(kind, place), kind, place, made)
        findings = tuple(Note(str(item.ref), what) for what in notes)
        return Written(Ref(kind, id_of(kind, made)), findings=findings)


def _note(known: dict[str, Json], kind: Kind, place: str, said: Json) -> None:
    known[id_of(kind, said)] = said
    known.setdefault(address_of(kind, place, said), said)


def _place(address: Ref) -> str:
    """Return the experiment that an address names; empty of what has none."""
    of_experiment = ENTITIES[address.kind].of_experiment
    return address.id.partition("/")[0] if of_experiment else ""


#: What the server says of the entity, and what is to be noted.
_Made: TypeAlias = "tuple[Json, list[str]]"


def _dataset(task: Task) -> _Made:
    tags = {
        row["key"]: row.get("value") for row in task.rows("evaluation_dataset_tags")
    }
    homes = [str(row["destination_id"]) for row in task.rows("entity_associations")]
    own = task.rows("evaluation_datasets")
    body: Json = {
        "name": own[0]["name"] if own else "",
        "experiment_ids": homes,
        "tags": json.dumps(tags),
    }
    made = task.made(f"{API}/datasets/create", "dataset", body)
    place = f"{API}/datasets/{quoted(made['dataset_id'])}"
    if task.standing is not None and tags:
        task.rest.change("PATCH", f"{place}/tags", {"tags": json.dumps(tags)})
    if task.standing is not None and homes:
        task.rest.post(f"{place}/add-experiments", {"experiment_ids": homes})
    records = [_record(row) for row in task.rows("evaluation_dataset_records")]
    for some in _batches(records):
        task.rest.post(f"{place}/records", {"records": json.dumps(some)})
    return made, []


def _batches(rows: Sequence[_T]) -> Iterator[Sequence[_T]]:
    for at in range(0, len(rows), _A_BATCH):
        yield rows[at : at + _A_BATCH]


def _record(row: Mapping[str, Any]) -> Json:
    record = {name: json.loads(row.get(name) or "null") for name in _RECORD}
    outputs = record["outputs"]
    if isinstance(outputs, dict) and outputs.keys() == {WRAPPED}:
        record["outputs"] = outputs[WRAPPED]
    return record


def _scorer(task: Task) -> _Made:
    made, notes = task.standing, []
    for row in sorted(
        task.rows("scorer_versions"), key=lambda row: int(row["scorer_version"])
    ):
        text = row["serialized_scorer"]
        names = [own["scorer_name"] for own in task.rows("scorers")]
        name = made["scorer_name"] if made is not None else names[0]
        where: Json = {"experiment_id": task.home, "scorer_name": name}
        body = {
            "experiment_id": task.home,
            "name": name,
            "serialized_scorer": text,
        }

        def create(where: Json = where, body: Json = body) -> Json:
            return {**where, **task.rest.create(f"{API}/scorers/register", body)}

        def find(where: Json = where, text: str = text) -> Json | None:
            for version in versions(task.rest, where):
                if version["serialized_scorer"] == text:
                    found: Json = {**version, "version": version["scorer_version"]}
                    return found
            return None

        made = creating(create, find)
        number, given = int(row["scorer_version"]), int(made["version"])
        if number != given:
            notes.append(f"scorer_version {number} is scorer_version {given} there")
    if made is None:
        raise ItemError("a scorer without versions cannot be made over REST")
    if "scorer_id" not in made:  # MLflow 3.5 answers with the version alone
        made = task.find() or made
    return made, notes


def _label_schema(task: Task) -> _Made:
    (row,) = task.rows("label_schemas")
    if task.standing is None and row.get("is_default"):
        made = task.find()  # to list them makes it
        if made is not None:
            return made, []
    held: Mapping[str, Any] = json.loads(row["input_config"])
    config = {name: value for name, value in held.items() if value is not None}
    body: Json = {
        "name": row["name"],
        "instruction": row.get("instruction"),
        "enable_comment": bool(row.get("enable_comment")),
        "input": {row["input_type"]: config},
    }
    if task.standing is not None:
        body["schema_id"] = task.standing["schema_id"]
        task.rest.change("PATCH", f"{API}/label-schemas/update", body)
        return task.standing, []
    body |= {"experiment_id": task.home, "type": str(row["type"]).upper()}
    made = task.made(f"{API}/label-schemas/create", "label_schema", body)
    task.find()  # once listed, they are shown to who copies from there
    return made, []


def _review_queue(task: Task) -> _Made:
    users = [row["user_id"] for row in task.rows("review_queue_users")]
    schemas = [row["schema_id"] for row in task.rows("review_queue_label_schemas")]
    if task.standing is None:
        (row,) = task.rows("review_queues")
        body: Json = {
            "experiment_id": task.home,
            "name": row["name"],
            "queue_type": str(row["queue_type"]).upper(),
            "created_by": row.get("created_by"),
            "users": users,
            "schema_ids": schemas,
        }
        made = task.made(f"{API}/review-queues/create", "review_queue", body)
    else:
        made = task.standing
        body = {"queue_id": made["queue_id"]}
        if users:
            body |= {"update_users": True, "users": _union(made.get("users"), users)}
        if schemas:
            all_of_them = _union(made.get("schema_ids"), schemas)
            body |= {"update_schema_ids": True, "schema_ids": all_of_them}
        if len(body) > 1:
            task.rest.post(f"{API}/review-queues/update", body)
    queue = {"queue_id": made["queue_id"]}
    items = task.rows("review_queue_items")
    for some in _batches(items):
        ids = [row["item_id"] for row in some]
        body = {**queue, "item_type": "TRACE", "item_ids": ids}
        task.rest.post(f"{API}/review-queues/items/add", body)
    for row in items:
        if row["status"] != "pending":
            body = {
                **queue,
                "item_id": row["item_id"],
                "status": str(row["status"]).upper(),
                "completed_by": row.get("completed_by"),
            }
            task.rest.post(f"{API}/review-queues/items/set-status", body)
    return made, []


def _union(held: Any, more: Sequence[str]) -> list[str]:
    return list(dict.fromkeys([*(held or ()), *more]))


def _issue(task: Task) -> _Made:
    (row,) = task.rows("issues")
    names = ("name", "description", "status", "severity")
    body: Json = {name: row[name] for name in names if name in row}
    if task.standing is not None:
        path = f"{API}/issues/{quoted(task.standing['issue_id'])}"
        task.rest.change("PATCH", path, body)
        return task.standing, []
    body |= {name: row[name] for name in ("source_run_id", "created_by") if name in row}
    for name in ("root_causes", "categories"):
        body[name] = json.loads(row.get(name) or "[]")
    body["experiment_id"] = task.home
    return task.made(f"{API}/issues", "issue", body), []


def _webhook(task: Task) -> _Made:
    events = [
        {name: str(row[name]).upper() for name in ("entity", "action")}
        for row in task.rows("webhook_events")
    ]
    body: Json = {"events": events} if events else {}
    for row in task.rows("webhooks"):
        names = ("name", "url", "description", "status")
        body |= {name: row[name] for name in names if name in row}
    if task.standing is not None:
        held = task.standing.get("events") or ()
        if events:
            body["events"] = [*held, *(each for each in events if each not in held)]
        path = f"webhooks/{quoted(task.standing['webhook_id'])}"
        task.rest.change("PATCH", path, body)
        return task.standing, []
    return task.made("webhooks", "webhook", body), []


def _workspace(task: Task) -> _Made:
    """It was made before anything was written to it: `workspaces.ToCome`."""
    made = task.standing or task.find()
    if made is None:
        raise ItemError("there is no such workspace any more")
    body: Json = {}
    for row in task.rows("workspaces"):
        config = {
            name.removeprefix("trace_archival_"): value
            for name, value in row.items()
            if name.startswith("trace_archival_")
        }
        if "description" in row:
            body["description"] = row["description"]
        if config:
            body["trace_archival_config"] = config
    if body:
        path = f"{API}/workspaces/{quoted(made['name'])}"
        task.rest.change("PATCH", path, body)
    return made, []


_WRITERS: Mapping[Kind, Callable[[Task], _Made]] = {
    "evaluation_dataset": _dataset,
    "scorer": _scorer,
    "label_schema": _label_schema,
    "review_queue": _review_queue,
    "issue": _issue,
    "webhook": _webhook,
    "mcp_server": mcp_servers.write,
    "workspace": _workspace,
}
