"""Projects at a Neptune server, read: what others logged arrives, value by value."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from support import copies, servers
from support.neptune_server import (
    File,
    FileSet,
    Image,
    NeptuneServer,
    add_artifact,
    add_model,
    add_model_version,
    add_run,
    client_environment,
    floats,
    images,
    strings,
    truncate,
)

import mlmigrate
from mlmigrate.contract import Selection
from mlmigrate.errors import LocationError, StoreError, StoreNotFound
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Item, Problem, Ref, RegisteredModel, Run
from mlmigrate.stores.neptune_server import access
from mlmigrate.testing import suite
from mlmigrate.testing.suite import RUN, MemorySources

HERE = "neptune://team/proj"
T = 1_700_000_000_000
#: What a reader may ask for, beside GETs.
SEARCHES = {"searchLeaderboardEntries", "searchLeaderboardAttributes"}


def items(kind: Any = "run", location: str = HERE) -> dict[str, Item]:
    with closing(resolve(location).source()) as store:
        found = list(store.read(list(store.refs(Selection(kind)))))
    assert all(isinstance(each, Item) for each in found), found
    return {each.ref.id: each for each in found if isinstance(each, Item)}


def params(item: Item) -> dict[str, str]:
    return {param.key: param.value for param in item.params}


def tags(item: Item) -> dict[str, str]:
    return {tag.key: tag.value for tag in item.tags}


def header(item: Item) -> Run:
    assert isinstance(item.header, Run)
    return item.header


def points(item: Item, key: str) -> list[tuple[int, int, float]]:
    (one,) = [metric for metric in item.metrics if metric.key == key]
    columns = (one.steps, one.timestamps, one.values)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def problems(item: Item) -> list[str]:
    return [each.what for each in item.findings if isinstance(each, Problem)]


class TestRuns:
    def test_all_types(
        self,
        neptune_loopback: NeptuneServer,
        tmp_path: Path,
    ) -> None:
        """Each type of attribute arrives in its place, and goes on to a database."""
        when = datetime(2024, 5, 6, 7, 8, 9, 123000, UTC)
        tracked = add_artifact(
            neptune_loopback,
            "team/proj",
            [{"filePath": "d/a.csv", "fileHash": "0" * 40, "size": 4}],
        )
        add_run(
            neptune_loopback,
            "team/proj",
            {
                "sys/name": "all",
                "sys/tags": {"b", "a"},
                "sys/failed": True,
                "p/int": 12,
                "p/float": 1 / 3,
                "p/text": "line\nbreak ü",
                "p/flag": True,
                "p/when": when,
                "p/set": {"x", "ü"},
                "m/loss": floats([0.5, 1e300, 0.0], [0, 1, 7], [T, T + 1, T + 2]),
                "m/long": floats([n / 7 for n in range(10_000)]),
                "logs": strings(["one", "two"], [0, 1.5], [T, T + 1]),
                "logs.jsonl": File(b"mine", "jsonl"),
                "pictures": images([Image(b"\x89PNG1"), Image(b"\x89PNG2")]),
                "model": File(bytes(range(256)), "bin"),
                "code": FileSet({"main.py": b"print()"}),
                "data": tracked,
            },
        )
        ((id, item),) = items().items()

        assert "neptune:team/proj/PROJ-1" == item.origin == id
        assert ("all", "FAILED") == (header(item).name, header(item).status)
        assert {
            "p/int": "12",
            "p/float": "0.3333333333333333",
            "p/text": "line\nbreak ü",
            "p/flag": "True",
            "p/when": "2024-05-06T07:08:09.123Z",
            "p/set": '["x", "ü"]',
        } == params(item)
        assert '["a", "b"]' == tags(item)["neptune.tags"]
        loss = [(0, T, 0.5), (1, T + 1, 1e300), (7, T + 2, 0.0)]
        assert loss == [(s // 1, t, v) for s, t, v in points(item, "m/loss")]
        assert [n / 7 for n in range(10_000)] == [v for *_, v in points(item, "m/long")]
        sizes = {each.path: each.size for each in item.artifacts}
        with closing(resolve(HERE).source()) as store:
            found = {path: store.open(item.ref, path).read() for path in sizes}
        assert sizes == {path: len(data) for path, data in found.items()}
        assert bytes(range(256)) == found["model"]
        assert b"mine" == found["logs.jsonl"]
        (lines,) = [p for p in found if p.startswith("logs") and p != "logs.jsonl"]
        said = [json.loads(line) for line in found[lines].splitlines()]
        assert [(0, T, "one"), (1.5, T + 1, "two")] == [
            (line["step"], line["timestamp"], line["value"]) for line in said
        ]
        assert b"\x89PNG2" in found.values()
        assert b"d/a.csv" in found["data/files_list.json"]
        assert b"print()" == found["code/main.py"]
        assert [] == problems(item)
        database = servers.fresh_database(tmp_path / "sink.db")
        assert [] == copies.copied(HERE, database).of(Failed)
        assert [] == copies.differences(HERE, database)

    def test_steps(self, neptune_loopback: NeptuneServer) -> None:
        """Fractions are multiplied, large steps are exact, and what is too large for a
        metric is told and kept.
        """
        add_run(neptune_loopback, "team/proj", {"m": floats([1, 2, 3], [0, 0.25, 2])})
        exact = [1_700_000_000_123, 1_700_000_000_124]
        add_run(neptune_loopback, "team/proj", {"m": floats([1, 2], exact)})
        beyond = [1_700_000_000_123_456, 1_700_000_000_123_457]
        add_run(
            neptune_loopback,
            "team/proj",
            {"m": floats([1, float("nan")], beyond), "n": floats([5])},
        )
        one, two, three = items().values()

        assert [0, 1, 8] == [step for step, *_ in points(one, "m")]
        assert exact == [step for step, *_ in points(two, "m")]
        assert "m has steps of more than 12 digits" in problems(three)[0]
        assert ["n"] == [each.key for each in three.metrics]
        with closing(resolve(HERE).source()) as store:
            lines = store.open(three.ref, "m.jsonl").read().splitlines()
        assert beyond == [json.loads(line)["step"] for line in lines]

    def test_only_questions_are_asked(self, neptune_loopback: NeptuneServer) -> None:
        neptune_loopback.project("team/proj")
        add_run(
            neptune_loopback,
            "team/proj",
            {"a": 1, "m": floats([1]), "f": File(b"x"), "s": strings(["t"])},
        )
        model = add_model(neptune_loopback, "team/proj", "NET", {"about": "it"})
        add_model_version(neptune_loopback, model, {"acc": 0.5})
        with closing(resolve(HERE).source()) as store:
            for kind in ("experiment", "run", "registered_model"):
                for item in store.read(list(store.refs(Selection(kind)))):  # type: ignore[arg-type]
                    assert isinstance(item, Item)
                    for artifact in item.artifacts:
                        store.open(item.ref, artifact.path).close()
            list(store.findings())
        asked = [
            (request.method, request.operation)
            for request in neptune_loopback.requests
            if request.method != "GET"
            and request.operation not in SEARCHES
            and not request.path.endswith("/token")
        ]
        assert [] == asked

    def test_models_and_versions(
        self, neptune_loopback: NeptuneServer, tmp_path: Path
    ) -> None:
        model = add_model(neptune_loopback, "team/proj", "NET", {"about": "it"})
        for stage in ("archived", "production"):
            add_model_version(
                neptune_loopback,
                model,
                {"sys/stage": stage, "acc": 0.5, "f": File(b"w", "bin")},
            )
        (found,) = items("registered_model").values()
        assert isinstance(found.header, RegisteredModel)
        assert ["Archived", "Production"] == [v.stage for v in found.versions]
        assert 3 == len(items())
        database = servers.fresh_database(tmp_path / "sink.db")
        assert [] == copies.copied(HERE, database).of(Failed)
        assert [] == copies.differences(HERE, database)

    def test_trash_and_projects(self, neptune_loopback: NeptuneServer) -> None:
        add_run(neptune_loopback, "team/proj", {"a": 1}, custom_id="x", trashed=True)
        add_run(neptune_loopback, "team/other", {"a": 2}, custom_id="x")
        (here,) = items().values()
        (other,) = items(location="neptune://team/other").values()
        assert ("deleted", "active") == (
            header(here).lifecycle, header(other).lifecycle,
        )  # fmt: skip
        assert here.origin != other.origin

    def test_a_download_that_breaks_off(self, neptune_loopback: NeptuneServer) -> None:
        add_run(neptune_loopback, "team/proj", {"f": File(b"x" * 9999, "bin")})
        with closing(resolve(HERE).source()) as store:
            (ref,) = store.refs(Selection("run"))
            neptune_loopback.plant("downloadAttribute", truncate(), times=1)
            try:
                data = store.open(ref, "f").read()
            except (OSError, mlmigrate.MlmigrateError):
                data = store.open(ref, "f").read()
        assert b"x" * 9999 == data

    def test_points_that_somebody_deleted(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        """Whoever reads a copy is told what is no longer there of it."""
        twice = suite.points("m", (0, 1.0), (0, 2.0))
        run = suite.run(metrics=(twice,))
        copies.copied(sources(suite.experiment(), run), HERE)
        assert [] == problems(items()[RUN])
        neptune_loopback.projects["team/proj"].run(RUN).remove("mlmigrate/points")
        (problem,) = problems(items()[RUN])
        assert "points that no series takes" in problem

    def test_many_runs(self, neptune_loopback: NeptuneServer) -> None:
        for number in range(1100):
            add_run(neptune_loopback, "team/proj", {"n": number})
        with closing(resolve(HERE).source()) as store:
            refs = list(store.refs(Selection("run")))
        assert {f"neptune:team/proj/PROJ-{n}" for n in range(1, 1101)} == {
            ref.id for ref in refs
        }
        assert 1100 == len(refs)


def token(said: Any) -> str:
    return base64.b64encode(json.dumps(said).encode()).decode()


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("", "NEPTUNE_API_TOKEN is not set"),
            ("s3cr3t!", "is no token of Neptune's"),
            ("czNjcjN0", "is no token of Neptune's"),
            (token(["s3cr3t"]), "is no token of Neptune's"),
            (token({"api_key": "s3cr3t"}), "is no token of Neptune's"),
            ("ANONYMOUS", "ended on 2026-03-05"),
            (
                token({"api_url": "https://app.neptune.ai", "api_key": "s3cr3t"}),
                "neptune-export:FOLDER",
            ),
            (
                token({"api_address": "https://ui.neptune.ai", "api_key": "s3cr3t"}),
                "neptune-offline:FOLDER",
            ),
        ],
    )
    def test_tokens(
        self, monkeypatch: pytest.MonkeyPatch, given: str, said: str
    ) -> None:
        """It is said what is wrong, nothing of it is shown, and nothing leaves."""
        monkeypatch.setenv("NEPTUNE_API_TOKEN", given)
        monkeypatch.setattr("socket.socket.connect", _no_network)
        for opening in (resolve(HERE).source, resolve(HERE).sink):
            with pytest.raises(StoreError) as caught:
                opening()
            assert said in str(caught.value)
            assert "s3cr3t" not in str(caught.value)
            assert not given or given == "ANONYMOUS" or given not in str(caught.value)

    def test_a_token_that_the_server_does_not_know(
        self, neptune_loopback: NeptuneServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = neptune_loopback.url
        wrong = token({"api_address": url, "api_url": url, "api_key": "s3cr3t"})
        monkeypatch.setenv("NEPTUNE_API_TOKEN", wrong)
        with pytest.raises(StoreError, match="NEPTUNE_API_TOKEN") as caught:
            resolve(HERE).source()
        assert "\x1b" not in str(caught.value)
        assert "token" in str(caught.value).removeprefix("the Neptune server that")
        assert "s3cr3t" not in str(caught.value)
        assert wrong not in str(caught.value)

    def test_a_project_that_is_not_there(self, neptune_loopback: NeptuneServer) -> None:
        neptune_loopback.missing.add("team/proj")
        with pytest.raises(StoreNotFound, match="no such project"):
            resolve(HERE).source()

    @pytest.mark.parametrize(
        "location",
        ["neptune://", "neptune://team", "neptune://a/b/c", "neptune://a b/c",
         "neptune://team/proj\n", "neptune:///proj", "neptune://team/p?x=1"],
    )  # fmt: skip
    def test_locations(self, location: str) -> None:
        with pytest.raises(LocationError, match="WORKSPACE/PROJECT"):
            access.place_of(location)

    def test_no_client(
        self, neptune_loopback: NeptuneServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            access,
            "find_spec",
            lambda name: None if name == "neptune" else found(name),
        )
        with pytest.raises(StoreError, match=r"pip install 'mlmigrate\[neptune\]'"):
            resolve(HERE).source()

    def test_an_id_that_is_taken(
        self, sources: MemorySources, neptune_loopback: NeptuneServer
    ) -> None:
        """Another's run is never written to; a salt gives the copy another id."""
        add_run(neptune_loopback, "team/proj", {"theirs": 1}, custom_id=RUN)
        origin = sources(suite.experiment(), suite.run())
        (failed,) = copies.copied(origin, HERE).of(Failed)
        assert "is no copy of" in failed.why
        assert "-o id-salt" in failed.why
        held = neptune_loopback.projects["team/proj"].run(RUN)
        assert ["theirs"] == [p for p in held.attributes if not p.startswith("sys/")]
        assert [] == copies.copied(origin, HERE, ["id-salt=2"]).of(Failed)


def _no_network(*args: Any) -> None:
    raise AssertionError("nothing may leave")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "mlmigrate", *arguments]


def environment(server: NeptuneServer) -> Mapping[str, str]:
    return {**os.environ, **client_environment(server)}


class TestProcesses:
    def test_json_is_alone_on_stdout(
        self, neptune_loopback: NeptuneServer, tmp_path: Path
    ) -> None:
        """Whatever the client says, also where it is refused."""
        archive = tmp_path / "archive"
        made = MemorySources()
        run = suite.run(metrics=(suite.points("m", (0, 1.0)),))
        mlmigrate.copy([made(suite.experiment(), run)], f"archive:{archive}")
        for arguments in (
            ["copy", f"archive:{archive}", HERE, "--verify", "--json"],
            ["inspect", HERE, "--json"],
        ):
            done = subprocess.run(
                command(*arguments),
                capture_output=True,
                text=True,
                env=environment(neptune_loopback),
                check=False,
            )
            assert 0 == done.returncode, done.stderr
            assert isinstance(json.loads(done.stdout), dict)
            assert neptune_loopback.api_key not in done.stdout + done.stderr
            assert neptune_loopback.api_token not in done.stdout + done.stderr

    def test_killed_again_and_again(
        self, neptune_loopback: NeptuneServer, tmp_path: Path
    ) -> None:
        """However often it was killed, it comes to the same end."""
        archive = tmp_path / "archive"
        made = MemorySources()
        loss = suite.points("m", *((step, step / 7) for step in range(3000)))
        runs = [suite.run(f"{n:032x}", metrics=(loss,)) for n in range(4)]
        origin = made(suite.experiment(), *runs, *suite.everything()[0][-1:])
        mlmigrate.copy([origin], f"archive:{archive}")
        arguments = ["copy", f"archive:{archive}", HERE, "-o", "threads=2"]
        for writes in (1, 4, 10):
            process = subprocess.Popen(
                command(*arguments),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=environment(neptune_loopback),
            )
            begin = neptune_loopback.count("executeOperations")
            while process.poll() is None:
                if neptune_loopback.count("executeOperations") - begin >= writes:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.002)
            process.wait()
        assert [] == copies.copied(f"archive:{archive}", HERE).of(Failed)
        assert [] == copies.differences(f"archive:{archive}", HERE)
        found = neptune_loopback.projects["team/proj"]
        assert 4 == len(found.runs)
        assert 1 == len(found.models)
        for each in found.runs.values():
            assert list(range(3000)) == [p.step for p in each.points("metrics/m")]
        again = copies.copied(f"archive:{archive}", HERE)
        assert {"skipped"} == set(again.counts())
        assert {Ref("run", run.ref.id) for run in runs} == {
            item.ref for item in items().values()
        }
