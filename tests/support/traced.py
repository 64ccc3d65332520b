"""Writes a store with traces by MLflow's own API, ``python traced.py TRACKING_URI``,
and tells what MLflow shows of one.

It runs in a process of its own, as MLflow keeps the state of tracing in globals.
"""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from support._processes import run_module

#: What the tokens of the traced model come to.
USAGE = {"input_tokens": 5, "output_tokens": 7, "total_tokens": 12}

_OWN = ("mlmigrate.", "mlflow.artifactLocation", "mlflow.trace.spansLocation")


def write(uri: str) -> None:
    """Write the store at *uri*."""
    _run("write", uri)


def put_away(uri: str, folder: Path) -> None:
    """Let MLflow put the spans of all traces of a database away, below *folder*."""
    _run("put_away", uri, folder.as_uri())


def _run(act: str, uri: str, *arguments: str) -> None:
    run_module(
        "support.traced",
        *(act, uri, *arguments),
        cwd=_folder(uri),  # where MLflow puts the files of a database's traces
        extra={"MLFLOW_ALLOW_FILE_STORE": "true"},
    )


def shown(uri: str) -> dict[str, dict[str, Any]]:
    """Return what MLflow's client shows of each trace."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=uri)
    homes = {each.experiment_id: each.name for each in client.search_experiments()}
    found = {}
    for short in client.search_traces(locations=list(homes), include_spans=False):
        trace = client.get_trace(short.info.trace_id)
        info = trace.info
        found[info.trace_id] = {
            "experiment": homes[info.experiment_id],
            "state": str(info.state),
            "times": (info.request_time, info.execution_duration),
            "client_request_id": info.client_request_id,
            "previews": (info.request_preview, info.response_preview),
            "tags": {k: v for k, v in info.tags.items() if not k.startswith(_OWN)},
            "metadata": info.trace_metadata,
            "assessments": {
                each.assessment_id: {
                    **each.to_dictionary(),
                    "run": each.run_id,
                    "times": (each.create_time_ms, each.last_update_time_ms),
                    "valid": each.valid is not False,
                }
                for each in info.assessments
            },
            "spans": {span.span_id: span.to_dict() for span in trace.data.spans},
        }
    return found


def _folder(uri: str) -> Path:
    """Return the folder of a store of files or of SQLite."""
    return Path(uri.removeprefix("sqlite:///")).parent


def _main(uri: str) -> None:
    import mlflow
    from mlflow.entities import AssessmentSource

    mlflow.set_tracking_uri(uri)
    mlflow.set_experiment("bots")
    human = AssessmentSource(source_type="HUMAN", source_id="mei")

    @mlflow.trace(span_type="CHAIN")
    def answer(question: str) -> Any:
        mlflow.update_current_trace(
            tags={"team": "growth ä"},
            metadata={
                "mlflow.trace.session": "s-1",
                "mlflow.trace.user": "dana",
                "k": "v",
            },
            client_request_id="call-1",
        )
        with mlflow.start_span("llm", span_type="LLM") as span:
            span.set_attribute("mlflow.chat.tokenUsage", USAGE)
            span.set_attribute("mlflow.llm.model", "gpt-4o")
            span.set_attribute("mlflow.llm.provider", "openai")
            span.set_inputs({"question": question})
            span.set_outputs({"text": "größer 🚀", "none": None, "n": 1.5})
        return {"answer": "yes"}

    @mlflow.trace
    def fail() -> None:
        raise ValueError("boom")

    with mlflow.start_run() as run:
        answer("why?")
    mlflow.flush_trace_async_logging()
    id = mlflow.get_last_active_trace_id()
    assert id is not None
    by_run = {"a": "b", "mlflow.assessment.sourceRunId": run.info.run_id}
    first = mlflow.log_feedback(
        trace_id=id,
        name="ok",
        value=True,
        source=human,
        rationale="sound",
        metadata=by_run,
    )
    mlflow.log_expectation(
        trace_id=id,
        name="wanted",
        value={"a": [1, {"b": None}], "c": "ü"},
        source=human,
    )
    mlflow.override_feedback(
        trace_id=id, assessment_id=first.assessment_id, value=0.5, rationale="better"
    )
    mlflow.log_feedback(trace_id=id, name="judge", error=ValueError("no model"))
    if uri.startswith("sqlite:"):
        client = mlflow.MlflowClient()
        mlflow.genai.register_prompt("ask", "Ask {{question}}")
        prompt = mlflow.genai.load_prompt("prompts:/ask/1")
        client.link_prompt_versions_to_trace([prompt], id)
        client.link_traces_to_run([id], run.info.run_id)
    with suppress(ValueError):
        fail()
    mlflow.flush_trace_async_logging()


def _put_away(uri: str, place: str) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    store = SqlAlchemyStore(uri, "./artifacts")
    now = store._get_archive_traces_now_millis
    store._get_archive_traces_now_millis = lambda: now() + 10 * 86_400_000
    done = store.archive_traces(
        resolved_trace_archival_location=place, broader_retention="1d"
    )
    assert done


if __name__ == "__main__":
    acts = {"write": _main, "put_away": _put_away}
    acts[sys.argv[1]](*sys.argv[2:])
