"""Projects at Neptune's servers, of 2.x and of 3.x, read; and the ways to both."""

from __future__ import annotations

import base64
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support import copies
from support.neptunes import Neptune
from support.reading import header, held_at

import mlmigrate
from mlmigrate.errors import LocationError, StoreError, StoreNotFound
from mlmigrate.locations import resolve
from mlmigrate.model import Failed
from mlmigrate.stores.neptune_server import access
from mlmigrate.testing import suite
from mlmigrate.testing.suite import RUN, MemorySources

BOTH = pytest.mark.parametrize("scheme", ["neptune", "neptune3"])


def test_trash_and_projects(neptune: Neptune) -> None:
    thrown_away = neptune.add_run("team/proj", "x", {"a": 1})
    setattr(thrown_away, neptune.trashed, True)
    neptune.add_run("team/other", "x", {"a": 2})
    (here,) = held_at(neptune.sink).values()
    (other,) = held_at(neptune.location("other")).values()
    assert ("deleted", "active") == (header(here).lifecycle, header(other).lifecycle)
    assert here.origin != other.origin


def token(said: Any) -> str:
    return base64.b64encode(json.dumps(said).encode()).decode()


class TestRefusals:
    @BOTH
    @pytest.mark.parametrize(
        ("given", "said"),
        [
            ("", "NEPTUNE_API_TOKEN is not set"),
            ("s3cr3t!", "is no token of Neptune's"),
            ("czNjcjN0", "is no token of Neptune's"),
            (token(["s3cr3t"]), "is no token of Neptune's"),
            (token({"api_key": "s3cr3t"}), "is no token of Neptune's"),
            ("ANONYMOUS", "ended on 2026-03-05"),
            (
                token({"api_url": "https://app.neptune.ai", "api_key": "s3cr3t"}),
                "neptune-export:FOLDER",
            ),
            (
                token({"api_address": "https://ui.neptune.ai", "api_key": "s3cr3t"}),
                "neptune-offline:FOLDER",
            ),
        ],
    )
    def test_tokens(
        self, monkeypatch: pytest.MonkeyPatch, scheme: str, given: str, said: str
    ) -> None:
        """It is said what is wrong, nothing of it is shown, and nothing leaves."""
        monkeypatch.setenv("NEPTUNE_API_TOKEN", given)
        monkeypatch.setattr("socket.socket.connect", _no_network)
        there = resolve(f"{scheme}://team/proj")
        for opening in (there.source, there.sink):
            with pytest.raises(StoreError) as caught:
                opening()
            assert said in str(caught.value)
            assert "s3cr3t" not in str(caught.value)
            assert not given or given == "ANONYMOUS" or given not in str(caught.value)

    def test_a_token_that_the_server_does_not_know(
        self, neptune: Neptune, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        url = neptune.server.url
        wrong = token({"api_address": url, "api_url": url, "api_key": "s3cr3t"})
        monkeypatch.setenv("NEPTUNE_API_TOKEN", wrong)
        with pytest.raises(StoreError, match="NEPTUNE_API_TOKEN") as caught:
            resolve(neptune.sink).source()
        said = str(caught.value)
        assert "\x1b" not in said
        assert neptune.unknown in said.removeprefix("the Neptune server that")
        assert "s3cr3t" not in said
        assert wrong not in said

    def test_a_project_that_is_not_there(self, neptune: Neptune) -> None:
        neptune.server.missing.add("team/proj")
        with pytest.raises(StoreNotFound, match="no such project"):
            resolve(neptune.sink).source()

    @BOTH
    @pytest.mark.parametrize(
        "place", ["", "team", "a/b/c", "a b/c", "team/proj\n", "/proj", "team/p?x=1"]
    )
    def test_locations(self, scheme: str, place: str) -> None:
        with pytest.raises(LocationError, match=f"{scheme}://WORKSPACE/PROJECT"):
            access.place_of(f"{scheme}://{place}")

    def test_no_client(self, neptune: Neptune, monkeypatch: pytest.MonkeyPatch) -> None:
        found = importlib.util.find_spec
        monkeypatch.setattr(
            access,
            "find_spec",
            lambda name: None if name == neptune.package else found(name),
        )
        wanted = rf"pip install 'mlmigrate\[{neptune.scheme}\]'"
        with pytest.raises(StoreError, match=wanted):
            resolve(neptune.sink).source()

    def test_an_id_that_is_taken(
        self, sources: MemorySources, neptune: Neptune
    ) -> None:
        """Another's run is never written to; a salt gives the copy another id."""
        held = neptune.add_run("team/proj", RUN, {"theirs": 1})
        origin = sources(suite.experiment(), suite.run())
        (failed,) = copies.copied(origin, neptune.sink).of(Failed)
        assert "is no copy of" in failed.why
        assert "-o id-salt" in failed.why
        assert ["theirs"] == [p for p in held.attributes if not p.startswith("sys/")]
        assert [] == copies.copied(origin, neptune.sink, ["id-salt=2"]).of(Failed)


def _no_network(*args: Any) -> None:
    raise AssertionError("nothing may leave")


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "mlmigrate", *arguments]


class TestProcesses:
    def test_json_is_alone_on_stdout(self, neptune: Neptune, tmp_path: Path) -> None:
        """Whatever the client says, also where it is refused."""
        archive = tmp_path / "archive"
        made = MemorySources()
        run = suite.run(metrics=(suite.points("m", (0, 1.0)),))
        mlmigrate.copy([made(suite.experiment(), run)], f"archive:{archive}")
        for arguments in (
            ["copy", f"archive:{archive}", neptune.sink, "--verify", "--json"],
            ["inspect", neptune.sink, "--json"],
        ):
            done = subprocess.run(
                command(*arguments),
                capture_output=True,
                text=True,
                env={**os.environ, **neptune.environment()},
                check=False,
            )
            assert 0 == done.returncode, done.stderr
            assert isinstance(json.loads(done.stdout), dict)
            assert neptune.server.api_key not in done.stdout + done.stderr
            assert neptune.server.api_token not in done.stdout + done.stderr

    def test_killed_again_and_again(self, neptune: Neptune, tmp_path: Path) -> None:
        """However often it was killed, it comes to the same end."""
        archive = tmp_path / "archive"
        made = MemorySources()
        loss = suite.points("m", *((step, step / 7) for step in range(3000)))
        runs = [suite.run(f"{n:032x}", metrics=(loss,)) for n in range(4)]
        origin = made(suite.experiment(), *runs, *suite.everything()[0][-1:])
        mlmigrate.copy([origin], f"archive:{archive}")
        arguments = ["copy", f"archive:{archive}", neptune.sink, "-o", "threads=2"]
        for writes in (1, 4, 10):
            process = subprocess.Popen(
                command(*arguments),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env={**os.environ, **neptune.environment()},
            )
            begin = neptune.server.count(neptune.bringing)
            while process.poll() is None:
                if neptune.server.count(neptune.bringing) - begin >= writes:
                    process.send_signal(signal.SIGKILL)
                time.sleep(0.002)
            process.wait()
        assert [] == copies.copied(f"archive:{archive}", neptune.sink).of(Failed)
        assert [] == copies.differences(f"archive:{archive}", neptune.sink)
        found = neptune.project()
        if neptune.has_models:
            assert (4, 1) == (len(found.runs), len(found.models))
        else:
            assert 5 == len(found.runs)  # and that which tells of the experiment
        for run in runs:
            held = neptune.run(run.ref.id)
            assert list(range(3000)) == [p.step for p in held.points("metrics/m")]
        again = copies.copied(f"archive:{archive}", neptune.sink)
        assert {"skipped"} == set(again.counts())
        assert {run.ref.id for run in runs} == held_at(neptune.sink).keys()
