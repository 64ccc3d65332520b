"""Projects at a Neptune server of 3.x, read: what others logged arrives."""

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
from support.neptune3_server import (
    Atom,
    File,
    FileRef,
    Histogram,
    Neptune3Server,
    Preview,
    add_run,
    client_environment,
    drop,
    files,
    floats,
    histograms,
    refuse,
    strings,
    truncate,
)

import mlmigrate
from mlmigrate.contract import Selection
from mlmigrate.errors import LocationError, StoreError, StoreNotFound
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Item, Note, Problem, Ref, Run
from mlmigrate.stores.neptune_server import access
from mlmigrate.stores.neptune_server.v3 import fetching
from mlmigrate.testing import suite
from mlmigrate.testing.suite import RUN, MemorySources

pytest.importorskip("neptune_scale")

HERE = "neptune3://team/proj"
T = 1_700_000_000_000
#: What a reader may ask for, beside GETs.
QUESTIONS = {
    "search_leaderboard_entries_proto",
    "query_attributes_within_project_proto",
    "get_multiple_float_series_values_proto",
    "get_series_values_proto",
    "signed_url_generic",
}


def items(kind: Any = "run", location: str = HERE) -> dict[str, Item]:
    with closing(resolve(location).source()) as store:
        found = list(store.read(list(store.refs(Selection(kind)))))
    assert all(isinstance(each, Item) for each in found), found
    return {each.ref.id: each for each in found if isinstance(each, Item)}


def header(item: Item) -> Run:
    assert isinstance(item.header, Run)
    return item.header


def tags(item: Item) -> dict[str, str]:
    return {tag.key: tag.value for tag in item.tags}


def points(item: Item, key: str) -> list[tuple[int, int, float]]:
    (one,) = [metric for metric in item.metrics if metric.key == key]
    columns = (one.steps, one.timestamps, one.values)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def lines(item: Item, path: str) -> list[dict[str, Any]]:
    with closing(resolve(HERE).source()) as store, store.open(item.ref, path) as data:
        return [json.loads(line) for line in data.read().splitlines()]


def problems(item: Item) -> list[str]:
    return [each.what for each in item.findings if isinstance(each, Problem)]


class TestRuns:
    def test_all_types(
        self,
        neptune3_loopback: Neptune3Server,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Each type of attribute arrives in its place, and goes on to a database."""
        when = datetime(2024, 5, 6, 7, 8, 9, 123000, UTC)
        monkeypatch.setattr(fetching, "_POINTS", 9000)
        neptune3_loopback.page_size = 3
        bars = [
            Histogram((0.0, 0.5, 2.0), (3.0, 4.0)),
            Histogram((0.0, 1.0), (1.0,), "DENSITY"),
        ]
        add_run(
            neptune3_loopback,
            "team/proj",
            "first",
            {
                "sys/tags": {"b", "a"},
                "sys/failed": True,
                "p/int": 2**62,
                "p/float": 1 / 3,
                "p/text": "line\nbreak ü",
                "p/flag": True,
                "p/when": when,
                "p/set": {"x", "ü"},
                "m/loss": floats([0.5, 1e300, 0.0], [0, 1, 7], [T, T + 1, T + 2]),
                "m/odd": floats([float("nan"), float("inf")], [0, 1], [T, T]),
                "m/long": floats([n / 7 for n in range(10_000)]),
                "logs": strings(["one", "two"] * 4, [0, 1.5, 2, 3, 4, 5, 6, 7]),
                "logs.jsonl": File(b"mine"),
                "bars": histograms(bars, [1, 2], [T, T + 1]),
                "pictures": files([File(b"1", "image/png"), File(b"2")], [0, 2.5]),
                "model": File(bytes(range(256))),
                "empty": File(b""),
            },
            created=when,
        )
        ((id, item),) = items().items()

        assert "neptune:team/proj/first" == item.origin == id
        assert ("FAILED", 1714979289123) == (
            header(item).status, header(item).start_time,
        )  # fmt: skip
        assert {
            "p/int": str(2**62),
            "p/float": "0.3333333333333333",
            "p/text": "line\nbreak ü",
            "p/flag": "True",
            "p/when": "2024-05-06T07:08:09.123Z",
            "p/set": '["x", "ü"]',
        } == {param.key: param.value for param in item.params}
        assert '["a", "b"]' == tags(item)["neptune.tags"]
        loss = [(0, T, 0.5), (1, T + 1, 1e300), (7, T + 2, 0.0)]
        assert loss == points(item, "m/loss")
        assert ["nan", "inf"] == [str(v) for *_, v in points(item, "m/odd")]
        assert [n / 7 for n in range(10_000)] == [v for *_, v in points(item, "m/long")]
        sizes = {each.path: each.size for each in item.artifacts}
        with closing(resolve(HERE).source()) as store:
            found = {path: store.open(item.ref, path).read() for path in sizes}
        assert sizes == {path: len(data) for path, data in found.items()}
        assert (bytes(range(256)), b"", b"mine") == (
            found["model"], found["empty"], found["logs.jsonl"],
        )  # fmt: skip
        assert (b"1", b"2") == (found["pictures/0.png"], found["pictures/2.5.bin"])
        (texts,) = [p for p in found if p.startswith("logs") and p != "logs.jsonl"]
        said = [(line["step"], line["value"]) for line in lines(item, texts)]
        assert ([(0, "one"), (1.5, "two"), (2, "one")], 8) == (said[:3], len(said))
        assert [
            {"type": "COUNTING", "edges": [0.0, 0.5, 2.0], "values": [3.0, 4.0]},
            {"type": "DENSITY", "edges": [0.0, 1.0], "values": [1.0]},
        ] == [line["value"] for line in lines(item, "bars.jsonl")]
        assert [] == problems(item)
        database = servers.fresh_database(tmp_path / "sink.db")
        assert [] == copies.copied(HERE, database).of(Failed)
        assert [] == copies.differences(HERE, database)

    def test_forks(self, neptune3_loopback: Neptune3Server) -> None:
        """A fork has its parent's points, up to where it was forked."""
        for name, fork, first in (
            ("root", None, 0), ("child", ("root", 2), 3), ("grand", ("child", 3), 4),
        ):  # fmt: skip
            values = [10 * first + n for n in range(4)]
            steps = [first + n for n in range(4)]
            about = {"m": floats(values, steps)}
            if name == "root":
                about |= {"only": floats([1.0]), "text": strings(["t"])}
            add_run(neptune3_loopback, "team/proj", name, about, fork=fork)
        found = items()
        grand = found["neptune:team/proj/grand"]

        before = [(0, 0), (1, 1), (2, 2), (3, 30)]
        assert [*before, (4, 40), (5, 41), (6, 42), (7, 43)] == [
            (step, value) for step, _, value in points(grand, "m")
        ]
        assert [1.0] == [v for *_, v in points(grand, "only")]
        assert ["t"] == [line["value"] for line in lines(grand, "text.jsonl")]
        assert "child" == tags(grand)["neptune.forking/parent"]
        assert "3.0" == tags(grand)["neptune.forking/step"]

    def test_previews_are_told(self, neptune3_loopback: Neptune3Server) -> None:
        run = add_run(neptune3_loopback, "team/proj", "a", {"m": floats([1.0])})
        run.previews["m"] = [Preview(5.0, 0.5, T, 0.3)]
        (item,) = items().values()

        assert [1.0] == [value for *_, value in points(item, "m")]
        notes = [each.what for each in item.findings if isinstance(each, Note)]
        assert ["m: 1 previews of points are left out"] == notes

    def test_a_file_that_was_never_stored(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        """The attribute alone does not tell."""
        run = add_run(neptune3_loopback, "team/proj", "a", {"f": File(b"12345")})
        run.put("g", FileRef("nowhere", 7, "text/plain"))
        stored = neptune3_loopback.projects["team/proj"].files
        (only,) = stored.values()
        (item,) = items().values()
        assert ["f"] == [p.path for p in item.artifacts if len(p.path) == 1]
        assert ["g: Neptune stores nothing of its file: left out"] == problems(item)
        only.data = b"123"
        (item,) = items().values()
        assert "f: Neptune stores 3 of 5 bytes of its file" in problems(item)[0]

    def test_a_type_that_is_not_known(self, neptune3_loopback: Neptune3Server) -> None:
        run = add_run(neptune3_loopback, "team/proj", "a", {"x": 1})
        run.put("new", Atom("tensor", 1))
        (item,) = items().values()
        assert "new is of type tensor" in problems(item)[0]

    def test_only_questions_are_asked(self, neptune3_loopback: Neptune3Server) -> None:
        about = {"a": 1, "m": floats([1]), "f": File(b"x"), "s": strings(["t"])}
        add_run(neptune3_loopback, "team/proj", "a", about)
        with closing(resolve(HERE).source()) as store:
            for kind in ("experiment", "run", "registered_model"):
                for item in store.read(list(store.refs(Selection(kind)))):  # type: ignore[arg-type]
                    assert isinstance(item, Item)
                    for artifact in item.artifacts:
                        store.open(item.ref, artifact.path).close()
            list(store.findings())
        asked = [
            (request.method, request.operation)
            for request in neptune3_loopback.requests
            if request.method != "GET"
            and request.operation not in QUESTIONS
            and not request.path.endswith("/token")
        ]
        assert [] == asked
        signed = neptune3_loopback.asked("signed_url_generic")
        permissions = {
            file["permission"] for r in signed for file in r.variables["body"]["files"]
        }
        assert {"read"} == permissions

    def test_trash_and_projects(self, neptune3_loopback: Neptune3Server) -> None:
        add_run(neptune3_loopback, "team/proj", "x", {"a": 1}, archived=True)
        add_run(neptune3_loopback, "team/other", "x", {"a": 2})
        (here,) = items().values()
        (other,) = items(location="neptune3://team/other").values()
        assert ("deleted", "active") == (
            header(here).lifecycle, header(other).lifecycle,
        )  # fmt: skip
        assert here.origin != other.origin

    def test_a_run_of_that_name(self, neptune3_loopback: Neptune3Server) -> None:
        """Somebody's own run may be called as that which tells of experiments."""
        add_run(neptune3_loopback, "team/proj", "mlmigrate", {"a": 1})
        assert ["neptune:team/proj/mlmigrate"] == list(items())

    def test_a_download_that_breaks_off(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        add_run(neptune3_loopback, "team/proj", "a", {"f": File(b"x" * 9999)})
        with closing(resolve(HERE).source()) as store:
            (ref,) = store.refs(Selection("run"))
            list(store.read([ref]))
            neptune3_loopback.plant("download", truncate(), times=1)
            assert b"x" * 9999 == store.open(ref, "f").read()

    def test_a_server_that_answers_late(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        add_run(neptune3_loopback, "team/proj", "a", {"n": 1})
        neptune3_loopback.plant("get_client_config", refuse(503), times=2)
        neptune3_loopback.plant("exchange_api_token", drop(), times=1)
        assert 1 == len(items())

    def test_many_runs(self, neptune3_loopback: Neptune3Server) -> None:
        for number in range(1100):
            add_run(neptune3_loopback, "team/proj", f"r{number}", {"n": number})
        with closing(resolve(HERE).source()) as store:
            refs = list(store.refs(Selection("run")))
        assert {f"neptune:team/proj/r{n}" for n in range(1100)} == {r.id for r in refs}
        assert 1100 == len(refs)


def token(said: Any) -> str:
    return base64.b64encode(json.dumps(said).encode()).decode()


class TestRefusals:
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("", "NEPTUNE_API_TOKEN is not set"),
            ("czNjcjN0", "is no token of Neptune's"),
            ("ANONYMOUS", "ended on 2026-03-05"),
            (
                token({"api_url": "https://app.neptune.ai", "api_key": "s3cr3t"}),
                "neptune-export:FOLDER",
            ),
        ],
    )
    def test_tokens(
        self, monkeypatch: pytest.MonkeyPatch, given: str, said: str
    ) -> None:
        monkeypatch.setenv("NEPTUNE_API_TOKEN", given)
        monkeypatch.setattr("socket.socket.connect", _no_network)
        for opening in (resolve(HERE).source, resolve(HERE).sink):
            with pytest.raises(StoreError) as caught:
                opening()
            assert said in str(caught.value)
            assert "s3cr3t" not in str(caught.value)

    def test_a_token_that_the_server_does_not_know(
        self, neptune3_loopback: Neptune3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = neptune3_loopback.url
        wrong = token({"api_address": url, "api_url": url, "api_key": "s3cr3t"})
        monkeypatch.setenv("NEPTUNE_API_TOKEN", wrong)
        with pytest.raises(StoreError, match="NEPTUNE_API_TOKEN") as caught:
            resolve(HERE).source()
        assert "rejected" in str(caught.value)
        assert "s3cr3t" not in str(caught.value)
        assert wrong not in str(caught.value)

    def test_a_server_that_is_not_there(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        neptune3_loopback.stop()
        with pytest.raises(StoreError, match="NEPTUNE_API_TOKEN leads to"):
            resolve(HERE).source()

    def test_a_project_that_is_not_there(
        self, neptune3_loopback: Neptune3Server
    ) -> None:
        neptune3_loopback.missing.add("team/proj")
        with pytest.raises(StoreNotFound, match="no such project"):
            resolve(HERE).source()

    @pytest.mark.parametrize(
        "location", ["neptune3://", "neptune3://team", "neptune3://a/b/c"]
    )
    def test_locations(self, location: str) -> None:
        with pytest.raises(LocationError, match="neptune3://WORKSPACE/PROJECT"):
            access.place_of(location)

    def test_no_client(
        self, neptune3_loopback: Neptune3Server, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            access,
            "find_spec",
            lambda name: None if name == "neptune_scale" else found(name),
        )
        with pytest.raises(StoreError, match=r"pip install 'mlmigrate\[neptune3\]'"):
            resolve(HERE).source()

    def test_an_id_that_is_taken(
        self, sources: MemorySources, neptune3_loopback: Neptune3Server
    ) -> None:
        """Another's run is never written to; a salt gives the copy another id."""
        add_run(neptune3_loopback, "team/proj", RUN, {"theirs": 1})
        origin = sources(suite.experiment(), suite.run())
        (failed,) = copies.copied(origin, HERE).of(Failed)
        assert "is no copy of" in failed.why
        assert "-o id-salt" in failed.why
        held = neptune3_loopback.projects["team/proj"].runs[RUN]
        assert ["theirs"] == list(held.attributes)
        assert [] == copies.copied(origin, HERE, ["id-salt=2"]).of(Failed)


def _no_network(*args: Any) -> None:
    raise AssertionError("nothing may leave")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "mlmigrate", *arguments]


def environment(server: Neptune3Server) -> Mapping[str, str]:
    return {**os.environ, **client_environment(server)}


class TestProcesses:
    def test_json_is_alone_on_stdout(
        self, neptune3_loopback: Neptune3Server, tmp_path: Path
    ) -> None:
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
                env=environment(neptune3_loopback),
                check=False,
            )
            assert 0 == done.returncode, done.stderr
            assert isinstance(json.loads(done.stdout), dict)
            assert neptune3_loopback.api_key not in done.stdout + done.stderr
            assert neptune3_loopback.api_token not in done.stdout + done.stderr

    def test_killed_again_and_again(
        self, neptune3_loopback: Neptune3Server, tmp_path: Path
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
                env=environment(neptune3_loopback),
            )
            begin = neptune3_loopback.count("submit")
            while process.poll() is None:
                if neptune3_loopback.count("submit") - begin >= writes:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.002)
            process.wait()
        assert [] == copies.copied(f"archive:{archive}", HERE).of(Failed)
        assert [] == copies.differences(f"archive:{archive}", HERE)
        found = neptune3_loopback.projects["team/proj"]
        assert 5 == len(found.runs)  # and that which tells of the experiment
        for run in runs:
            held = found.runs[run.ref.id]
            assert list(range(3000)) == [p.step for p in held.points("metrics/m")]
        again = copies.copied(f"archive:{archive}", HERE)
        assert {"skipped"} == set(again.counts())
        assert {Ref("run", run.ref.id) for run in runs} == {
            item.ref for item in items().values()
        }
