"""Artifact files are written whole or not at all."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlmigrate.artifacts import list_folder, write_file

_KILLED_WHILE_WRITING = """
import io, os, signal, sys
from pathlib import Path
from mlmigrate.artifacts import write_file

class Deadly(io.BytesIO):
    def read(self, size=-1):
        if self.tell():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(7)

write_file(Path(sys.argv[1]), "sub/file", Deadly(b"x" * 100))
"""


class TestWriteFile:
    def test_a_kill_leaves_no_artifact(self, tmp_path: Path) -> None:
        """What a killed process had written is no artifact, and the next one's work
        removes it.
        """
        root = tmp_path / "run" / "artifacts"
        command = [sys.executable, "-c", _KILLED_WHILE_WRITING, str(root)]
        killed = subprocess.run(command, check=False)
        assert -signal.SIGKILL == killed.returncode
        assert 1 == len([path for path in root.parent.rglob("*") if path.is_file()])
        assert ([], []) == list_folder(root, "run")

        write_file(root, "sub/file", io.BytesIO(b"whole"))

        left = [path for path in root.parent.rglob("*") if path.is_file()]
        assert [root / "sub" / "file"] == left
        assert b"whole" == left[0].read_bytes()

    def test_another_writer_is_left_alone(self, tmp_path: Path) -> None:
        """A file that somebody is writing is not taken for an abandoned one."""
        root = tmp_path / "run" / "artifacts"
        begun, go_on = threading.Event(), threading.Event()

        class Slow(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                begun.set()
                go_on.wait(30)
                return super().read(size)

        slow = threading.Thread(target=write_file, args=(root, "a", Slow(b"slow")))
        slow.start()
        try:
            assert begun.wait(30)
            write_file(root, "b", io.BytesIO(b"quick"))
        finally:
            go_on.set()
            slow.join()

        assert b"slow" == (root / "a").read_bytes()
        assert b"quick" == (root / "b").read_bytes()
        assert ["artifacts"] == [path.name for path in root.parent.iterdir()]

    def test_a_failure_leaves_nothing(self, tmp_path: Path) -> None:
        """A source that breaks off leaves no file, and the old one stands."""
        root = tmp_path / "run" / "artifacts"
        write_file(root, "a", io.BytesIO(b"old"))

        class Broken(io.BytesIO):
            def read(self, size: int | None = -1) -> bytes:
                if self.tell():
                    raise OSError("broke off")
                return super().read(2)

        with pytest.raises(OSError, match="broke off"):
            write_file(root, "a", Broken(b"new one"))

        files = [path for path in tmp_path.rglob("*") if path.is_file()]
        assert [root / "a"] == files
        assert b"old" == (root / "a").read_bytes()
