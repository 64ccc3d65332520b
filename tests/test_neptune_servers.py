"""Neptune's servers, of 2.x and of 3.x, as sinks and sources: what they took is proven,
all that they hold arrives.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import copies, servers
from support.neptune_server import Atom, StringSet
from support.neptunes import Neptune
from support.reading import header, held_at, metric, run_at, tags

from mlmigrate.locations import resolve
from mlmigrate.model import Alias, Artifact, Failed, Item, Note, Param, Ref, Tag
from mlmigrate.testing import suite
from mlmigrate.testing.items import NOW, RUN
from mlmigrate.testing.suite import MemorySources, Peeked, SinkSuite


class TestConformance(SinkSuite):
    options = ("settle=0.5",)

    @pytest.fixture
    def sink_location(self, neptune: Neptune) -> str:
        self.neptune = neptune
        return neptune.sink

    def peek(self, location: str, run: str) -> Peeked | None:
        held = next(
            (
                each
                for each in self.neptune.project().runs.values()
                if "mlmigrate/origin" in each and each["mlmigrate/origin"] == run
            ),
            None,
        )
        if held is None:
            return None
        record = self.neptune.record(held)
        renamed, header = record.get("renamed", {}), record["header"]
        whole = record.get("whole", {})

        def texts(prefix: str, names: dict[str, str]) -> dict[str, str]:
            return {
                names.get(key, key): whole.get(prefix + key, value)
                for key, value in held.values(prefix).items()
            }

        odd = self.neptune.aside(held)
        troubled = {(each["key"], each["step"]) for each in odd}
        rows = [(p["key"], p["step"], p["timestamp"], p["value"]) for p in odd]
        names = renamed.get("metrics", {})
        for path in held.attributes:
            if path.startswith("metrics/"):
                key = names.get(path[8:], path[8:])
                rows += [
                    (key, int(point.step), point.timestamp, point.value)
                    for point in held.points(path)
                    if (key, point.step) not in troubled
                ]
        return Peeked(
            held["mlflow/status"],
            header.get("start_time"),
            header.get("end_time"),
            "deleted" if held.trashed else held["mlflow/lifecycle"],
            texts("params/", renamed.get("params", {})),
            texts("mlflow/tags/", renamed.get("tags", {})),
            sorted(rows),
            bool(held.values("mlmigrate/").get("mark")),
        )

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        self.neptune.run(run).put(f"mlflow/tags/{key}", Atom("string", value))

    def delete_run(self, location: str, run: str) -> None:
        self.neptune.run(run).trashed = True


def arrives(
    neptune: Neptune, sources: MemorySources, folder: Path, *items: Item, **more: Any
) -> None:
    """Check that items arrive, are there once, and go on to a database unchanged."""
    origin = sources(*items, **more)
    assert [] == neptune.copy(origin).of(Failed)
    assert [] == neptune.differences(origin)
    before = neptune.sent()
    again = neptune.copy(origin)
    assert {"skipped"} == set(again.counts()), again.events
    assert before == neptune.sent()
    database = servers.fresh_database(folder / "on.db")
    assert [] == copies.copied(neptune.sink, database).of(Failed)
    assert [] == copies.differences(origin, database)


class TestLimits:
    @pytest.mark.parametrize(
        "points",
        [
            [(s, NOW + s, float(s)) for s in (2**33 + 1, 600_000_000_001, 10**12 - 1)],
            [(-s, NOW + s, float(s)) for s in (10**12 - 1, 900_000_000_001, 7, -7)],
            [(s, NOW, 1.0) for s in (10**12, 2**53 + 1, 2**63 - 1, -(2**63))],
            [(0, NOW, 1.0), (0, NOW + 1, 2.0), (1, NOW - 5, 3.0), (2, NOW, 4.0)],
            [(0, -5, 1.0), (1, 2**52, 2.0), (2, 253_402_300_799_999, 3.0)],
            [(0, NOW, np.nan), (1, NOW, np.inf), (2, NOW, -np.inf), (3, NOW, -0.0)],
            [(s, NOW + s, 0.1 * s) for s in range(2500)],
            [(0, 0, 5e-324), (1, 0, 1.7976931348623157e308), (2, 0, 1 / 3)],
        ],
    )
    def test_points(
        self,
        sources: MemorySources,
        neptune: Neptune,
        tmp_path: Path,
        points: list[tuple[int, int, float]],
    ) -> None:
        run = suite.run(metrics=(metric("m", *points), metric("m/n", (0, NOW, 1.0))))
        arrives(neptune, sources, tmp_path, suite.experiment(), run)

    def test_texts(
        self, sources: MemorySources, neptune: Neptune, tmp_path: Path
    ) -> None:
        long = "ä" * 20_000
        keys = [
            "a",
            "a/b",
            "a//b",
            "a b",
            " a",
            "a ",
            "größe 🚀",
            "x" * 250,
            "a.b",
            "_",
        ]
        run = suite.run(
            name="n" * 500,
            params=(*(Param(k, k) for k in keys), Param("long", "p" * 8000)),
            tags=(
                *(Tag(k, k) for k in keys),
                *(Tag(f"t{n:03}", str(n)) for n in range(300)),
                Tag("long", long[:5000]),
                Tag("mlflow.note.content", "# note\n" * 500),
            ),
            metrics=tuple(metric(k, (0, NOW, 1.0)) for k in keys),
        )
        experiment = suite.experiment(name="e" * 200, tags=(Tag("big", long[:5000]),))
        arrives(neptune, sources, tmp_path, experiment, run)

    @pytest.mark.parametrize("provider", ["own", "gcp", "aws", "azure"])
    def test_files(
        self, sources: MemorySources, neptune: Neptune, tmp_path: Path, provider: str
    ) -> None:
        if provider not in neptune.providers:
            pytest.skip("files of this server never go there")
        data = {
            "empty": b"",
            "a.bin": bytes(range(256)) * 400,
            "folder.txt/a.bin": b"x",
            "folder.txt/ b ": b"y",
            "deep/" * 20 + "f": b"z",
            "größe 🚀.bin": b"0",
            "n" * 200: b"1",
            ".hidden": b"2",
        }
        run = suite.run(artifacts=tuple(Artifact(p, len(b)) for p, b in data.items()))
        files = {(run.ref, path): content for path, content in data.items()}
        neptune.server.provider = provider
        neptune.server.part_size = 10_000
        arrives(neptune, sources, tmp_path, suite.experiment(), run, files=files)
        with_open = resolve(neptune.sink).source()
        for path, content in data.items():
            with with_open.open(run.ref, path) as file:
                assert content == file.read(), path
        with_open.close()

    def test_a_file_that_is_named_like_a_folder(
        self, sources: MemorySources, neptune: Neptune
    ) -> None:
        """Stores of objects hold such, and names longer than a disk takes."""
        data = {"a": b"1", "a/b": b"22", "n" * 400: b"333"}
        run = suite.run(artifacts=tuple(Artifact(p, len(b)) for p, b in data.items()))
        files = {(run.ref, path): content for path, content in data.items()}
        origin = sources(suite.experiment(), run, files=files)

        assert [] == neptune.copy(origin).of(Failed)
        assert [] == neptune.differences(origin)

    def test_registered_models(
        self, sources: MemorySources, neptune: Neptune, tmp_path: Path
    ) -> None:
        versions = [
            suite.version(
                "m",
                number,
                NOW + number,
                description="d" * 5000,
                run=Ref("run", RUN),
                source=f"runs:/{RUN}/m",
                source_run=Ref("run", RUN),
                source_path="m",
                tags=(Tag("a", "1"), Tag("a/b", "2")),
            )
            for number in (*range(1, 28), 30, 40)
        ]
        aliases = [Alias("champion", 40), Alias("a.b", 1), Alias("c-d", 1)]
        model = suite.model("m", *versions, aliases=aliases)
        slashed = suite.model("a b:c", suite.version("a b:c", 7, NOW))
        items = [suite.experiment(), suite.run(), model, slashed]
        arrives(neptune, sources, tmp_path, *items)
        assert [RUN] == list(held_at(neptune.sink))
        found = neptune.project()
        if neptune.has_models:
            assert (2, 30) == (len(found.models), len(found.model_versions))
        else:
            assert {RUN, "mlmigrate"} == {*found.runs}


class TestGrowth:
    def test_only_what_is_new_is_sent(
        self, sources: MemorySources, neptune: Neptune
    ) -> None:
        loss = [(step, NOW + step, step / 7) for step in range(100)]
        run = suite.run(
            status="RUNNING",
            end_time=None,
            params=(Param("lr", "0.1"),),
            metrics=(metric("loss", *loss[:50]), metric("acc", *loss[:5])),
            artifacts=(Artifact("a", 1),),
        )
        files = {(run.ref, "a"): b"a", (run.ref, "b/c"): b"bc"}
        origin = sources(suite.experiment(), run, files=files)
        neptune.copy(origin)
        seen = len(neptune.server.requests)
        grown = replace(
            run,
            header=replace(header(run), status="FAILED", end_time=NOW + 9),
            params=(*run.params, Param("bs", "8")),
            tags=(Tag("new", "tag"),),
            metrics=(metric("loss", *loss), run.metrics[1], metric("new", *loss[:3])),
            artifacts=(*run.artifacts, Artifact("b/c", 2)),
        )
        sources.put(origin, grown)

        assert {"updated": 1} == neptune.copy(origin).counts()
        news = neptune.server.requests[seen:]
        assert ["artifacts/b/c"] == neptune.uploaded(news)
        assert "metrics/acc" not in {
            p for r in news for p in r.variables.get("paths", ())
        }
        assert [] == neptune.differences(origin)
        held = neptune.run()
        assert list(range(100)) == [p.step for p in held.points("metrics/loss")]
        assert not neptune.aside(held)
        assert held["sys/failed"] is True
        assert {"skipped": 1} == neptune.copy(origin).counts()

    def test_a_trashed_run_stays_trashed(
        self, sources: MemorySources, neptune: Neptune
    ) -> None:
        run = suite.run(status="RUNNING", end_time=None)
        origin = sources(suite.experiment(), run)
        neptune.copy(origin)
        setattr(neptune.run(), neptune.trashed, True)
        sources.put(origin, replace(run, params=(Param("a", "b"),)))
        before = neptune.sent()
        result = neptune.copy(origin)

        assert "updated" not in result.counts(), result.events
        assert any(isinstance(each, Note) for each in result.findings())
        assert getattr(neptune.run(), neptune.trashed)
        assert before == neptune.sent()

    def test_words_that_the_source_takes_back(
        self, sources: MemorySources, neptune: Neptune
    ) -> None:
        """Neptune's tags are the source's and people's, not what the source had."""

        def run(words: list[str], end: int) -> Item:
            tags = (Tag("neptune.tags", json.dumps(words)),)
            return suite.run(tags=tags, end_time=NOW + end)

        origin = sources(suite.experiment(), run(["a", "b"], 1))
        neptune.copy(origin)
        assert {"a", "b"} == neptune.run()["sys/tags"]
        sources.put(origin, run(["b", "c"], 2))

        assert {"updated": 1} == neptune.copy(origin).counts()
        assert {"b", "c"} == neptune.run()["sys/tags"]
        assert [] == neptune.differences(origin)
        neptune.run().put("sys/tags", StringSet(dict.fromkeys("bcd")))
        told = tags(run_at(neptune.sink))
        assert '["b", "c", "d"]' == told["neptune.tags"]
        sources.put(origin, replace(run(["b", "c"], 3), params=(Param("more", "1"),)))

        assert {"updated": 1} == neptune.copy(origin).counts()
        assert {"b", "c", "d"} == neptune.run()["sys/tags"]
        assert '["b", "c"]' == neptune.run()["mlflow/tags/neptune.tags"]
        assert told == tags(run_at(neptune.sink))
