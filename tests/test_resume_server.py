"""A copy into a server, killed or disturbed, is completed by the same command."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import pytest
import requests
from support.copies import copied, differences
from support.faults import (
    Fault,
    any_of,
    delay,
    drop_every,
    every,
    fault_proxy,
    lie,
    refuse,
)
from support.fixture_stores import FIXTURES
from support.reading import held_at

from mlmigrate import pipeline
from mlmigrate.errors import StoreError
from mlmigrate.locations import resolve
from mlmigrate.model import Failed, Param
from mlmigrate.stores import memory
from mlmigrate.testing.items import experiment
from mlmigrate.testing.items import run as one_run
from mlmigrate.testing.suite import MemorySources

SOURCES = [
    str(FIXTURES / "cluster-2.9" / "mlruns"),
    str(FIXTURES / "laptop-1.0" / "mlruns"),
    str(FIXTURES / "laptop-copy" / "mlruns"),
    str(FIXTURES / "laptop-3.1" / "mlruns"),  # has traces
]
KILLS = int(os.environ.get("MLMIGRATE_KILLS", "5"))


def _command(name: str, sink: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "mlmigrate", name, *SOURCES, sink, "--json", *more]


def _run(command: Sequence[str]) -> dict[str, object]:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    loaded: dict[str, object] = json.loads(done.stdout)
    return loaded


def _active_origins(url: str) -> list[str]:
    """The origins of every run at the server that is a copy, with repetitions."""
    found = requests.post(
        f"{url}/api/2.0/mlflow/experiments/search",
        json={"max_results": 1000, "view_type": "ALL"},
        timeout=60,
    ).json()
    ids = [one["experiment_id"] for one in found["experiments"]]
    runs = requests.post(
        f"{url}/api/2.0/mlflow/runs/search",
        json={"experiment_ids": ids, "max_results": 1000, "run_view_type": "ALL"},
        timeout=60,
    ).json()["runs"]
    tags = [{t["key"]: t["value"] for t in run["data"]["tags"]} for run in runs]
    return sorted(
        own["mlmigrate.origin"] for own in tags if "mlmigrate.duplicate" not in own
    )


def _assert_whole(url: str) -> None:
    verified = _run(_command("verify", url))
    assert verified["different"] == []
    assert verified["missing"] == []
    origins = _active_origins(url)
    assert len(origins) == len(set(origins))


def test_completes_a_copy_that_was_killed_at_random_moments(server: str) -> None:
    rolls = random.Random(7)
    for _ in range(KILLS):
        process = subprocess.Popen(
            _command("copy", server),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        time.sleep(rolls.uniform(0.4, 4.0))
        process.send_signal(signal.SIGKILL)
        process.wait()

    _run(_command("copy", server))

    _assert_whole(server)


def test_an_experiment_of_which_only_the_create_arrived_is_deleted_again(
    server: str,
) -> None:
    def plan(method: str, path: str, n: int) -> Fault | None:
        return refuse(503) if path.endswith("set-experiment-tag") else None

    memory.forget("memory:deleted")
    item = experiment(lifecycle="deleted")
    memory.contents("memory:deleted").items[item.ref] = item
    source = [resolve("memory:deleted")]
    with fault_proxy(server, plan) as proxy:
        sink = resolve(proxy.url, ["retries=0"])
        with pytest.raises(StoreError):
            list(pipeline.copy(source, sink, pipeline.Options()))

    list(pipeline.copy(source, resolve(server), pipeline.Options()))

    found = requests.get(
        f"{server}/api/2.0/mlflow/experiments/get-by-name",
        params={"experiment_name": "churn"},
        timeout=60,
    ).json()
    assert found["experiment"]["lifecycle_stage"] == "deleted"
    memory.forget("memory:deleted")


def test_completes_through_a_server_that_loses_answers(server: str) -> None:
    plan = any_of(
        drop_every(17, seed=1),
        every(23, refuse(429, retry_after=0), refuse(502), lie(502), seed=2),
        every(31, delay(0.2), seed=3),
    )
    with fault_proxy(server, plan) as proxy:
        report = _run(_command("copy", proxy.url))
        assert report["failed"] == []
        assert sum(proxy.faults.values()) > 20

    _assert_whole(server)


def test_changes_nothing_the_second_time(server: str) -> None:
    _run(_command("copy", server))

    again = _run(_command("copy", server))

    assert again["copied"] == {}
    assert again["updated"] == {}


def test_a_run_that_fails_midway_is_made_once(
    server: str, sources: MemorySources
) -> None:
    """The next try, and the next copy, go on with the run that there is."""
    origin = sources(experiment(), one_run(params=(Param("a", "1"),)))

    def plan(method: str, path: str, n: int) -> Fault | None:
        return refuse(403) if path.endswith("runs/log-batch") else None

    with fault_proxy(server, plan) as proxy:
        assert len(copied(origin, proxy.url).of(Failed)) == 1
    assert len(held_at(server, "run")) == 1
    assert copied(origin, server).of(Failed) == []
    assert len(held_at(server, "run")) == 1
    assert differences(origin, server) == []
