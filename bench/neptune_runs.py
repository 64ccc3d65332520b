"""
What copying to and from Neptune is compared with: plain loops of its client's calls,
and the loader into MLflow of neptune-exporter.

That is on no package index: give a checkout in ``NEPTUNE_EXPORTER`` and, as it needs a
newer Python and libraries of its own, the interpreter of such an environment, with
mlflow, in ``NEPTUNE_EXPORTER_PYTHON``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
from contenders import Contender, Job, Task, bare, ours, sqlite_points
from support.neptune_archives import NeptuneArchive, T, moment, points, value
from support.neptune_server import client_environment, neptune_server
from wandb_runs import together

METRICS, STEPS, PARAMS = 20, 200, 20


def _archive(task: Task) -> Path:
    """Return an archive of neptune-exporter with so many runs."""
    root = task.store.parent / f"neptune-{task.runs}"
    if not root.exists():
        archive, rng = NeptuneArchive(root), np.random.default_rng(0)
        (root / "files").mkdir()
        for number in range(task.runs):
            rows = [
                value("sys/id", f"BENCH-{number}"),
                value("sys/custom_run_id", f"run-{number}"),
                value("sys/name", f"run {number}"),
                value("sys/creation_time", moment(T + number)),
                *(value(f"params/p{at}", at) for at in range(PARAMS)),
            ]
            for metric in range(METRICS):
                said = enumerate(rng.random(STEPS).tolist())
                rows += points(f"metrics/m{metric}", said)
            archive.run("team/bench", f"BENCH-{number}", rows)
    return root


@contextmanager
def ours_export(task: Task) -> Iterator[Job]:
    target = task.folder / "target.db"
    archive = replace(task, store=Path(f"neptune-export:{_archive(task)}"))
    command = ours(archive, f"sqlite:///{target}")
    yield Job([command], points=sqlite_points(target))


@contextmanager
def exporters_loader(task: Task) -> Iterator[Job]:
    root, target = _archive(task), task.folder / "target.db"
    start = "from neptune_exporter.main import main; main()"
    command = [os.environ["NEPTUNE_EXPORTER_PYTHON"], "-c", start, "load"]
    command += ["--loader", "mlflow", "--mlflow-tracking-uri", f"sqlite:///{target}"]
    command += ["--data-path", str(root / "data"), "--files-path", str(root / "files")]
    command += ["--step-multiplier", "1", "--no-progress"]
    environment = {"PYTHONPATH": str(Path(os.environ["NEPTUNE_EXPORTER"]) / "src")}
    yield Job([command], environment, sqlite_points(target))


def _logged_points(folder: Path) -> Callable[[], int]:
    """Return what counts the points in the logs of Neptune's client below a folder."""

    def count() -> int:
        return sum(
            len(json.loads(line)["obj"]["values"])
            for log in folder.rglob("data-*.log")
            for line in log.open("rb")
            if b'"LogFloats"' in line[:40]
        )

    return count


@contextmanager
def ours_offline(task: Task) -> Iterator[Job]:
    target = task.folder / "offline"
    command = ours(together(task), f"neptune-offline:{target}")
    yield Job([command], points=_logged_points(target))


@contextmanager
def loop_offline(task: Task) -> Iterator[Job]:
    command = bare("neptune-offline", ".", task.runs)
    yield Job([command], points=_logged_points(task.folder))


@contextmanager
def ours_online(task: Task) -> Iterator[Job]:
    with neptune_server() as server:
        command = ours(together(task), "neptune://team/bench")
        yield Job([command], client_environment(server), lambda: _held_points(server))


@contextmanager
def loop_online(task: Task) -> Iterator[Job]:
    with neptune_server() as server:
        command = bare("neptune-async", ".", task.runs)
        yield Job([command], client_environment(server), lambda: _held_points(server))


def _held_points(server: object) -> int:
    projects = getattr(server, "projects").values()  # noqa: B009
    return sum(
        len(run.points(path))
        for project in projects
        for run in project.runs.values()
        for path, attribute in run.attributes.items()
        if attribute.type == "floatSeries"
    )


SCENARIOS: dict[str, list[Contender]] = {
    "neptune-export": [
        Contender("mlmigrate", ours_export, ours=True),
        *(
            [Contender("neptune-exporter load", exporters_loader)]
            if "NEPTUNE_EXPORTER" in os.environ
            else []
        ),
    ],
    "neptune-offline": [
        Contender("mlmigrate", ours_offline, ours=True),
        Contender("neptune.init_run, append", loop_offline),
    ],
    "neptune-online": [
        Contender("mlmigrate", ours_online, ours=True),
        Contender("neptune.init_run, append", loop_online),
    ],
}
