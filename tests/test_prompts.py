"""Prompts: registered models to MLflow, which only a client that knows them shows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from support import servers

import mlmigrate
from mlmigrate import api
from mlmigrate.verification import Different

pytestmark = pytest.mark.usefixtures("unused_store")

_SHOWN = (
    *("template", "commit_message", "response_format", "model_config", "aliases"),
    *("is_text_prompt", "variables"),
)


def write(client: MlflowClient) -> None:
    """Make an experiment, and in it a prompt of two versions."""
    experiment = client.create_experiment("asking")
    client.register_prompt(
        "summarize",
        "Sum up {{text}}. " + "Be short. " * 600,
        commit_message="first",
        tags={"team": "a"},
    )
    client.register_prompt(
        "summarize",
        [{"role": "user", "content": "Sum up {{text}}"}],
        commit_message="as a chat",
        response_format={"type": "object"},
        model_config={"model_name": "some", "temperature": 0.5},
    )
    client.set_prompt_alias("summarize", "production", 2)
    client.set_prompt_tag("summarize", "owner", "somebody")
    client.set_prompt_tag("summarize", "_mlflow_experiment_ids", f",{experiment},")


def shown(client: MlflowClient) -> dict[str, Any]:
    """Return what MLflow's client shows of the prompts, but for our tags."""
    home = client.get_experiment_by_name("asking").experiment_id
    prompts = client.search_prompts(filter_string=f"experiment_id = '{home}'")
    found: dict[str, Any] = {}
    for prompt in prompts:
        found[prompt.name] = {
            key: value
            for key, value in prompt.tags.items()
            if not key.startswith(("mlmigrate.", "_mlflow"))
        }
        for number in (1, 2):
            version = client.get_prompt_version(prompt.name, number)
            found[f"{prompt.name}/{number}"] = [
                getattr(version, name) for name in _SHOWN
            ]
        version = client.get_prompt_version_by_alias(prompt.name, "production")
        found["production"] = version.version
    return found


def of_models(found: list[Different]) -> list[Different]:
    """Leave out experiments: the sink had a Default of its own before."""
    return [each for each in found if each.ref.kind == "registered_model"]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.mlflow_server(tmp_path_factory.mktemp("prompts")) as uri:
        yield uri


@pytest.mark.parametrize("kind", ["mlruns", "sqlite"])
def test_into_a_database(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow finds each prompt in its experiment, whose id is another one."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    source = servers.fresh_database(tmp_path / "source.db")
    if kind == "mlruns":
        source = str(tmp_path / "mlruns")
    write(MlflowClient(source, source))
    sink = servers.fresh_database(tmp_path / "sink.db")
    MlflowClient(sink).create_experiment("takes the number")
    report = mlmigrate.copy([source], sink)
    checked = api.verify([source], sink)

    assert ([], {}) == (report.losses, report.problems)
    assert ([], []) == (of_models(checked.different), checked.missing)
    assert shown(MlflowClient(source, source)) == shown(MlflowClient(sink, sink))
    again = mlmigrate.copy([source], sink)
    assert ({}, {}) == (dict(again.copied), dict(again.updated))


def test_there_and_back(server: str, tmp_path: Path) -> None:
    """SQLite -> a server -> SQLite: the same prompts, and again nothing to do."""
    source = servers.fresh_database(tmp_path / "source.db")
    back = servers.fresh_database(tmp_path / "back.db")
    write(MlflowClient(source, source))
    wanted = shown(MlflowClient(source, source))
    MlflowClient(server).create_experiment("takes the number")
    report = mlmigrate.copy([source], server)
    checked = api.verify([source], server)

    assert ({}, []) == (report.problems, report.failed)
    assert ([], []) == (of_models(checked.different), checked.missing)
    assert wanted == shown(MlflowClient(server, server))
    assert {} == dict(mlmigrate.copy([source], server).copied)
    assert {} == mlmigrate.copy([server], back).problems
    assert wanted == shown(MlflowClient(back, back))


def test_an_experiment_that_is_not_there(tmp_path: Path) -> None:
    """A prompt does not land in the experiment that has got the number."""
    source = servers.fresh_database(tmp_path / "source.db")
    client = MlflowClient(source, source)
    write(client)
    client.set_prompt_tag("summarize", "_mlflow_experiment_ids", ",77,")
    sink = servers.fresh_database(tmp_path / "sink.db")
    report = mlmigrate.copy([source], sink)

    assert any("not at the sink" in what for what, _, _ in report.notes.rows())
    prompt = MlflowClient(sink, sink).get_prompt("summarize")
    assert prompt is not None
    assert "_mlflow_experiment_ids" not in prompt.tags
    assert [] == of_models(api.verify([source], sink).different)
