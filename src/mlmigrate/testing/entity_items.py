"""Entities to copy: one of each kind, with something in every table."""

from __future__ import annotations

import json
from collections.abc import Iterable
from hashlib import sha256
from typing import Any

from mlmigrate import entities
from mlmigrate.entities import ENTITIES
from mlmigrate.model import Entity, Item, Kind, Ref, Row
from mlmigrate.testing.items import NOW, RUN, experiment, run

_TIMES = {"last_update_time": NOW + 5, "last_updated_by": "ann", "created_by": "ann"}


def entity(
    kind: Kind, id: str, rows: Iterable[Row], *, name: str, experiment: str = "1"
) -> Item:
    """Return an entity; its experiment counts only where its kind has one."""
    home = Ref("experiment", experiment) if ENTITIES[kind].of_experiment else None
    return Item(Ref(kind, id), Entity(name, home), id, rows=tuple(rows))


def workspace(id: str = "team-a", **columns: Any) -> Item:
    """Return a workspace; keywords are what is said of it."""
    rows = [entities.row("workspaces", columns)]
    return entity("workspace", id, rows, name=id)


def dataset(
    id: str = "d-1",
    name: str = "questions",
    records: Iterable[Row] = (),
    homes: Iterable[str] = ("1",),
    tags: Iterable[tuple[str, str]] = (("team", "nlp"),),
    **more: Any,
) -> Item:
    """Return an evaluation dataset; keywords are columns of its own row."""
    own = {"name": name, "digest": "abc", "created_time": NOW, **_TIMES, **more}
    rows = [
        entities.row("evaluation_datasets", own),
        *(
            entities.row("evaluation_dataset_tags", {"key": key, "value": value})
            for key, value in tags
        ),
        *records,
        *(
            entities.row(
                "entity_associations",
                {
                    "association_id": f"a-{id}-{home}",
                    "destination_id": home,
                    "created_time": NOW,
                },
            )
            for home in homes
        ),
    ]
    return entity("evaluation_dataset", id, rows, name=name)


def record(number: int, updated: int = NOW, id: str | None = None, **more: Any) -> Row:
    """Return a record of an evaluation dataset, whose inputs *number* stands for."""
    inputs = {"question": f"what is {number}?", "é": [1, None]}
    hashed = json.dumps(inputs, sort_keys=True).encode()
    return entities.row(
        "evaluation_dataset_records",
        {
            "dataset_record_id": id or f"r-{number}",
            "inputs": json.dumps(inputs),
            "expectations": json.dumps({"exact": number / 3, "b": True}),
            "tags": json.dumps({}),
            "source": json.dumps({"source_type": "TRACE", "source_data": {"t": "x"}}),
            "source_type": "TRACE",
            "input_hash": sha256(hashed).hexdigest(),
            "created_time": NOW,
            "last_update_time": updated,
            **more,
        },
    )


def scorer(id: str = "s-1", *texts: str, name: str = "safety") -> Item:
    """Return a scorer with a version for each of *texts*."""
    versions = (
        entities.row(
            "scorer_versions",
            {
                "scorer_version": number,
                "serialized_scorer": text,
                "creation_time": NOW + number,
            },
        )
        for number, text in enumerate(texts or ('{"a": 1}', '{"a": 2}'), 1)
    )
    config = {
        "online_scoring_config_id": f"o-{id}",
        "sample_rate": 0.5,
        "experiment_id": 1,
        "filter_string": "trace.status = 'OK'",
    }
    rows = [
        entities.row("scorers", {"scorer_name": name}),
        *versions,
        entities.row("online_scoring_configs", config),
    ]
    return entity("scorer", id, rows, name=name)


def label_schema(id: str = "l-1", name: str = "tone", **more: Any) -> Item:
    """Return a label schema; keywords are columns of its row."""
    own = {
        "name": name,
        "type": "feedback",
        "instruction": "How does it sound?",
        "enable_comment": 1,
        "input_type": "categorical",
        "input_config": json.dumps(
            {"options": ["kind", "rude"], "multi_select": False}
        ),
        "created_by": "ann",
        "created_time": NOW,
        "last_update_time": NOW + 1,
        "is_default": 0,
        **more,
    }
    rows = [entities.row("label_schemas", own)]
    return entity("label_schema", id, rows, name=name)


def review_queue(
    id: str = "q-1",
    schemas: Iterable[str] = ("l-1",),
    status: str = "pending",
    updated: int = NOW + 1,
    name: str = "First Look",
) -> Item:
    """Return a review queue in which one trace waits."""
    own = {
        "name": name,
        "name_key": name.lower(),
        "queue_type": "custom",
        "created_by": "ann",
        "creation_time_ms": NOW,
        "last_update_time_ms": NOW,
    }
    item = {
        "item_type": "trace",
        "item_id": "tr-1",
        "status": status,
        "creation_time_ms": NOW,
        "last_update_time_ms": updated if status != "pending" else NOW,
        "completed_by": "ben" if status != "pending" else None,
    }
    rows = [
        entities.row("review_queues", own),
        entities.row("review_queue_users", {"user_id": "ann"}),
        *(
            entities.row("review_queue_label_schemas", {"schema_id": schema})
            for schema in schemas
        ),
        entities.row("review_queue_items", item),
    ]
    return entity("review_queue", id, rows, name="first look")


def issue(id: str = "i-1", run: str | None = RUN) -> Item:
    """Return an issue that a run found."""
    own = {
        "name": "too slow",
        "description": "It takes a minute.",
        "status": "pending",
        "severity": "high",
        "root_causes": json.dumps(["a long prompt"]),
        "source_run_id": run,
        "created_timestamp": NOW,
        "last_updated_timestamp": NOW,
    }
    return entity(
        "issue",
        id,
        [entities.row("issues", own)],
        name="too slow: It takes a minute.",
    )


def webhook(
    id: str = "w-1",
    status: str = "DISABLED",
    url: str = "https://ci.example.com/hook",
    updated: int = 0,
) -> Item:
    """Return a webhook, *updated* so many milliseconds after it was made."""
    own = {
        "name": "deploy",
        "url": url,
        "status": status,
        "creation_timestamp": NOW,
        "last_updated_timestamp": NOW + updated,
    }
    rows = [
        entities.row("webhooks", own),
        entities.row(
            "webhook_events", {"entity": "MODEL_VERSION", "action": "CREATED"}
        ),
    ]
    return entity("webhook", id, rows, name=f"deploy: {url}")


def mcp_server(name: str = "io.example/weather", endpoint: str = "e-1") -> Item:
    """Return an MCP server with one version and one endpoint."""
    times = {"created_at": NOW, "last_updated_at": NOW}
    rows = [
        entities.row("mcp_servers", {"description": "tells the weather", **times}),
        entities.row("mcp_server_tags", {"key": "team", "value": "nlp"}),
        mcp_version(name=name),
        entities.row(
            "mcp_server_version_tags", {"version": "1.0.0", "key": "k", "value": "v"}
        ),
        entities.row("mcp_server_aliases", {"alias": "live", "version": "1.0.0"}),
        mcp_endpoint(endpoint),
    ]
    return entity("mcp_server", name, rows, name=name)


def mcp_version(
    version: str = "1.0.0",
    name: str = "io.example/weather",
    title: str | None = None,
    **more: Any,
) -> Row:
    """Return a version of an MCP server; keywords are columns."""
    told = {"name": name, "version": version, **({"title": title} if title else {})}
    numbers = ("version_major", "version_minor", "version_patch")
    parts = map(int, version.partition("-")[0].split("."))
    return entities.row(
        "mcp_server_versions",
        {
            "version": version,
            **dict(zip(numbers, parts, strict=True)),
            "version_prerelease_sort_key": "2",
            "server_json": json.dumps(told),
            "status": "active",
            "created_at": NOW,
            "last_updated_at": NOW,
            **more,
        },
    )


def mcp_endpoint(id: str = "e-1", **target: str) -> Row:
    """Return an endpoint of an MCP server, by default of its alias ``live``."""
    return entities.row(
        "mcp_access_endpoints",
        {
            "id": id,
            "url": "https://93.184.215.14/mcp",
            "transport_type": "sse",
            "created_at": NOW,
            "last_updated_at": NOW,
            **(target or {"server_alias": "live"}),
        },
    )


def with_entities() -> tuple[Item, ...]:
    """Return an experiment with a run, and an entity of every kind."""
    return (
        experiment(),
        run(),
        dataset(records=map(record, range(3))),
        scorer(),
        label_schema(),
        review_queue(),
        issue(),
        webhook(),
        mcp_server(),
    )
