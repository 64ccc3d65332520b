"""What MLflow keeps beside runs, models and traces, written and shown by its own API:
``python -m support.kept write|shown TRACKING_URI``.

It runs in a process of its own, in the folder of the store: MLflow puts files there.
"""

from __future__ import annotations

import json
import sys
from base64 import urlsafe_b64encode
from pathlib import Path
from typing import Any

from support._processes import run_module

#: The trace that waits in the review queue.
TRACE = "tr-" + "7" * 32


def make(uri: str) -> None:
    """Write three experiments, and entities of each kind, into the SQLite at *uri*."""
    _run("write", uri)


def shown(uri: str) -> dict[str, Any]:
    """Return what MLflow tells of the entities of the SQLite at *uri*, by kind."""
    found: dict[str, Any] = json.loads(_run("shown", uri))
    return found


def _run(act: str, uri: str) -> str:
    # MLflow encrypts the secrets of webhooks; without a key each process has its own.
    key = urlsafe_b64encode(b"of webhooks" * 2 + b"in tests  ").decode()
    return run_module(
        "support.kept",
        *(act, uri),
        cwd=Path(uri.removeprefix("sqlite:///")).parent,
        extra={"MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": key},
    )


def _write(uri: str) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import TraceInfo, TraceLocation, TraceState
    from mlflow.entities.webhook import WebhookEvent
    from mlflow.genai.label_schemas import InputCategorical, InputText
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Models
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    client = MlflowClient(uri, registry_uri=uri)
    client.create_experiment("other")
    homes = [client.create_experiment(name) for name in ("asking", "answering")]
    run = client.create_run(homes[0], start_time=1_700_000_000_000)
    store = SqlAlchemyStore(uri, "./artifacts")
    _datasets(store, homes)
    for number in (1, 2):
        text = json.dumps({"name": "safety", "instructions": f"is it safe? {number}"})
        store.register_scorer(homes[0], "safety", text)
    store.register_scorer(homes[1], "safety", json.dumps({"name": "other"}))
    schemas = [
        store.create_label_schema(
            homes[0],
            name="tone",
            type="feedback",
            input=InputCategorical(options=["kind", "rude"]),
            instruction="How does it sound?",
            enable_comment=True,
        ),
        store.create_label_schema(
            homes[0], name="answer", type="expectation", input=InputText()
        ),
    ]
    queue = store.create_review_queue(
        homes[0],
        name="First Look",
        queue_type="custom",
        created_by="ann",
        users=["ann", "ben"],
        schema_ids=[each.schema_id for each in schemas],
    )
    store.start_trace(
        TraceInfo(
            TRACE,
            TraceLocation.from_experiment_id(homes[0]),
            1_700_000_000_000,
            TraceState.OK,
        )
    )
    store.add_items_to_review_queue(queue.queue_id, item_ids=[TRACE])
    store.create_issue(
        homes[0],
        "too slow",
        "It takes a minute.",
        root_causes=["a long prompt"],
        source_run_id=run.info.run_id,
        categories=["latency"],
        created_by="ann",
    )
    Models(uri).create_webhook(
        "deploy",
        "https://93.184.215.14/hook",
        [WebhookEvent.from_str("model_version.created")],
        description="starts a deployment",
        secret="s3cret",
    )
    _mcp_servers(store)

    for home in homes:
        store.list_label_schemas(home)  # by which MLflow makes the default one


def _mcp_servers(store: Any) -> None:
    from mlflow.entities.mcp_server import MCPStatus, MCPTool
    from mlflow.entities.mcp_server_version import ConnectOptionSettings

    name = "io.example/weather"
    icon = {"src": "https://93.184.215.14/i.png", "sizes": ["48x48"], "x": 1}
    store.create_mcp_server(name, description="tells the weather", icons=[icon])
    store.update_mcp_server(name, display_name="Weather")
    for version, status in (
        ("1.0.0", MCPStatus.ACTIVE),
        ("1.1.0-beta.2", MCPStatus.DRAFT),
        ("1.1.0-beta.10", None),
    ):
        made = {"name": name, "version": version, "description": "weather", "_meta": {}}
        store.create_mcp_server_version(made, source="ours", status=status)
    tool = MCPTool("ask", description="asks", input_schema={"type": "object"})
    held = {"tools": [tool], "connect_options": {"npm": ConnectOptionSettings(True)}}
    store.update_mcp_server_version(name, "1.0.0", **held)
    store.update_mcp_server_version(name, "1.0.0", status=MCPStatus.DEPRECATED)
    store.set_mcp_server_tag(name, "team", "nlp")
    store.set_mcp_server_version_tag(name, "1.0.0", "a/b", "c")
    store.set_mcp_server_alias(name, "live", "1.1.0-beta.2")
    for target in ({"server_alias": "live"}, {"server_version": "1.0.0"}):
        store.create_mcp_access_endpoint(name, "https://93.184.215.14/mcp", **target)
    store.create_mcp_server("io.example/bare")


def _datasets(store: Any, homes: list[str]) -> None:
    dataset = store.create_dataset(
        "questions", tags={"team": "nlp", "mlflow.user": "ann"}, experiment_ids=homes
    )
    records = [
        {
            "inputs": {"question": f"what is {number}?", "z": 1, "a": [number, None]},
            "expectations": {"answer": f"{number}", "exact": number / 3},
            "tags": {"level": "easy"},
            "source": {
                "source_type": "TRACE",
                "source_data": {"trace_id": TRACE},
            },
        }
        for number in range(5)
    ]
    store.upsert_dataset_records(dataset.dataset_id, records)
    store.create_dataset("empty")


def _shown(uri: str) -> None:
    from mlflow import MlflowClient
    from mlflow.store.model_registry.sqlalchemy_store import SqlAlchemyStore as Models
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    client = MlflowClient(uri, registry_uri=uri)
    names = {each.experiment_id: each.name for each in client.search_experiments()}
    homes = [id for id, name in names.items() if name in ("asking", "answering")]
    store = SqlAlchemyStore(uri, "./artifacts")
    datasets = []
    for each in store.search_datasets(experiment_ids=None):
        found = store.get_dataset(each.dataset_id)
        at = store.get_dataset_experiment_ids(each.dataset_id)
        records, _ = store._load_dataset_records(each.dataset_id)
        datasets.append(
            {
                **found.to_dict(),
                "experiment_ids": sorted(names[id] for id in at),
                "records": [record.to_dict() for record in records],
            }
        )
    queues = [queue for id in homes for queue in store.list_review_queues(id)]
    told = {
        "evaluation_datasets": datasets,
        "scorers": [
            _fields(version)
            for id in homes
            for scorer in store.list_scorers(id)
            for version in store.list_scorer_versions(id, scorer.scorer_name)
        ],
        "label_schemas": [
            _fields(schema) for id in homes for schema in store.list_label_schemas(id)
        ],
        "review_queues": [
            [
                _fields(queue),
                *map(_fields, store.list_review_queue_items(queue.queue_id)),
            ]
            for queue in queues
        ],
        "issues": [
            _fields(issue)
            for id in homes
            for issue in store.search_issues(experiment_id=id)
        ],
        "webhooks": [_fields(webhook) for webhook in Models(uri).list_webhooks()],
        "mcp_servers": [
            [
                _fields(store.get_mcp_server(server.name)),
                *map(_fields, store.search_mcp_server_versions(server.name)),
            ]
            for server in store.search_mcp_servers()
        ],
    }
    text = json.dumps(told, default=str, sort_keys=True)
    for id, name in names.items():
        text = text.replace(f'"experiment_id": "{id}"', f'"experiment_id": "{name}"')
    sys.stdout.write(text)


def _fields(entity: Any) -> Any:
    """Return the fields of an entity, whatever class it has."""
    if isinstance(entity, (str, int, float, type(None))):
        return entity
    if isinstance(entity, dict):
        return {str(key): _fields(value) for key, value in entity.items()}
    if isinstance(entity, (list, tuple)):
        return [_fields(each) for each in entity]
    plain = getattr(entity, "__dict__", None)
    if not plain:
        return str(entity)
    return {key.lstrip("_"): _fields(value) for key, value in plain.items()}


if __name__ == "__main__":
    {"write": _write, "shown": _shown}[sys.argv[1]](sys.argv[2])
