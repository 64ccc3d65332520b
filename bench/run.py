"""
Compare mlmigrate side by side with the other tools and with what the parts allow.

    python bench/run.py sqlite|postgres|server|one-worker|read|memory|repeat [--runs N]
    python bench/run.py export|export-server|restore|check|archive-memory [--runs N]
    python bench/run.py wandb-offline|wandb-online --runs 50
    python bench/run.py neptune-export|neptune-offline|neptune-online --runs 50

All get the same generated store, and take turns, so that whatever else the machine
does hurts all of them. Figures of different calls are not comparable.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import archives
import contenders
import neptune_runs
import wandb_runs
from contenders import Contender, Task
from generate import Shape, generate

SCENARIOS = {
    **contenders.SCENARIOS,
    **archives.SCENARIOS,
    **wandb_runs.SCENARIOS,
    **neptune_runs.SCENARIOS,
}
MEASURE = Path(__file__).resolve().with_name("measure.py")


@dataclass(frozen=True)
class Figures:
    """What one job took."""

    seconds: float
    cpu_seconds: float
    #: Of the largest single process.
    peak_bytes: int
    exit_codes: list[int]
    points: int | None
    #: Bytes of what it wrote.
    written: int | None
    #: The end of what it printed, when it failed.
    said: str = ""


@dataclass(frozen=True)
class Row:
    """One line of the table: medians over all rounds."""

    name: str
    ours: bool
    seconds: float
    cpu_seconds: float
    peak_mb: float
    points: int | None
    written: int | None
    exit_codes: list[int]
    rounds: list[Figures]


def measure(contender: Contender, task: Task) -> Figures:
    """Prepare *contender*'s target and measure its job."""
    log = task.folder / "log"
    with contender.prepare(task) as job:
        parts = [
            _measure(command, job.env, task.folder, log) for command in job.commands
        ]
        codes = [int(part["exit_code"]) for part in parts]
        points = _counted(contender, job.points)
        written = _counted(contender, job.written)
    return Figures(
        seconds=sum(part["seconds"] for part in parts),
        cpu_seconds=sum(part["cpu_seconds"] for part in parts),
        peak_bytes=max(int(part["peak_bytes"]) for part in parts),
        exit_codes=codes,
        points=points,
        written=written,
        said=log.read_text(errors="replace")[-2000:] if any(codes) else "",
    )


def _counted(contender: Contender, count: Callable[[], int] | None) -> int | None:
    try:
        return count() if count else None
    except Exception as error:
        print(f"{contender.name}: {error}", file=sys.stderr)
        return None


def _measure(
    command: Sequence[str], env: dict[str, str], folder: Path, log: Path
) -> dict[str, float]:
    result = folder / "result.json"
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", **env}
    # What pip installs is compiled; a checkout is so from the second start on.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    subprocess.run(
        [sys.executable, "-I", "-S", MEASURE, result, log, *command],
        env=environment,
        cwd=folder,
        check=True,
    )
    figures: dict[str, float] = json.loads(result.read_text())
    return figures


def compare(
    contenders: Sequence[Contender],
    work: Path,
    *,
    runs: int,
    experiments: int,
    rounds: int,
    workers: int | None,
) -> list[Row]:
    """Let *contenders* take turns for as many *rounds*."""
    figures: dict[str, list[Figures]] = {one.name: [] for one in contenders}
    for number in range(rounds):
        for contender in contenders:
            folder = Path(tempfile.mkdtemp(dir=work))
            size = runs * contender.scale
            task = Task(_store(work, size, experiments), size, folder, workers)
            print(
                f"{contender.name} ({number + 1} of {rounds})...",
                file=sys.stderr,
                flush=True,
            )
            try:
                found = measure(contender, task)
            finally:
                shutil.rmtree(folder, ignore_errors=True)
            if found.said:
                print(found.said, file=sys.stderr)
            figures[contender.name].append(found)
    return [_row(contender, figures[contender.name]) for contender in contenders]


def _store(work: Path, runs: int, experiments: int) -> Path:
    folder = work / f"store-{runs}-{experiments}"
    complete = folder / "complete"
    if not complete.exists():
        # Made in place: the artifact URIs inside a store name its own path.
        shutil.rmtree(folder, ignore_errors=True)
        generate(folder / "mlruns", Shape(runs=runs, experiments=experiments))
        complete.touch()
    return folder / "mlruns"


def _row(contender: Contender, rounds: list[Figures]) -> Row:
    return Row(
        name=contender.name,
        ours=contender.ours,
        seconds=statistics.median(one.seconds for one in rounds),
        cpu_seconds=statistics.median(one.cpu_seconds for one in rounds),
        peak_mb=statistics.median(one.peak_bytes for one in rounds) / 1e6,
        points=rounds[-1].points,
        written=rounds[-1].written,
        exit_codes=rounds[-1].exit_codes,
        rounds=rounds,
    )


def table(rows: Sequence[Row]) -> str:
    """Format *rows*, with ratios to the first of them."""
    first = rows[0]
    lines = [
        f"{'':34}{'wall s':>9}{'x':>7}{'cpu s':>9}{'x':>7}{'peak MB':>9}{'x':>7}"
        f"{'points':>11}{'MB out':>9}  exit"
    ]
    for row in rows:
        points = "" if row.points is None else f"{row.points:,}"
        written = "" if row.written is None else f"{row.written / 1e6:.1f}"
        lines.append(
            f"{row.name:34}"
            f"{row.seconds:9.2f}{row.seconds / first.seconds:7.2f}"
            f"{row.cpu_seconds:9.2f}{row.cpu_seconds / first.cpu_seconds:7.2f}"
            f"{row.peak_mb:9.0f}{row.peak_mb / first.peak_mb:7.2f}"
            f"{points:>11}{written:>9}  {' '.join(map(str, row.exit_codes))}"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure side by side.")
    parser.add_argument("scenario", choices=SCENARIOS)
    parser.add_argument("--runs", type=int, default=1000)
    # Over several, as `mlflow migrate-filestore` frees memory between experiments:
    # with all runs in one it needs more than four times as much.
    parser.add_argument("--experiments", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=1, help="turns for each")
    parser.add_argument("--workers", type=int, help="for mlmigrate")
    parser.add_argument("--peers-only", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write figures here")
    parser.add_argument(
        "--work", type=Path, metavar="DIR", help="keep generated stores here"
    )
    options = parser.parse_args()
    contenders = [
        one
        for one in SCENARIOS[options.scenario]
        if not (options.peers_only and one.ours)
    ]
    work = options.work or Path(tempfile.mkdtemp(prefix="mlmigrate-bench-"))
    work.mkdir(parents=True, exist_ok=True)
    try:
        rows = compare(
            contenders,
            work.resolve(),
            runs=options.runs,
            experiments=options.experiments,
            rounds=options.rounds,
            workers=options.workers,
        )
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    print(
        f"{options.scenario}: {options.runs} runs in {options.experiments} experiments,"
        f" {os.cpu_count()} cores"
    )
    print(table(rows))
    if options.json:
        result = {
            "scenario": options.scenario,
            "runs": options.runs,
            "experiments": options.experiments,
            "rounds": options.rounds,
            "cores": os.cpu_count(),
            "rows": [asdict(row) for row in rows],
        }
        options.json.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
