"""Versions that were copied from other ones, as ``copy_model_version`` makes them:
their source names the other, ``models:/NAME/NUMBER``.
"""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts
from support import servers

import mlmigrate
from mlmigrate import api
from mlmigrate.filters import Filters
from mlmigrate.pipeline import Options

pytestmark = pytest.mark.usefixtures("unused_store")


class Made:
    """A store that MLflow made, with artifacts in a folder that can go away."""

    def __init__(self, folder: Path, kind: str = "sqlite") -> None:
        folder.mkdir()
        self.folder = folder
        if kind == "mlruns":
            self.uri = str(folder / "mlruns")
        else:
            self.uri = servers.fresh_database(folder / "mlflow.db")
        self.client = MlflowClient(self.uri, self.uri)
        self._home = ""

    def register(self, name: str, text: str) -> None:
        """Make the next version of a model, from a logged model that holds a text."""
        mlflow.set_tracking_uri(self.uri)  # the registry asks this one
        if not self._home:
            place = (self.folder / "artifacts").as_uri()
            self._home = self.client.create_experiment(
                f"of {self.folder.name}", artifact_location=place
            )
        run = self.client.create_run(self._home).info.run_id
        made = self.client.create_logged_model(self._home, source_run_id=run)
        file = self.folder / "told.txt"
        file.write_text(text)
        self.client.log_model_artifact(made.model_id, str(file))
        self.client.finalize_logged_model(made.model_id, "READY")
        if not self.client.search_registered_models(f"name = '{name}'"):
            self.client.create_registered_model(name)
        self.client.create_model_version(
            name, f"models:/{made.model_id}", run_id=run, model_id=made.model_id
        )

    def promote(self, source: str, name: str) -> None:
        mlflow.set_tracking_uri(self.uri)
        self.client.copy_model_version(f"models:/{source}", name)

    def vanish(self) -> None:
        shutil.move(self.folder, self.folder.with_name(f"gone {self.folder.name}"))


def made(folder: Path, kind: str = "sqlite") -> Made:
    """Make a store of a model and of two that were promoted from it, whose names come
    before and after, and of one that was promoted again.
    """
    store, word = Made(folder, kind), folder.name
    store.register("staging", f"net of {word}")
    store.promote("staging/1", f"a prod {word}")
    store.promote("staging/1", f"z (prod);ä {word}")
    store.promote(f"z (prod);ä {word}/1", f"again {word}")
    store.client.set_registered_model_alias(f"a prod {word}", "champion", 1)
    return store


def sources(client: MlflowClient) -> dict[str, str]:
    """Return the source of each version: model/number -> source."""
    return {
        f"{found.name}/{found.version}": found.source
        for found in client.search_model_versions()
    }


def held(client: MlflowClient, uri: str, key: str, into: Path) -> str:
    """Return the text that the files of a version hold."""
    name, _, number = key.rpartition("/")
    place = client.get_model_version_download_uri(name, number)
    mlflow.set_tracking_uri(uri)
    into.mkdir(parents=True, exist_ok=True)
    folder = download_artifacts(place, dst_path=str(into), tracking_uri=uri)
    return (Path(folder) / "told.txt").read_text()


def held_by_all(uri: str, into: Path) -> dict[str, str]:
    client = MlflowClient(uri, uri)
    return {
        key: held(client, uri, key, into / str(at))
        for at, key in enumerate(sources(client))
    }


def copied(stores: Sequence[Made], sink: str) -> mlmigrate.Report:
    """Copy stores, verify it, and copy once more, which changes nothing."""
    locations = [store.uri for store in stores]
    report = mlmigrate.copy(locations, sink)
    checked = api.verify(locations, sink)
    models = [each for each in checked.different if each.ref.kind == "registered_model"]
    again = mlmigrate.copy(locations, sink)

    assert ([], []) == (models, checked.missing)
    assert ({}, {}) == (dict(again.copied), dict(again.updated))
    return report


@pytest.mark.parametrize("kind", ["mlruns", "sqlite"])
def test_two_stores_become_one_database(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each leads to its own files at the sink, and names the version that it was copied
    from by the number that this has there.
    """
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    one, other = made(tmp_path / "A", kind), made(tmp_path / "B", kind)
    sink = servers.fresh_database(tmp_path / "sink.db")
    report = copied([one, other], sink)
    one.vanish()
    other.vanish()
    named = sources(MlflowClient(sink, sink))

    assert ([], {}) == (report.losses, report.problems)
    assert named["a prod A/1"] == named["z (prod);ä A/1"] == "models:/staging/1"
    assert named["a prod B/1"] == named["z (prod);ä B/1"] == "models:/staging/2"
    assert named["again B/1"] == "models:/z (prod);ä B/1"
    assert held_by_all(sink, tmp_path / "read") == {
        **dict.fromkeys(_keys("A", 1), "net of A"),
        **dict.fromkeys(_keys("B", 2), "net of B"),
    }


def test_two_stores_become_one_server(server: str, tmp_path: Path) -> None:
    """A version is written after the one that it names, and by its number there."""
    one, other = made(tmp_path / "A"), made(tmp_path / "B")
    report = copied([one, other], server)
    client = MlflowClient(server, server)
    named = sources(client)
    back = servers.fresh_database(tmp_path / "back.db")
    returned = mlmigrate.copy([server], back)

    assert ({}, []) == (report.problems, report.failed)
    assert [each for each in report.losses if not each.carried] == []
    assert named["a prod A/1"] == named["z (prod);ä A/1"] == "models:/staging/1"
    assert named["a prod B/1"] == named["z (prod);ä B/1"] == "models:/staging/2"
    assert client.get_model_version_by_alias("a prod B", "champion").version == "1"
    wanted = {
        **dict.fromkeys(_keys("A", 1), "net of A"),
        **dict.fromkeys(_keys("B", 2), "net of B"),
    }
    assert held_by_all(server, tmp_path / "read") == wanted
    assert ({}, []) == (returned.problems, returned.failed)
    assert held_by_all(back, tmp_path / "read back") == wanted
    assert named == sources(MlflowClient(back, back)) | {
        key: source for key, source in named.items() if source.startswith("models:/m-")
    }


def test_models_that_name_each_other(server: str, tmp_path: Path) -> None:
    """What was promoted comes back as a version of the model that it came from, and a
    number that is taken puts a version behind those that name it.
    """
    one, other = Made(tmp_path / "A"), Made(tmp_path / "B")
    one.register("staging", "first of A")
    other.register("staging", "first of B")
    other.promote("staging/1", "prod 100%20")
    other.promote("prod 100%20/1", "staging")
    other.promote("staging/2", "staging")
    other.client.set_registered_model_alias("staging", "live", 3)
    sink = servers.fresh_database(tmp_path / "sink.db")
    wanted = ["first of A", *["first of B"] * 4]
    for location in (sink, server):
        report = copied([one, other], location)
        client = MlflowClient(location, location)
        live = client.get_model_version_by_alias("staging", "live")
        again = client.get_model_version(*live.source[8:].split("/"))
        promoted = client.get_model_version(*again.source[8:].split("/"))
        first = client.get_model_version(*promoted.source[8:].split("/"))
        where = tmp_path / f"read {location[:4]}"

        assert ({}, []) == (report.problems, report.failed)
        assert (promoted.name, first.name) == ("prod 100%20", "staging")
        assert first.source.startswith("models:/m-")
        assert held(client, location, f"staging/{first.version}", where) == "first of B"
        assert sorted(held_by_all(location, where).values()) == wanted


def test_a_version_that_was_deleted(server: str, tmp_path: Path) -> None:
    """What was copied from it has its files still. A server takes no source that names
    what is not there, and that is told.
    """
    one, other = Made(tmp_path / "A"), Made(tmp_path / "B")
    one.register("staging", "of A")
    other.register("staging", "of B")
    other.promote("staging/1", "prod")
    other.client.delete_model_version("staging", "1")
    sink = servers.fresh_database(tmp_path / "sink.db")
    report = copied([one, other], sink)
    there = copied([one, other], server)
    other.vanish()
    client = MlflowClient(sink, sink)

    assert [] == report.losses
    assert sources(client)["prod/1"] == "models:/staging/1"
    assert any("models:/staging/1" in what for what, _, _ in report.notes.rows())
    assert held(client, sink, "prod/1", tmp_path / "read") == "of B"
    lost = [each.what for each in there.losses if not each.carried]
    assert len(lost) == 1
    assert "models:/staging/1" in lost[0]
    client = MlflowClient(server, server)
    assert sources(client)["prod/1"].startswith("models:/m-")
    assert held(client, server, "prod/1", tmp_path / "read there") == "of B"


def test_a_model_that_was_made_anew(server: str, tmp_path: Path) -> None:
    """Two versions name each other, as the first was deleted with its model: both have
    the files that they had.
    """
    store = Made(tmp_path / "A")
    store.register("staging", "old")
    store.promote("staging/1", "prod")
    store.client.delete_registered_model("staging")
    store.promote("prod/1", "staging")
    sink = servers.fresh_database(tmp_path / "sink.db")
    copied([store], sink)
    copied([store], server)
    store.vanish()

    for location in (sink, server):
        client = MlflowClient(location, location)
        where = tmp_path / f"read {location[:4]}"
        assert sources(client)["staging/1"] == "models:/prod/1"
        assert set(held_by_all(location, where).values()) == {"old"}


def test_a_source_that_names_itself(tmp_path: Path) -> None:
    store = Made(tmp_path / "A")
    store.register("staging", "odd")
    _execute(store, "UPDATE model_versions SET source = 'models:/staging/1'")
    sink = servers.fresh_database(tmp_path / "sink.db")
    copied([store], sink)

    assert sources(MlflowClient(sink, sink)) == {"staging/1": "models:/staging/1"}


def test_a_filter_leaves_out_what_is_named(tmp_path: Path) -> None:
    """What is lost is told; what an earlier copy brought is found there."""
    store = Made(tmp_path / "A")
    store.register("staging", "named")
    store.client.create_registered_model("prod")
    elsewhere = store.client.create_experiment("elsewhere")
    run = store.client.create_run(elsewhere).info.run_id
    store.client.create_model_version("prod", "models:/staging/1", run_id=run)
    lacking, grown = (servers.fresh_database(tmp_path / f"{n}.db") for n in (1, 2))
    other = Made(tmp_path / "B")
    other.register("staging", "of another store")
    narrow = Options(Filters(experiments=("elsewhere",)))
    for location, brought in ((lacking, []), (grown, [other.uri, store.uri])):
        for first in brought:
            only = Filters(experiments=(f"of {Path(first).parent.name}",))
            mlmigrate.copy([first], location, Options(only))
    without = mlmigrate.copy([store.uri], lacking, narrow)
    there = mlmigrate.copy([store.uri], grown, narrow)

    assert ["version 1: its source, models:/staging/1, is not there"] == [
        each.what for each in without.losses
    ]
    assert sources(MlflowClient(lacking, lacking)) == {"prod/1": "models:/staging/1"}
    assert [] == there.losses
    assert sources(MlflowClient(grown, grown))["prod/1"] == "models:/staging/2"


def test_through_an_archive(tmp_path: Path) -> None:
    """An archive keeps what a source says, and where its files are."""
    one, other = made(tmp_path / "A"), made(tmp_path / "B")
    archive, sink = str(tmp_path / "kept"), servers.fresh_database(tmp_path / "to.db")
    first = mlmigrate.copy([one.uri, other.uri], f"archive:{archive}")
    one.vanish()
    other.vanish()
    second = mlmigrate.copy([f"archive:{archive}"], sink)
    named = sources(MlflowClient(sink, sink))

    assert ([], {}) == (first.losses, first.problems)
    assert ([], {}) == (second.losses, second.problems)
    assert named["a prod A/1"] == "models:/staging/1"
    assert named["a prod B/1"] == "models:/staging/2"
    assert held_by_all(sink, tmp_path / "read")["again B/1"] == "net of B"


def _keys(word: str, number: int) -> list[str]:
    promoted = (f"a prod {word}", f"z (prod);ä {word}", f"again {word}")
    return [f"staging/{number}", *(f"{name}/1" for name in promoted)]


def _execute(store: Made, statement: str, *values: Any) -> None:
    path = store.uri.removeprefix("sqlite:///")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(statement, values)
