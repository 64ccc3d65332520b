"""Entities as a server's answers tell them, in the rows of its tables.

Sources of the forms: ``server/handlers.py``, and what ``from_mlflow_entity`` does in
``store/tracking/dbmodels/models.py`` with what a client sends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from hashlib import md5, sha256
from typing import Any, TypeVar, cast

from mlmigrate import entities
from mlmigrate.entities import ENTITIES, HOUSES
from mlmigrate.errors import ItemError
from mlmigrate.model import Entity, Item, Kind, Note, Ref, Row
from mlmigrate.stores.mlflow_server import mcp_servers
from mlmigrate.stores.mlflow_server.release import has_workspaces
from mlmigrate.stores.mlflow_server.rest import Json, Refused, Rest, quoted
from mlmigrate.workspaces import DEFAULT

_T = TypeVar("_T")
#: Below this are the endpoints of all entities but webhooks.
API = "/api/3.0/mlflow"
#: The label schema that a server makes by itself as soon as somebody lists them.
DEFAULT_SCHEMA = "Feedback"
#: The key under which ``evaluation_dataset_records`` holds what came out.
WRAPPED = "mlflow_wrapped"
#: The fields that each type of input has, all of which the table holds.
INPUTS: Mapping[str, tuple[str, ...]] = {
    "pass_fail": ("positive_label", "negative_label"),
    "categorical": ("options", "multi_select"),
    "numeric": ("min_value", "max_value"),
    "text": ("max_length",),
}

#: Where one entity of a kind is got: the path, the query's key if its id is no part of
#: the path, and the field of the answer.
_GOT: Mapping[Kind, tuple[str, str, str]] = {
    "evaluation_dataset": (f"{API}/datasets/", "", "dataset"),
    "label_schema": (f"{API}/label-schemas/get", "schema_id", "label_schema"),
    "review_queue": (f"{API}/review-queues/get", "queue_id", "review_queue"),
    "issue": (f"{API}/issues/", "", "issue"),
    "webhook": ("webhooks/", "", "webhook"),
    "mcp_server": (f"{mcp_servers.PATH}/", "", ""),
    "workspace": (f"{API}/workspaces/", "", "workspace"),
}


def listed(rest: Rest, kind: Kind, place: str) -> list[Json]:
    """Return what the server tells of the entities of a kind.

    Args:
        rest: the server.
        kind: one that it tells of: `TOLD`.
        place: the id of their experiment; empty where they have none.

    Raises:
        Refused: it does not tell; `Refused.unknown` where it does not know the kind.
    """
    return list(_LISTED[kind](rest, place))


def id_of(kind: Kind, said: Json) -> str:
    """Return the id of an entity."""
    return str(said[ENTITIES[kind].own.owner])


def address_of(kind: Kind, place: str, said: Json) -> str:
    """Return the id of the `mlmigrate.entities.address` of an entity."""
    home = Ref("experiment", place) if place else None
    if kind == "review_queue":
        said = {**said, "name_key": str(said["name"]).lower()}
    name = entities.name(kind, id_of(kind, said), said)
    return entities.address(kind, Entity(name, home)).id


def label_schema(rest: Rest, path: str, **query: str) -> Json | None:
    """Get one label schema, which makes none; None where there is no such.

    Raises:
        Refused: the server does not tell; `Refused.unknown` where it knows no schemas.
    """
    try:
        answer = rest.get(f"{API}/label-schemas/{path}", **query)
    except Refused as refusal:
        if refusal.unknown or not refusal.absent:
            raise
        return None
    return cast(Json, answer["label_schema"])


def schema_named(rest: Rest, experiment: str, name: str) -> Json | None:
    """Get the label schema of an experiment that has a name. See `label_schema`."""
    return label_schema(rest, "get-by-name", experiment_id=experiment, name=name)


def seeds_schemas(rest: Rest, experiment: str) -> bool:
    """Tell whether to list an experiment's label schemas would make a default one."""
    return schema_named(rest, experiment, DEFAULT_SCHEMA) is None


def named_schemas(rest: Rest, experiment: str) -> tuple[list[Json], bool]:
    """Return what can be told of an experiment's label schemas without listing them.

    Args:
        rest: the server.
        experiment: its id.

    Returns:
        The label schemas that something else names: a review queue by their ids, or an
        assessment by their names; and whether the experiment seems to have more, as
        somebody worked with label schemas or review queues there.

    Raises:
        Refused: the server does not tell.
    """
    queues = _known(lambda: _review_queues(rest, experiment))
    ids = {id for queue in queues for id in queue.get("schema_ids") or ()}
    names = _known(lambda: _assessment_names(rest, experiment))
    told = [
        *(label_schema(rest, "get", schema_id=id) for id in ids),
        *(schema_named(rest, experiment, name) for name in names),
    ]
    found = {str(schema["schema_id"]): schema for schema in told if schema is not None}
    return list(found.values()), bool(queues or found)


def _assessment_names(rest: Rest, experiment: str) -> Iterator[str]:
    body = {
        "experiment_ids": [experiment],
        "view_type": "ASSESSMENTS",
        "metric_name": "assessment_count",
        "aggregations": [{"aggregation_type": "COUNT"}],
        "dimensions": ["assessment_name"],
    }
    for point in rest.post(f"{API}/traces/metrics", body).get("data_points") or ():
        if name := (point.get("dimensions") or {}).get("assessment_name"):
            yield str(name)


def _known(ask: Callable[[], Iterable[_T]]) -> list[_T]:
    """Return what a server tells; nothing where it knows no such."""
    try:
        return list(ask())
    except Refused as refusal:
        if not refusal.unknown:
            raise
        return []


def item_of(rest: Rest, ref: Ref, said: Json | None) -> Item:
    """Return an entity with all its rows.

    Args:
        rest: the server.
        ref: the entity's.
        said: what the server told of it, where it cannot be asked by its id.

    Raises:
        ItemError: the server refuses, or says what no row holds.
    """
    description = ENTITIES[ref.kind]
    try:
        said = said or _got(rest, ref)
        rows = tuple(_ROWS[ref.kind](rest, said))
    except (
        *(KeyError, TypeError, ValueError, AttributeError),
        *(OverflowError, RecursionError),
    ) as error:
        raise ItemError(f"{rest.base}: {ref} cannot be read: {error!r}") from error
    home = Ref("experiment", str(said.get("experiment_id")))
    header = Entity(
        entities.name(ref.kind, ref.id, entities.values(rows[0])),
        home if description.of_experiment else None,
    )
    findings = []
    if ref.kind == "webhook":
        what = "a server does not tell whether it has a secret: give it anew if so"
        findings.append(Note(f"{rest.base}: {ref}", what))
    return Item(ref, header, origin=ref.id, rows=rows, findings=tuple(findings))


def _got(rest: Rest, ref: Ref) -> Json:
    path, key, field = _GOT[ref.kind]
    answer = rest.get(path, **{key: ref.id}) if key else rest.get(path + quoted(ref.id))
    return cast(Json, answer[field] if field else answer)


# -- lists ------------------------------------------------------------------------


def _datasets(rest: Rest, _: str) -> Iterator[Json]:
    body = {"max_results": 1000}
    yield from rest.posted_pages(f"{API}/datasets/search", "datasets", body)


def _scorers(rest: Rest, experiment: str) -> Iterator[Json]:
    answer = rest.get(f"{API}/scorers/list", experiment_id=experiment)
    for said in answer.get("scorers") or ():
        yield (
            said if "scorer_id" in said else {**said, "scorer_id": _made_id(rest, said)}
        )


def _made_id(rest: Rest, said: Json) -> str:
    """Return an id for a scorer of a server that tells of none, as MLflow 3.5 does.

    Another server may have a scorer of the same name in an experiment of the same
    number, but hardly one that was made in the same millisecond.
    """
    first = min(_whole(each.get("creation_time")) or 0 for each in versions(rest, said))
    made = f"{said['experiment_id']}/{said['scorer_name']}@{first}"
    return md5(made.encode(), usedforsecurity=False).hexdigest()


def versions(rest: Rest, said: Json) -> list[Json]:
    """Return what a server tells of each version of a scorer.

    Args:
        rest: the server.
        said: what it tells of the scorer: ``experiment_id`` and ``scorer_name``.

    Raises:
        Refused: it does not tell.
    """
    query = {"experiment_id": said["experiment_id"], "name": said["scorer_name"]}
    return list(rest.get(f"{API}/scorers/versions", **query).get("scorers") or ())


def _label_schemas(rest: Rest, experiment: str) -> Iterator[Json]:
    query = {"experiment_id": experiment, "max_results": 100}
    yield from rest.pages(f"{API}/label-schemas/list", "label_schemas", query)


def _review_queues(rest: Rest, experiment: str) -> Iterator[Json]:
    query = {"experiment_id": experiment, "max_results": 100}
    yield from rest.pages(f"{API}/review-queues/list", "review_queues", query)


def _issues(rest: Rest, experiment: str) -> Iterator[Json]:
    body = {"experiment_id": experiment, "max_results": 100}
    yield from rest.posted_pages(f"{API}/issues/search", "issues", body)


def _webhooks(rest: Rest, _: str) -> Iterator[Json]:
    yield from rest.pages("webhooks", "webhooks", {"max_results": 100})


def told_workspaces(rest: Rest) -> list[Json]:
    """Return what a server tells of its workspaces; nothing of one without any.

    Raises:
        Refused: it does not tell.
    """
    if not has_workspaces(rest):
        return []
    return list(rest.get(f"{API}/workspaces").get("workspaces") or ())


def _workspaces(rest: Rest, _: str) -> Iterator[Json]:
    """Yield the one that all requests are for."""
    for said in told_workspaces(rest):
        if said.get("name") == rest.workspace:
            yield said


_LISTED: Mapping[Kind, Callable[[Rest, str], Iterator[Json]]] = {
    "evaluation_dataset": _datasets,
    "scorer": _scorers,
    "label_schema": _label_schemas,
    "review_queue": _review_queues,
    "issue": _issues,
    "webhook": _webhooks,
    "mcp_server": mcp_servers.listed,
    "workspace": _workspaces,
}
#: The kinds that a server tells of.
TOLD: frozenset[Kind] = frozenset(_LISTED)
#: Those of which it refuses to tell what deleted experiments have
#: (``store/tracking/sqlalchemy_store.py``).
OF_ACTIVE: frozenset[Kind] = frozenset({"scorer", "label_schema", "review_queue"})


# -- rows -------------------------------------------------------------------------


def _dataset_rows(rest: Rest, said: Json) -> Iterator[Row]:
    names = ("name", "schema", "profile", "digest", "created_by", "last_updated_by")
    times = ("created_time", "last_update_time")
    yield entities.row("evaluation_datasets", _columns(said, names, times))
    tags: dict[str, Any] = json.loads(said.get("tags") or "{}")
    for key, value in tags.items():
        yield entities.row("evaluation_dataset_tags", {"key": key, "value": value})
    place = f"{API}/datasets/{quoted(said['dataset_id'])}"
    for home in rest.get(f"{place}/experiment-ids").get("experiment_ids") or ():
        # The server does not tell the id of the link, which every row has.
        link = md5(f"{said['dataset_id']}/{home}".encode(), usedforsecurity=False)
        ends = {"association_id": link.hexdigest(), "destination_id": str(home)}
        yield entities.row("entity_associations", ends)
    yield from map(_record, _records(rest, f"{place}/records"))


def _records(rest: Rest, path: str) -> Iterator[Json]:
    token = ""
    while True:
        answer = rest.get(path, max_results=1000, page_token=token)
        yield from json.loads(answer.get("records") or "[]")
        following = answer.get("next_page_token") or ""
        if not following or following == token:
            return
        token = following


def _record(said: Json) -> Row:
    names = ("dataset_record_id", "source_id", "source_type")
    own = _columns(said, (*names, "created_by", "last_updated_by"), _TIMES)
    for name in ("inputs", "expectations", "tags", "source"):
        if said.get(name) is not None:
            own[name] = json.dumps(said[name])
    if said.get("outputs") is not None:
        own["outputs"] = json.dumps({WRAPPED: said["outputs"]})
    inputs = json.dumps(said.get("inputs") or {}, sort_keys=True)
    own["input_hash"] = sha256(inputs.encode()).hexdigest()
    return entities.row("evaluation_dataset_records", own)


def _scorer_rows(rest: Rest, said: Json) -> Iterator[Row]:
    yield entities.row("scorers", {"scorer_name": said["scorer_name"]})
    for version in versions(rest, said):
        own = {
            "scorer_version": int(version["scorer_version"]),
            "serialized_scorer": str(version["serialized_scorer"]),
            "creation_time": _whole(version.get("creation_time")),
        }
        yield entities.row("scorer_versions", own)
    yield from _online(rest, said)


def _online(rest: Rest, said: Json) -> Iterator[Row]:
    """Yield by how much of its experiment's traces a scorer is run."""

    def configs() -> Iterable[Json]:
        path = f"{API}/scorers/online-configs"
        answer = rest.get(path, scorer_ids=said["scorer_id"])
        return answer.get("configs") or ()

    for config in _known(configs):
        own = {
            "online_scoring_config_id": config["online_scoring_config_id"],
            "sample_rate": float(config["sample_rate"]),
            "experiment_id": int(config.get("experiment_id") or said["experiment_id"]),
            "filter_string": config.get("filter_string"),
        }
        yield entities.row("online_scoring_configs", own)


def _label_schema_rows(_: Rest, said: Json) -> Iterator[Row]:
    own = _columns(said, ("name", "instruction", "created_by"), ())
    ((type_, held),) = said["input"].items()
    config = {name: held.get(name) for name in INPUTS[type_]}
    if type_ == "categorical":
        config["multi_select"] = bool(config["multi_select"])
    own |= {
        "type": str(said["type"]).lower(),
        "enable_comment": int(bool(said.get("enable_comment"))),
        "input_type": type_,
        "input_config": json.dumps(config),
        "created_time": _whole(said.get("created_at")),
        "last_update_time": _whole(said.get("last_updated_at")),
        "is_default": int(bool(said.get("is_default"))),
    }
    yield entities.row("label_schemas", own)


def _review_queue_rows(rest: Rest, said: Json) -> Iterator[Row]:
    times = ("creation_time_ms", "last_update_time_ms")
    own = _columns(said, ("name", "created_by"), times)
    own["name_key"] = own["name"].lower()
    own["queue_type"] = str(said["queue_type"]).lower()
    yield entities.row("review_queues", own)
    for user in said.get("users") or ():
        yield entities.row("review_queue_users", {"user_id": user})
    for schema in said.get("schema_ids") or ():
        yield entities.row("review_queue_label_schemas", {"schema_id": schema})
    query = {"queue_id": said["queue_id"], "max_results": 100}
    for item in rest.pages(f"{API}/review-queues/items/list", "items", query):
        names = ("item_id", "completed_by")
        held = _columns(item, names, (*times, "completed_time_ms"))
        held["item_type"] = str(item["item_type"]).lower()
        held["status"] = str(item["status"]).lower()
        yield entities.row("review_queue_items", held)


def _issue_rows(_: Rest, said: Json) -> Iterator[Row]:
    names = ("name", "description", "status", "severity", "source_run_id", "created_by")
    times = ("created_timestamp", "last_updated_timestamp")
    own = _columns(said, names, times)
    own.setdefault("description", "")
    for name in ("root_causes", "categories"):
        if said.get(name):
            own[name] = json.dumps(said[name])
    yield entities.row("issues", own)


def _webhook_rows(_: Rest, said: Json) -> Iterator[Row]:
    times = ("creation_timestamp", "last_updated_timestamp")
    own = _columns(said, ("name", "description", "url", "status"), times)
    yield entities.row("webhooks", own)
    for event in said.get("events") or ():
        ends = {name: str(event[name]).lower() for name in ("entity", "action")}
        yield entities.row("webhook_events", ends)


def _workspace_rows(_: Rest, said: Json) -> Iterator[Row]:
    yield _workspace_row(said)


def _workspace_row(said: Json) -> Row:
    own = _columns(said, ("description", "default_artifact_root"), ())
    config = said.get("trace_archival_config") or {}
    for name in ("location", "retention"):
        if config.get(name):
            own[f"trace_archival_{name}"] = str(config[name])
    table = ENTITIES["workspace"].own
    return entities.row(table.name, entities.without_given(table, own))


def is_told(kind: Kind, said: Json) -> bool:
    """Tell whether an entity is one to copy: every server has a default workspace."""
    if kind not in HOUSES or said.get("name") != DEFAULT:
        return True
    return bool(entities.values(_workspace_row(said)))


_ROWS: Mapping[Kind, Callable[[Rest, Json], Iterator[Row]]] = {
    "evaluation_dataset": _dataset_rows,
    "scorer": _scorer_rows,
    "label_schema": _label_schema_rows,
    "review_queue": _review_queue_rows,
    "issue": _issue_rows,
    "webhook": _webhook_rows,
    "mcp_server": mcp_servers.rows,
    "workspace": _workspace_rows,
}

_TIMES = ("created_time", "last_update_time")


def _columns(said: Json, texts: Iterable[str], times: Iterable[str]) -> dict[str, Any]:
    """Return what an answer says of some columns, under the same names."""
    found: dict[str, Any] = {
        name: str(said[name]) for name in texts if said.get(name) is not None
    }
    return found | {name: _whole(said.get(name)) for name in times}


def _whole(value: Any) -> int | None:
    return None if value is None else int(cast(str, value))
