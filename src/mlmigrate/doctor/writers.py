"""The programs that have a file open for writing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

from mlmigrate.doctor.check import Check
from mlmigrate.doctor.places import TRACKING_URI

_PROCESSES = Path("/proc")
_SERVER = re.compile(r"\bmlflow\s+(server|ui)\b|mlflow\.server|mlflow/server")


def diagnose_writers(path: Path) -> Iterator[Check]:
    """Tell whether several programs, such as a server and a training, write a file."""
    if not _PROCESSES.is_dir():
        return
    holders = _holders(path)
    programs = {_program(pid, holders) for pid in holders}
    names = ", ".join(f"{_command(pid)} (pid {pid})" for pid in sorted(programs))
    if len(programs) < 2:
        what = (
            f"one program has {path} open: {names}" if names else "nobody has it open"
        )
        yield Check("writers", True, what)
        return
    what = f"{len(programs)} programs have {path} open for writing: {names}"
    fix = f"let only the server open it: {TRACKING_URI}=http://HOST:PORT for all others"
    yield Check("writers", False, what, fix)


def _holders(path: Path) -> set[int]:
    """Return the processes, but this one, that have a file open for writing."""
    real = os.path.realpath(path)
    found = set()
    for folder in _PROCESSES.glob("[0-9]*"):
        if int(folder.name) == os.getpid():
            continue
        try:
            for entry in (folder / "fd").iterdir():
                if os.readlink(entry) == real and _writes(
                    folder / "fdinfo" / entry.name
                ):
                    found.add(int(folder.name))
        except OSError:  # another user's, or gone
            continue
    return found


def _writes(info: Path) -> bool:
    flags = re.search(r"^flags:\s*([0-7]+)", info.read_text(), re.M)
    return flags is not None and int(flags.group(1), 8) & os.O_ACCMODE != os.O_RDONLY


def _program(pid: int, holders: set[int]) -> int:
    """Return the first process of the program that *pid* is one of.

    A server and its workers are one program; so are a training and its data loaders.
    """
    first, at = pid, pid
    while at > 1:
        if at in holders or _is_server(_arguments(at)):
            first = at
        try:
            stat = (_PROCESSES / str(at) / "stat").read_text()
        except OSError:
            break
        at = int(stat.rpartition(")")[2].split()[1])
    return first


def _is_server(arguments: list[str]) -> bool:
    # A shell's command may name a server, too, and start others beside it.
    program = os.path.basename(arguments[0]) if arguments else ""
    started = program.startswith(("python", "mlflow", "gunicorn", "uvicorn"))
    return started and _SERVER.search(" ".join(arguments)) is not None


def _arguments(pid: int) -> list[str]:
    try:
        line = (_PROCESSES / str(pid) / "cmdline").read_bytes()
    except OSError:
        return []
    return line.decode(errors="replace").rstrip("\0").split("\0")


def _command(pid: int) -> str:
    """Return a program's name, without the arguments: they may hold secrets."""
    words = [os.path.basename(word) for word in _arguments(pid)[:3]]
    plain = (word for word in words if re.fullmatch(r"\w[\w.+-]*", word))
    return " ".join(plain)[:60] or "?"
