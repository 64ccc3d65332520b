"""Projects at a Neptune server, read: what others logged arrives, value by value."""

from __future__ import annotations

import json
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from support import copies, servers
from support.neptune_server import (
    File,
    FileSet,
    Image,
    add_artifact,
    add_model,
    add_model_version,
    add_run,
    floats,
    images,
    strings,
    truncate,
)
from support.neptunes import Neptune2
from support.reading import header, held_at, params, points, problems, tags

import mlmigrate
from mlmigrate.contract import Selection
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, RegisteredModel
from mlmigrate.testing import suite
from mlmigrate.testing.suite import RUN, MemorySources

T = 1_700_000_000_000
#: What a reader may ask for, beside GETs.
SEARCHES = {"searchLeaderboardEntries", "searchLeaderboardAttributes"}


class TestRuns:
    def test_all_types(
        self,
        neptune2: Neptune2,
        tmp_path: Path,
    ) -> None:
        """Each type of attribute arrives in its place, and goes on to a database."""
        when = datetime(2024, 5, 6, 7, 8, 9, 123000, UTC)
        tracked = add_artifact(
            neptune2.server,
            "team/proj",
            [{"filePath": "d/a.csv", "fileHash": "0" * 40, "size": 4}],
        )
        add_run(
            neptune2.server,
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
        ((id, item),) = held_at(neptune2.sink).items()

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
        assert loss == [(s // 1, t, v) for s, t, v in points(item)["m/loss"]]
        assert [n / 7 for n in range(10_000)] == [v for *_, v in points(item)["m/long"]]
        sizes = {each.path: each.size for each in item.artifacts}
        with closing(resolve(neptune2.sink).source()) as store:
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
        assert [] == copies.copied(neptune2.sink, database).of(Failed)
        assert [] == copies.differences(neptune2.sink, database)

    def test_steps(self, neptune2: Neptune2) -> None:
        """Fractions are multiplied, large steps are exact, and what is too large for a
        metric is told and kept.
        """
        add_run(neptune2.server, "team/proj", {"m": floats([1, 2, 3], [0, 0.25, 2])})
        exact = [1_700_000_000_123, 1_700_000_000_124]
        add_run(neptune2.server, "team/proj", {"m": floats([1, 2], exact)})
        beyond = [1_700_000_000_123_456, 1_700_000_000_123_457]
        add_run(
            neptune2.server,
            "team/proj",
            {"m": floats([1, float("nan")], beyond), "n": floats([5])},
        )
        one, two, three = held_at(neptune2.sink).values()

        assert [0, 1, 8] == [step for step, *_ in points(one)["m"]]
        assert exact == [step for step, *_ in points(two)["m"]]
        assert "m has steps of more than 12 digits" in problems(three)[0]
        assert ["n"] == [each.key for each in three.metrics]
        with closing(resolve(neptune2.sink).source()) as store:
            lines = store.open(three.ref, "m.jsonl").read().splitlines()
        assert beyond == [json.loads(line)["step"] for line in lines]

    def test_only_questions_are_asked(self, neptune2: Neptune2) -> None:
        neptune2.server.project("team/proj")
        add_run(
            neptune2.server,
            "team/proj",
            {"a": 1, "m": floats([1]), "f": File(b"x"), "s": strings(["t"])},
        )
        model = add_model(neptune2.server, "team/proj", "NET", {"about": "it"})
        add_model_version(neptune2.server, model, {"acc": 0.5})
        assert set() == neptune2.asked_to_read_all() - SEARCHES

    def test_models_and_versions(self, neptune2: Neptune2, tmp_path: Path) -> None:
        model = add_model(neptune2.server, "team/proj", "NET", {"about": "it"})
        for stage in ("archived", "production"):
            add_model_version(
                neptune2.server,
                model,
                {"sys/stage": stage, "acc": 0.5, "f": File(b"w", "bin")},
            )
        (found,) = held_at(neptune2.sink, "registered_model").values()
        assert isinstance(found.header, RegisteredModel)
        assert ["Archived", "Production"] == [v.stage for v in found.versions]
        assert 3 == len(held_at(neptune2.sink))
        database = servers.fresh_database(tmp_path / "sink.db")
        assert [] == copies.copied(neptune2.sink, database).of(Failed)
        assert [] == copies.differences(neptune2.sink, database)

    def test_a_download_that_breaks_off(self, neptune2: Neptune2) -> None:
        add_run(neptune2.server, "team/proj", {"f": File(b"x" * 9999, "bin")})
        with closing(resolve(neptune2.sink).source()) as store:
            (ref,) = store.refs(Selection("run"))
            neptune2.server.plant("downloadAttribute", truncate(), times=1)
            try:
                data = store.open(ref, "f").read()
            except (OSError, mlmigrate.MlmigrateError):
                data = store.open(ref, "f").read()
        assert b"x" * 9999 == data

    def test_points_that_somebody_deleted(
        self, sources: MemorySources, neptune2: Neptune2
    ) -> None:
        """Whoever reads a copy is told what is no longer there of it."""
        twice = suite.points("m", (0, 1.0), (0, 2.0))
        run = suite.run(metrics=(twice,))
        copies.copied(sources(suite.experiment(), run), neptune2.sink)
        assert [] == problems(held_at(neptune2.sink)[RUN])
        neptune2.run().remove("mlmigrate/points")
        (problem,) = problems(held_at(neptune2.sink)[RUN])
        assert "points that no series takes" in problem

    def test_many_runs(self, neptune2: Neptune2) -> None:
        for number in range(1100):
            add_run(neptune2.server, "team/proj", {"n": number})
        with closing(resolve(neptune2.sink).source()) as store:
            refs = list(store.refs(Selection("run")))
        assert {f"neptune:team/proj/PROJ-{n}" for n in range(1, 1101)} == {
            ref.id for ref in refs
        }
        assert 1100 == len(refs)
