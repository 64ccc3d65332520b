"""Killed where a file gets or loses its name, and run again: as if nothing happened.

Kills at random moments (`test_resume`, `test_archive_kills`) find what takes long, and
those between a sink's own calls (`test_killed`) what it leaves undone; here the process
of every sink of files ends within a call, the last ones of a copy among them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support._processes import clean_environment
from support.fixture_stores import FIXTURES

# Kills itself at the call of that number; tells how many there were.
_COMMAND = """
import atexit, os, signal, sys

at, calls, copying = int(sys.argv.pop(1)), 0, os.getpid()

def counted(call):
    def count(*arguments, **options):
        global calls
        calls += os.getpid() == copying
        if calls == at:
            os.kill(copying, signal.SIGKILL)
        return call(*arguments, **options)
    return count

for name in ("replace", "rename", "link", "unlink"):
    setattr(os, name, counted(getattr(os, name)))
atexit.register(lambda: print(calls, file=sys.stderr))

from mlmigrate.cli import main
main()
"""
# The calls at which a copy is killed: these many in all, the last one among them.
POINTS = 4
_SOURCES = [str(FIXTURES / name / "mlruns") for name in ("laptop-3.1", "cluster-2.9")]
_SINKS = {
    "archive": ["archive:{}/archive"],
    "mlflow_db": ["sqlite:///{}/sink.db", "-o", "artifact-root={}/artifacts"],
    "neptune_offline": ["neptune-offline:{}/neptune"],
    "wandb_offline": ["wandb-offline:{}/wandb"],
}


def _copy(sink: str, folder: Path, kill_at: int) -> subprocess.CompletedProcess[str]:
    arguments = [argument.format(folder / "sink") for argument in _SINKS[sink]]
    (folder / "tmp").mkdir(parents=True, exist_ok=True)
    return subprocess.run(
        [sys.executable, "-c", _COMMAND, str(kill_at), "copy", *_SOURCES, *arguments],
        capture_output=True,
        text=True,
        env=clean_environment({"TMPDIR": str(folder / "tmp")}),
        timeout=240,
    )


def _tree(folder: Path) -> list[str]:
    root = folder / "sink"
    return sorted(str(path.relative_to(root)) for path in root.rglob("*"))


@pytest.mark.parametrize("sink", _SINKS)
def test_same_files(sink: str, tmp_path: Path) -> None:
    """Nothing is missing, and nothing half-written is left."""
    _copy(sink, tmp_path / "first", 0)  # MLflow's tables are made once
    whole = _copy(sink, tmp_path / "whole", 0)
    expected = _tree(tmp_path / "whole")
    calls = int(whole.stderr.split()[-1])
    assert calls > POINTS, whole.stderr
    assert expected
    torture = "MLMIGRATE_KILLS" in os.environ
    step = 1 if torture else calls // POINTS
    for call in range(calls, 0, -step):
        folder = tmp_path / f"killed-{call}"
        killed = _copy(sink, folder, call)
        assert -signal.SIGKILL == killed.returncode, (call, killed.stderr)
        _copy(sink, folder, 0)

        assert expected == _tree(folder), f"killed at call {call} of {calls}"
