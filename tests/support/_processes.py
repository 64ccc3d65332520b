"""Child processes which are ready when yielded and entirely gone afterwards."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import ProxyHandler, build_opener

#: What a developer has set for their own stores must not reach a test.
FOREIGN_PREFIXES = ("MLFLOW_", "AWS_", "WANDB_", "NEPTUNE_", "_MLFLOW_")

QUIET = {"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"}

_direct = build_opener(ProxyHandler({}))


class StartError(Exception):
    """A part did not come up; the message holds the end of its log."""


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return this process's environment without settings for any tracking system."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(FOREIGN_PREFIXES)}
    return {**kept, **QUIET, **(extra or {})}


def run_module(
    module: str, *arguments: str, cwd: Path, extra: Mapping[str, str] | None = None
) -> str:
    """Run one of these modules in a process of its own, and return what it prints."""
    environment = clean_environment(extra)
    path = [str(Path(__file__).parents[1]), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, path))
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env=environment,
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def reserved_port() -> Iterator[int]:
    """
    Yield a loopback port which no one else is given while the block runs.

    A bound socket that does not listen keeps the kernel from handing the port out
    again, yet lets a server bind it. Only Linux is that lenient; elsewhere the port
    is merely likely to stay free.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        port: int = holder.getsockname()[1]
        if sys.platform != "linux":
            holder.close()
        yield port


@contextmanager
def child(
    command: Sequence[str | Path],
    *,
    ready: Callable[[], bool],
    log: Path,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    patience: float = 120,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run *command* in a process group of its own, from when *ready* says so."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=clean_environment(env),
            start_new_session=True,
        )
    try:
        _wait(process, ready, log, patience)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes], patience: float = 10) -> None:
    """End *process* and all that it started: politely, then for certain."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
    # Also when the leader has gone by itself: its workers may outlive it.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def answers(url: str) -> bool:
    """Tell whether a GET of *url* is answered, with any status below 500."""
    try:
        with _direct.open(url, timeout=5):
            return True
    except HTTPError as error:
        error.close()
        return error.code < 500
    except (URLError, OSError):
        return False


def _wait(
    process: subprocess.Popen[bytes],
    ready: Callable[[], bool],
    log: Path,
    patience: float,
) -> None:
    deadline = time.monotonic() + patience
    while True:
        code = process.poll()
        if code is not None:
            raise StartError(f"{_name(process)} ended with {code}:\n{_tail(log)}")
        if ready():
            return
        if time.monotonic() > deadline:
            raise StartError(
                f"{_name(process)} is not ready after {patience} s:\n{_tail(log)}"
            )
        time.sleep(0.1)


def _name(process: subprocess.Popen[bytes]) -> str:
    words = process.args
    return " ".join(map(str, words)) if isinstance(words, list) else str(words)


def _tail(log: Path, lines: int = 40) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-lines:])
