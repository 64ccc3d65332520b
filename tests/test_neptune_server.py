"""A Neptune server as sink and source: what it took is proven, all it holds arrives."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow.parquet as pq
import pytest
from support.neptune_server import (
    Atom,
    Container,
    NeptuneServer,
)

from mlmigrate.testing.items import RUN
from mlmigrate.testing.suite import (
    Peeked,
    SinkSuite,
)

SINK = "neptune://team/proj"
QUICK = ["settle=0.5"]
T = 1_700_000_000_000


def at(server: NeptuneServer, id: str = RUN) -> Container:
    return server.projects["team/proj"].run(id)


def kept(container: Container) -> dict[str, Any]:
    if "mlmigrate/record_file" in container:
        found = json.loads(container["mlmigrate/record_file"].data)
    else:
        found = json.loads(container["mlmigrate/record"])
    assert isinstance(found, dict)
    return found


def aside(container: Container) -> list[dict[str, Any]]:
    if "mlmigrate/points" not in container:
        return []
    return pq.read_table(io.BytesIO(container["mlmigrate/points"].data)).to_pylist()


class TestConformance(SinkSuite):
    options = QUICK

    @pytest.fixture
    def sink_location(self, neptune_loopback: NeptuneServer) -> str:
        self.server = neptune_loopback
        return SINK

    def peek(self, location: str, run: str) -> Peeked | None:
        held = next(
            (
                each
                for each in self.server.projects["team/proj"].runs.values()
                if "mlmigrate/origin" in each and each["mlmigrate/origin"] == run
            ),
            None,
        )
        if held is None:
            return None
        record = kept(held)
        renamed, header = record.get("renamed", {}), record["header"]
        whole = record.get("whole", {})

        def texts(prefix: str, names: dict[str, str]) -> dict[str, str]:
            return {
                names.get(key, key): whole.get(prefix + key, value)
                for key, value in held.values(prefix).items()
            }

        odd = aside(held)
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
            "mlmigrate/mark" in held,
        )

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        at(self.server, run).put(f"mlflow/tags/{key}", Atom("string", value))

    def delete_run(self, location: str, run: str) -> None:
        at(self.server, run).trashed = True
