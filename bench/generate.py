"""
Make a file store of any size, in exactly the layout that MLflow writes.

    python bench/generate.py DIR --runs 1000

Every run has 20 metrics of 100 steps, 20 params and 10 tags. The same arguments give
the same store, byte for byte, but for the absolute paths inside it.
"""

from __future__ import annotations

import argparse
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EPOCH_MS = 1_700_000_000_000
RUN_SECONDS = 600

OPTIMIZERS = ("adam", "adamw", "sgd", "rmsprop", "lion")
USERS = ("ada", "grace", "barbara", "frances")


@dataclass(frozen=True, slots=True)
class Shape:
    """How much of everything a store holds."""

    runs: int = 1000
    experiments: int = 10
    metrics: int = 20
    steps: int = 100
    params: int = 20
    tags: int = 10
    artifacts: int = 0
    artifact_bytes: int = 1024
    #: By how many milliseconds the metrics of one step are apart at most.
    spread: int = 10

    @property
    def points(self) -> int:
        return self.runs * self.metrics * self.steps


def generate(folder: Path, shape: Shape, seed: int = 0) -> None:
    """Write a store into *folder*, which must be empty or absent."""
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty")
    (folder / ".trash").mkdir()
    _write_experiment(folder / "0", "Default", EPOCH_MS)
    ids = random.Random(f"{seed}/experiments")
    experiments: list[Path] = []
    for number in range(shape.experiments):
        experiment = folder / str(ids.randrange(10**17, 10**18))
        _write_experiment(experiment, f"bench-{number}", EPOCH_MS + number)
        experiments.append(experiment)
    for number in range(shape.runs):
        # A generator of its own makes a run independent of how many come before it.
        rng = random.Random(f"{seed}/{number}")
        _write_run(experiments[number % len(experiments)], number, shape, rng)


def _write_experiment(folder: Path, name: str, created: int) -> None:
    folder.mkdir()
    (folder / "meta.yaml").write_text(
        f"artifact_location: {folder.as_uri()}\n"
        f"creation_time: {created}\n"
        "effective_trace_archival_retention: null\n"
        f"experiment_id: '{folder.name}'\n"
        f"last_update_time: {created}\n"
        "lifecycle_stage: active\n"
        f"name: {name}\n"
        "trace_location: null\n"
        "workspace: default\n"
    )


def _write_run(experiment: Path, number: int, shape: Shape, rng: random.Random) -> None:
    run_id = f"{rng.getrandbits(128):032x}"
    folder = experiment / run_id
    start = EPOCH_MS + number * RUN_SECONDS * 1000 + rng.randrange(1000)
    name = f"bench-run-{number}"
    user = rng.choice(USERS)
    for part in ("", "artifacts", "metrics", "params", "tags"):
        (folder / part).mkdir()
    (folder / "meta.yaml").write_text(
        f"artifact_uri: {folder.as_uri()}/artifacts\n"
        f"end_time: {start + RUN_SECONDS * 1000}\n"
        "entry_point_name: ''\n"
        f"experiment_id: '{experiment.name}'\n"
        "lifecycle_stage: active\n"
        f"run_id: {run_id}\n"
        f"run_name: {name}\n"
        "source_name: ''\n"
        "source_type: 4\n"
        "source_version: ''\n"
        f"start_time: {start}\n"
        "status: 3\n"
        "tags: []\n"
        f"user_id: {user}\n"
    )
    for index in range(shape.metrics):
        lines = _metric_lines(start, shape, rng)
        (folder / "metrics" / f"metric_{index:02}").write_text("".join(lines))
    for key, value in _params(shape.params, rng):
        (folder / "params" / key).write_text(value)
    for key, value in _tags(shape.tags, name, user, rng):
        (folder / "tags" / key).write_text(value)
    for index in range(shape.artifacts):
        # Two levels, because listing folders is part of the work of copying.
        inner = folder / "artifacts" / f"part_{index // 100}"
        inner.mkdir(exist_ok=True)
        (inner / f"file_{index}.bin").write_bytes(rng.randbytes(shape.artifact_bytes))


def _metric_lines(start: int, shape: Shape, rng: random.Random) -> Iterator[str]:
    """A falling, noisy curve: floats with all their digits, as training logs them."""
    level = rng.uniform(0.5, 5.0)
    rate = rng.uniform(0.01, 0.1)
    pause = RUN_SECONDS * 1000 // max(shape.steps, 1)
    for step in range(shape.steps):
        value = level * math.exp(-rate * step) + rng.random() * 0.05
        moment = start + step * pause + rng.randrange(max(shape.spread, 1))
        yield f"{moment} {value!r} {step}\n"


def _params(count: int, rng: random.Random) -> Iterator[tuple[str, str]]:
    for index in range(count):
        kind = index % 4
        if kind == 0:
            value = repr(10 ** rng.uniform(-6, -1))
        elif kind == 1:
            value = str(2 ** rng.randrange(3, 12))
        elif kind == 2:
            value = rng.choice(OPTIMIZERS)
        else:
            value = f"/data/sets/{rng.getrandbits(64):016x}/train.parquet"
        yield f"param_{index:02}", value


def _tags(
    count: int, name: str, user: str, rng: random.Random
) -> Iterator[tuple[str, str]]:
    usual = [
        ("mlflow.runName", name),
        ("mlflow.user", user),
        ("mlflow.source.name", "train.py"),
        ("mlflow.source.type", "LOCAL"),
        ("mlflow.source.git.commit", f"{rng.getrandbits(160):040x}"),
    ]
    for index in range(len(usual), count):
        usual.append((f"tag_{index:02}", f"value {rng.getrandbits(32):08x}"))
    yield from usual[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description="Make a file store to measure with.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--seed", type=int, default=0)
    default = Shape()
    for field in Shape.__dataclass_fields__:
        parser.add_argument(
            f"--{field.replace('_', '-')}", type=int, default=getattr(default, field)
        )
    options = vars(parser.parse_args())
    folder, seed = options.pop("folder"), options.pop("seed")
    shape = Shape(**options)
    begun = time.perf_counter()
    generate(folder, shape, seed)
    seconds = time.perf_counter() - begun
    print(f"{folder}: {shape.runs} runs, {shape.points} points, {seconds:.1f} s")


if __name__ == "__main__":
    main()
