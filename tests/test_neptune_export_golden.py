"""What neptune-exporter itself wrote, of 2.x and of 3.x, is read as it was logged."""

from __future__ import annotations

import math
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support import reading
from support.copies import copied, differences
from support.reading import header, held, params, points

from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Item, Problem

GOLDEN = Path(__file__).parent / "golden" / "neptune-export"
T = 1_700_000_000_000


def read(version: str, kind: Any = "run") -> dict[str, Item]:
    with closing(resolve(f"neptune-export:{GOLDEN / version}").source()) as store:
        found = held(store, kind)
        assert [] == [each for each in store.findings() if isinstance(each, Problem)]
    return {item.ref.id.removeprefix("neptune:"): item for item in found}


def content(version: str, item: Item, path: str) -> bytes:
    with closing(resolve(f"neptune-export:{GOLDEN / version}").source()) as store:
        return reading.contents(store, item)[path]


@pytest.mark.parametrize("version", ["2x", "3x"])
def test_a_copy_is_the_same(version: str, tmp_path: Path) -> None:
    source, sink = (
        f"neptune-export:{GOLDEN / version}",
        f"sqlite:///{tmp_path / 'x.db'}",
    )

    result = copied(source, sink)

    assert [] == result.of(Failed)
    assert [] == [each for each in result.findings() if isinstance(each, Problem)]
    assert [] == differences(source, sink)


class Test2x:
    def test_values(self) -> None:
        run = read("2x")["team/proj/PROJ-1"]

        found = params(run)

        assert {
            "params/lr": "0.1",
            "params/layers": "3",
            "params/big": "2147483647",
            "params/name": "adam ü \u2603\nnext line",
            "params/empty": "",
            "params/flag": "True",
            "params/when": "2024-05-06T07:08:09.123Z",
            "params/labels": '["a", "b", "ü x"]',
            "params/deep/er/still": "x" * 2000,
        }.items() <= found.items()

    def test_points(self) -> None:
        run = read("2x")["team/proj/PROJ-1"]

        loss = points(run)["metrics/loss"]

        million = 1_000_000  # a step of this run has six digits behind the point
        wanted = [(at * million, T + at * 125, 1 / (at + 1)) for at in range(2500)]
        assert wanted == loss
        fractions = points(run)["metrics/fractional"]
        steps = [500_000, 1_250_000, 2_000_001, 10**15 + 500_000]
        assert steps == [step for step, _, _ in fractions]

    def test_runs_of_many_kinds(self) -> None:
        runs = read("2x")

        assert "FAILED" == header(runs["team/proj/PROJ-2"]).status
        assert "high" == params(runs["team/proj/PROJ-3"])["params/lr"]
        values = [
            value for _, _, value in points(runs["team/proj/PROJ-6"])["metrics/nan"]
        ]
        assert 1.0 == values[0]
        assert math.isnan(values[1])
        assert "team/other project.x/OTHERPROJE-1" in runs

    def test_files(self) -> None:
        run = read("2x")["team/proj/PROJ-1"]

        assert {
            "artifacts/model",
            "artifacts/notes",
            "artifacts/a.b/weights v1.pt",
            "images/preview/0.png",
            "images/preview/1.png",
            "images/preview/2.png",
            "code/files/files.zip",
            "data/single/single.zip",
            "data/tracked/files_list.json",
            "logs/lines.jsonl",
            "neptune/attributes.json",
        } == {each.path for each in run.artifacts}
        assert bytes(range(256)) * 10 == content("2x", run, "artifacts/model")

    def test_models(self) -> None:
        models = read("2x", "registered_model")

        assert ["PROJ-EMPTY", "PROJ-NET"] == sorted(models)
        versions = models["PROJ-NET"].versions
        assert [(1, "Archived"), (2, "Production")] == [
            (version.version, version.stage) for version in versions
        ]


class Test3x:
    def test_values(self) -> None:
        run = read("3x")["team/proj/everything"]

        found = params(run)

        assert {
            "params/big": str(2**62),
            "params/negative": str(-(2**63)),
            "params/whole": "2.0",
            "params/tiny": "5e-324",
            "params/-inf": "-inf",
            "params/off": "False",
            "params/no labels": "[]",
            "params": "a name that is also a namespace",
            "params//double": "1",
        }.items() <= found.items()

    def test_not_a_number_stays(self) -> None:
        run = read("3x")["team/proj/everything"]

        values = [value for _, _, value in points(run)["metrics/not finite"]]

        assert [1.0, math.inf, -math.inf, 2.0] == [
            v for v in values if not math.isnan(v)
        ]
        assert 6 == len(values)

    def test_forks(self) -> None:
        runs = read("3x")

        def loss(name: str) -> list[tuple[int, float]]:
            return [
                (step, v) for step, _, v in points(runs[f"team/proj/{name}"])["loss"]
            ]

        root = [(at, 100.0 + at) for at in range(10)]
        child = [*root[:6], *((at, 200.0 + at) for at in range(6, 12))]
        assert root == loss("root")
        assert child == loss("child")
        assert [*child[:8], (8, 308.0), (9, 309.0)] == loss("grandchild")
        assert [*root[:4], (4, 400.0)] == loss("branch")
        assert [(4, 500.0)] == loss("orphan")
        paths = {each.path for each in runs["team/proj/grandchild"].artifacts}
        assert {"files/2.bin", "files/7.bin", "log.jsonl", "hist.jsonl"} <= paths

    def test_files(self) -> None:
        run = read("3x")["team/proj/everything"]

        assert b"\0\1" == content("3x", run, "artifacts/ckpt/best.pt")
        assert b"" == content("3x", run, "artifacts/empty")
        paths = {each.path for each in run.artifacts}
        assert {"images/preview/0.png", "images/fractional/0.25.bin"} <= paths
