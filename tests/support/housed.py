"""Workspaces of MLflow, filled and shown by its own API:
``python -m support.housed write|shown TRACKING_URI``.

It runs in a process of its own: MLflow learns from the environment whether there are
workspaces, and remembers it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from support._processes import run_module

#: In which everything has the same names.
WORKSPACES = ("default", "team-a", "team-b")


def make(uri: str, folder: Path) -> None:
    """Fill three workspaces of a store with the same names."""
    _run("write", uri, folder)


def shown(uri: str, folder: Path) -> dict[str, Any]:
    """Return what MLflow tells of each workspace of a store."""
    found: dict[str, Any] = json.loads(_run("shown", uri, folder))
    return found


def _run(act: str, uri: str, folder: Path) -> str:
    return run_module(
        "support.housed",
        *(act, uri),
        cwd=folder,
        extra={"MLFLOW_ENABLE_WORKSPACES": "true"},
    )


def _write() -> None:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.genai import datasets

    for name in WORKSPACES[1:]:
        mlflow.create_workspace(name, description=f"that of {name}")
    for name in WORKSPACES:
        mlflow.set_workspace(name)
        home = mlflow.set_experiment("vision").experiment_id
        client = MlflowClient()
        with mlflow.start_run() as run:
            mlflow.log_param("workspace", name)
            mlflow.log_metrics({"loss": 0.5})
            mlflow.log_text(f"of {name}", "note.txt")
            with mlflow.start_span("ask") as span:
                span.set_inputs({"in": name})
        client.create_registered_model("cat", description=name)
        source = f"runs:/{run.info.run_id}/note.txt"
        client.create_model_version("cat", source, run.info.run_id)
        client.set_registered_model_alias("cat", "best", 1)
        mlflow.genai.register_prompt("greet", f"Hello {{{{ who }}}} of {name}")
        golden = datasets.create_dataset(name="golden", experiment_id=home)
        golden.merge_records([{"inputs": {"q": name}, "expectations": {"a": 1}}])


def _shown() -> dict[str, Any]:
    import mlflow

    told = {each.name: each.description for each in mlflow.list_workspaces()}
    return {name: {"said": said, **_inside(name)} for name, said in told.items()}


def _inside(name: str) -> dict[str, Any]:
    import mlflow
    from mlflow import MlflowClient
    from mlflow.genai import datasets

    mlflow.set_workspace(name)
    client = MlflowClient()
    home = client.get_experiment_by_name("vision")
    if home is None:
        return {}
    (run,) = client.search_runs([home.experiment_id])
    (trace,) = client.search_traces([home.experiment_id])
    cat = client.get_model_version_by_alias("cat", "best")
    golden = datasets.get_dataset(name="golden")
    note = Path(client.download_artifacts(run.info.run_id, "note.txt")).read_text()
    return {
        "params": run.data.params,
        "metrics": run.data.metrics,
        "note": note,
        "trace": [(span.name, span.inputs) for span in trace.data.spans],
        "cat": [str(cat.version), cat.run_id == run.info.run_id, cat.source[:6]],
        "models": [each.description for each in client.search_registered_models()],
        "prompt": mlflow.genai.load_prompt("greet", version=1).template,
        "records": golden.to_df()["inputs"].tolist(),
        "homes": [each == home.experiment_id for each in golden.experiment_ids],
    }


def _main(act: str, uri: str) -> None:
    import mlflow

    mlflow.set_tracking_uri(uri)
    if act == "write":
        _write()
    else:
        sys.stdout.write(json.dumps(_shown()))


if __name__ == "__main__":
    _main(*sys.argv[1:])
