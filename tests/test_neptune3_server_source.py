"""Projects at a Neptune server of 3.x, read: what others logged arrives."""

from __future__ import annotations

import json
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
    Preview,
    add_run,
    drop,
    files,
    floats,
    histograms,
    refuse,
    strings,
    truncate,
)
from support.neptunes import Neptune3
from support.reading import header, held_at, points, problems, tags

from mlmigrate.contract import Selection
from mlmigrate.errors import StoreError
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Item, Note
from mlmigrate.stores.neptune_server.v3 import fetching

pytest.importorskip("neptune_scale")

T = 1_700_000_000_000
#: What a reader may ask for, beside GETs.
QUESTIONS = {
    "search_leaderboard_entries_proto",
    "query_attributes_within_project_proto",
    "get_multiple_float_series_values_proto",
    "get_series_values_proto",
    "signed_url_generic",
}


def lines(item: Item, path: str) -> list[dict[str, Any]]:
    with (
        closing(resolve("neptune3://team/proj").source()) as store,
        store.open(item.ref, path) as data,
    ):
        return [json.loads(line) for line in data.read().splitlines()]


class TestRuns:
    def test_all_types(
        self,
        neptune3: Neptune3,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Each type of attribute arrives in its place, and goes on to a database."""
        when = datetime(2024, 5, 6, 7, 8, 9, 123000, UTC)
        monkeypatch.setattr(fetching, "_POINTS", 9000)
        neptune3.server.page_size = 3
        bars = [
            Histogram((0.0, 0.5, 2.0), (3.0, 4.0)),
            Histogram((0.0, 1.0), (1.0,), "DENSITY"),
        ]
        add_run(
            neptune3.server,
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
        ((id, item),) = held_at(neptune3.sink).items()

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
        assert loss == points(item)["m/loss"]
        assert ["nan", "inf"] == [str(v) for *_, v in points(item)["m/odd"]]
        assert [n / 7 for n in range(10_000)] == [v for *_, v in points(item)["m/long"]]
        sizes = {each.path: each.size for each in item.artifacts}
        with closing(resolve(neptune3.sink).source()) as store:
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
        assert [] == copies.copied(neptune3.sink, database).of(Failed)
        assert [] == copies.differences(neptune3.sink, database)

    def test_forks(self, neptune3: Neptune3) -> None:
        """A fork has its parent's points, up to where it was forked."""
        for name, fork, first in (
            ("root", None, 0), ("child", ("root", 2), 3), ("grand", ("child", 3), 4),
        ):  # fmt: skip
            values = [10 * first + n for n in range(4)]
            steps = [first + n for n in range(4)]
            about = {"m": floats(values, steps)}
            if name == "root":
                about |= {"only": floats([1.0]), "text": strings(["t"])}
            add_run(neptune3.server, "team/proj", name, about, fork=fork)
        found = held_at(neptune3.sink)
        grand = found["neptune:team/proj/grand"]

        before = [(0, 0), (1, 1), (2, 2), (3, 30)]
        assert [*before, (4, 40), (5, 41), (6, 42), (7, 43)] == [
            (step, value) for step, _, value in points(grand)["m"]
        ]
        assert [1.0] == [v for *_, v in points(grand)["only"]]
        assert ["t"] == [line["value"] for line in lines(grand, "text.jsonl")]
        assert "child" == tags(grand)["neptune.forking/parent"]
        assert "3.0" == tags(grand)["neptune.forking/step"]

    def test_previews_are_told(self, neptune3: Neptune3) -> None:
        run = add_run(neptune3.server, "team/proj", "a", {"m": floats([1.0])})
        run.previews["m"] = [Preview(5.0, 0.5, T, 0.3)]
        (item,) = held_at(neptune3.sink).values()

        assert [1.0] == [value for *_, value in points(item)["m"]]
        notes = [each.what for each in item.findings if isinstance(each, Note)]
        assert ["m: 1 previews of points are left out"] == notes

    def test_a_file_that_was_never_stored(self, neptune3: Neptune3) -> None:
        """The attribute alone does not tell."""
        run = add_run(neptune3.server, "team/proj", "a", {"f": File(b"12345")})
        run.put("g", FileRef("nowhere", 7, "text/plain"))
        stored = neptune3.project().files
        (only,) = stored.values()
        (item,) = held_at(neptune3.sink).values()
        assert ["f"] == [p.path for p in item.artifacts if len(p.path) == 1]
        assert ["g: Neptune stores nothing of its file: left out"] == problems(item)
        only.data = b"123"
        (item,) = held_at(neptune3.sink).values()
        assert "f: Neptune stores 3 of 5 bytes of its file" in problems(item)[0]

    def test_a_type_that_is_not_known(self, neptune3: Neptune3) -> None:
        run = add_run(neptune3.server, "team/proj", "a", {"x": 1})
        run.put("new", Atom("tensor", 1))
        (item,) = held_at(neptune3.sink).values()
        assert "new is of type tensor" in problems(item)[0]

    def test_only_questions_are_asked(self, neptune3: Neptune3) -> None:
        about = {"a": 1, "m": floats([1]), "f": File(b"x"), "s": strings(["t"])}
        add_run(neptune3.server, "team/proj", "a", about)
        assert set() == neptune3.asked_to_read_all() - QUESTIONS
        signed = neptune3.server.asked("signed_url_generic")
        permissions = {
            file["permission"] for r in signed for file in r.variables["body"]["files"]
        }
        assert {"read"} == permissions

    def test_a_run_of_that_name(self, neptune3: Neptune3) -> None:
        """Somebody's own run may be called as that which tells of experiments."""
        add_run(neptune3.server, "team/proj", "mlmigrate", {"a": 1})
        assert ["neptune:team/proj/mlmigrate"] == list(held_at(neptune3.sink))

    def test_a_download_that_breaks_off(self, neptune3: Neptune3) -> None:
        add_run(neptune3.server, "team/proj", "a", {"f": File(b"x" * 9999)})
        with closing(resolve(neptune3.sink).source()) as store:
            (ref,) = store.refs(Selection("run"))
            list(store.read([ref]))
            neptune3.server.plant("download", truncate(), times=1)
            assert b"x" * 9999 == store.open(ref, "f").read()

    def test_a_server_that_answers_late(self, neptune3: Neptune3) -> None:
        add_run(neptune3.server, "team/proj", "a", {"n": 1})
        neptune3.server.plant("get_client_config", refuse(503), times=2)
        neptune3.server.plant("exchange_api_token", drop(), times=1)
        assert 1 == len(held_at(neptune3.sink))

    def test_many_runs(self, neptune3: Neptune3) -> None:
        for number in range(1100):
            add_run(neptune3.server, "team/proj", f"r{number}", {"n": number})
        with closing(resolve(neptune3.sink).source()) as store:
            refs = list(store.refs(Selection("run")))
        assert {f"neptune:team/proj/r{n}" for n in range(1100)} == {r.id for r in refs}
        assert 1100 == len(refs)


class TestRefusals:
    def test_a_server_that_is_not_there(self, neptune3: Neptune3) -> None:
        neptune3.server.stop()
        with pytest.raises(StoreError, match="NEPTUNE_API_TOKEN leads to"):
            resolve(neptune3.sink).source()
