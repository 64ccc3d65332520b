"""
What copying to W&B is compared with: a plain loop of its client's own calls.

The loop reads no store, and logs as many rows of as many metrics as ours copies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from contenders import Contender, Job, Task, bare, ours
from generate import Shape, generate
from support.wandb_server import client_environment, wandb_server

from mlmigrate.protobuf import decode
from mlmigrate.stores.wandb_offline.schema import MESSAGES
from mlmigrate.wandb_runs.log import read_log


def together(task: Task) -> Task:
    """Return the task over a store whose metrics are logged together, as in a loop."""
    store = task.store.parent / "together" / "mlruns"
    if not store.exists():
        generate(store, Shape(runs=task.runs, experiments=1, steps=200, spread=0))
    return replace(task, store=store)


def _logged_points(folder: Path) -> Callable[[], int]:
    """Return what counts the values in the logs below a folder, but for W&B's own."""

    def count() -> int:
        return sum(
            not (item.get("key") or item["nested_key"][0]).startswith("_")
            for log in folder.rglob("*.wandb")
            for data in read_log(log, [])
            for item in decode(data, "Record", MESSAGES)
            .get("history", {})
            .get("item", ())
        )

    return count


def _offline(task: Task) -> dict[str, str]:
    keep_out = {"WANDB_ERROR_REPORTING": "false", "WANDB_CONSOLE": "off"}
    places = {
        f"WANDB_{name}_DIR": str(task.folder / name.lower())
        for name in ("CACHE", "CONFIG", "DATA")
    }
    return {"WANDB_MODE": "offline", "WANDB_SILENT": "true", **keep_out, **places}


@contextmanager
def ours_offline(task: Task) -> Iterator[Job]:
    target = task.folder / "wandb"
    command = ours(together(task), f"wandb-offline:{target}")
    yield Job([command], points=_logged_points(target))


@contextmanager
def loop_offline(task: Task) -> Iterator[Job]:
    command = bare("wandb", task.folder, task.runs)
    yield Job([command], _offline(task), _logged_points(task.folder))


@contextmanager
def ours_online(task: Task) -> Iterator[Job]:
    with wandb_server() as server:
        command = ours(together(task), "wandb://team/bench")
        environment = client_environment(server, task.folder)
        yield Job([command], environment, lambda: _held_points(server))


@contextmanager
def loop_online(task: Task) -> Iterator[Job]:
    with wandb_server() as server:
        environment = client_environment(server, task.folder)
        os.makedirs(environment["WANDB_DIR"], exist_ok=True)
        command = bare("wandb", task.folder, task.runs)
        yield Job([command], environment, lambda: _held_points(server))


def _held_points(server: object) -> int:
    runs = getattr(server, "runs").values()  # noqa: B009
    return sum(
        not key.startswith("_") for run in runs for row in run.history for key in row
    )


SCENARIOS: dict[str, list[Contender]] = {
    "wandb-offline": [
        Contender("mlmigrate", ours_offline, ours=True),
        Contender("wandb.init, log", loop_offline),
    ],
    "wandb-online": [
        Contender("mlmigrate", ours_online, ours=True),
        Contender("wandb.init, log", loop_online),
    ],
}
