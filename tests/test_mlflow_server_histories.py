"""Histories of several runs are asked for together, and nothing of them is lost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support import servers
from support.reading import digests_at

import mlmigrate
from mlmigrate.stores import memory
from mlmigrate.stores.mlflow_server import histories
from mlmigrate.stores.mlflow_server.histories import Histories
from mlmigrate.stores.mlflow_server.rest import Json, Refused, Rest
from mlmigrate.testing.suite import MemorySources, experiment, points, run

IDS = [f"{number:032x}" for number in range(45)]


class Server(Rest):
    """Has *length* points of a metric for each run, and answers without a network."""

    def __init__(self, length: int, *, longest: int = 25_000) -> None:
        self.base = "http://server"
        self.length = length
        self.longest = longest
        self.known = True
        self.most_runs = 100
        self.together = self.alone = 0

    def get(self, path: str, /, **query: Any) -> Json:
        ids = query["run_id"]
        if "bulk" in path:
            self.together += 1
            if not self.known:
                raise Refused(404, "", "does not know it")
            if len(ids) > self.most_runs:
                raise Refused(400, "INVALID_PARAMETER_VALUE", "too many")
            found = [point for id in sorted(ids) for point in self.points(id)]
            return {"metrics": found[: min(self.longest, query["max_results"])]}
        self.alone += 1
        return {"metrics": self.points(ids)}

    def points(self, id: str) -> list[Json]:
        return [
            {"run_id": id, "key": "loss", "step": step, "timestamp": 7, "value": step}
            for step in range(self.length)
        ]

    def read(self) -> dict[str, int]:
        """Return how many points are read of each run."""
        latest = {"loss": self.points("")[-1]}
        reader = Histories(self, threads=2)
        found = reader.of_several(dict.fromkeys(IDS, latest))
        for id in IDS:
            if "loss" not in found[id]:
                found[id]["loss"] = reader.submit(id, "loss").result()
        reader.close()
        return {id: len(each["loss"].steps) for id, each in found.items()}


def test_few_requests() -> None:
    """A hundred runs need one."""
    server = Server(100)

    assert dict.fromkeys(IDS, 100) == server.read()
    assert (1, 0) == (server.together, server.alone)


def test_an_older_server() -> None:
    """It takes twenty runs."""
    server = Server(100)
    server.most_runs = 20

    assert dict.fromkeys(IDS, 100) == server.read()
    assert (1 + 3, 0) == (server.together, server.alone)


@pytest.mark.parametrize("longest", [25_000, 10_000, 4_999])
def test_what_is_cut_off_is_read_alone(longest: int) -> None:
    """Also where a server gives fewer points than it was asked for."""
    server = Server(2_000, longest=longest)

    assert dict.fromkeys(IDS, 2_000) == server.read()
    assert server.alone


def test_a_server_that_does_not_know_it() -> None:
    """It is not asked again and again."""
    server = Server(10)
    server.known = False

    assert dict.fromkeys(IDS, 10) == server.read()
    assert server.together <= 3


def test_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real server gives the same values either way, NaN and the last digit, too."""
    sources = MemorySources()
    values = [0.1 + 0.2, float("nan"), 1e-320, -1.5e300, 3.0]
    source = sources(
        experiment(),
        *(
            run(
                id,
                metrics=(
                    points("loss", *enumerate(values)),
                    points(f"own/{at}", (2**40, -1.0), (-3, 5.0)),
                ),
            )
            for at, id in enumerate(IDS[:30])
        ),
    )
    database = servers.fresh_database(tmp_path / "mlflow.db")
    mlmigrate.copy([source], database)
    with servers.mlflow_server(tmp_path, backend_uri=database) as url:
        together = digests_at(url)
        monkeypatch.setattr(histories, "_BULK", "/nowhere")
        alone = digests_at(url)

    assert 31 <= len(together)
    assert together == alone
    for location in sources.made:
        memory.forget(location)
