"""
Bare loops, to know what the parts below any tool allow.

    python bench/bare.py sqlite PATH --runs N        write metric rows
    python bench/bare.py postgres URI --runs N       COPY metric rows
    python bench/bare.py server URL --runs N         log-batch of 1,000 points
    python bench/bare.py filestore DIR               read with MLflow's own client
    python bench/bare.py wandb DIR --runs N          log to W&B, 200 steps a run
    python bench/bare.py neptune-offline . --runs N  log to Neptune; or neptune-async

The first three write what `generate.py` makes (20 metrics of 100 steps a run), out of
thin air. The databases must have MLflow's schema.
"""

from __future__ import annotations

import argparse
import random
import sqlite3
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import Any

WHAT = (
    *("sqlite", "postgres", "server", "filestore", "wandb"),
    *("neptune-offline", "neptune-async"),
)
METRICS = 20
STEPS = 100
BATCH = 1000

COLUMNS = "key, value, timestamp, run_uuid, step, is_nan"


def metric_rows(run_id: str, rng: random.Random) -> Iterator[tuple[Any, ...]]:
    for metric in range(METRICS):
        for step in range(STEPS):
            when = 1_700_000_000_000 + step
            yield f"metric_{metric:02}", rng.random(), when, run_id, step, False


def all_rows(runs: int) -> Iterator[tuple[Any, ...]]:
    rng = random.Random(0)
    for _ in range(runs):
        yield from metric_rows(f"{rng.getrandbits(128):032x}", rng)


def write_sqlite(path: str, runs: int) -> None:
    statement = f"INSERT INTO metrics ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)"
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany(statement, all_rows(runs))


def write_postgres(uri: str, runs: int) -> None:
    import psycopg

    with psycopg.connect(uri.replace("+psycopg", "")) as connection:
        # The runs themselves are not written, so nothing may ask for them.
        connection.execute("SET session_replication_role = replica")
        with (
            connection.cursor() as cursor,
            cursor.copy(f"COPY metrics ({COLUMNS}) FROM STDIN") as copy,
        ):
            for row in all_rows(runs):
                copy.write_row(row)


def write_server(url: str, runs: int, threads: int) -> None:
    import requests

    api = f"{url}/api/2.0/mlflow"
    local = threading.local()

    def post(path: str, body: dict[str, Any]) -> Any:
        if not hasattr(local, "session"):
            local.session = requests.Session()
        answer = local.session.post(f"{api}/{path}", json=body, timeout=600)
        answer.raise_for_status()
        return answer.json()

    experiment = post("experiments/create", {"name": "bare"})["experiment_id"]

    def write_run(number: int) -> None:
        start = {"experiment_id": experiment, "start_time": number}
        run_id = post("runs/create", start)["run"]["info"]["run_id"]
        rows = metric_rows(run_id, random.Random(number))
        while batch := list(islice(rows, BATCH)):
            metrics = [
                {"key": key, "value": value, "timestamp": when, "step": step}
                for key, value, when, _, step, _ in batch
            ]
            post("runs/log-batch", {"run_id": run_id, "metrics": metrics})

    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(write_run, range(runs)):
            pass


def read_filestore(folder: str) -> None:
    from mlflow import MlflowClient
    from mlflow.entities import ViewType

    client = MlflowClient(folder)
    points = 0
    for experiment in client.search_experiments(view_type=ViewType.ALL):
        token: str | None = ""
        while token is not None:
            page = client.search_runs(
                [experiment.experiment_id],
                run_view_type=ViewType.ALL,
                page_token=token or None,
            )
            for run in page:
                for key in run.data.metrics:
                    points += len(client.get_metric_history(run.info.run_id, key))
            token = page.token or None
    print(f"{points} points")


LOGGED_STEPS = 200


def log_to_wandb(folder: str, runs: int) -> None:
    """Log as training does: a row of all metrics for each step."""
    import wandb

    rng = random.Random(0)
    for number in range(runs):
        run = wandb.init(
            project="loop",
            name=f"run {number}",
            config={f"param_{at:02}": rng.random() for at in range(20)},
            dir=folder,
        )
        for step in range(LOGGED_STEPS):
            row = {f"metric_{metric:02}": rng.random() for metric in range(METRICS)}
            run.log(row, step=step)
        run.finish()


def log_to_neptune(mode: str, runs: int) -> None:
    """Log as training does: a value of each metric at each step."""
    import neptune

    rng = random.Random(0)
    for number in range(runs):
        run = neptune.init_run(
            project="team/bench",
            name=f"run {number}",
            mode=mode,
            capture_stdout=False,
            capture_stderr=False,
            capture_traceback=False,
            capture_hardware_metrics=False,
            git_ref=False,
            source_files=[],
        )
        run["params"] = {f"param_{at:02}": rng.random() for at in range(20)}
        for step in range(LOGGED_STEPS):
            for metric in range(METRICS):
                run[f"metric_{metric:02}"].append(rng.random(), step=step)
        run.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description="Bare loops to compare with.")
    parser.add_argument("what", choices=WHAT)
    parser.add_argument("where")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--threads", type=int, default=4, help="of a server's client")
    options = parser.parse_args()
    if options.what == "sqlite":
        write_sqlite(options.where, options.runs)
    elif options.what == "postgres":
        write_postgres(options.where, options.runs)
    elif options.what == "server":
        write_server(options.where, options.runs, options.threads)
    elif options.what == "wandb":
        log_to_wandb(options.where, options.runs)
    elif options.what.startswith("neptune-"):
        log_to_neptune(options.what.removeprefix("neptune-"), options.runs)
    else:
        read_filestore(options.where)


if __name__ == "__main__":
    main()
