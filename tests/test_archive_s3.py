"""Archives in an object store: a real S3-speaking server on loopback."""

from __future__ import annotations

import json
import random
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from support import servers
from support.command_line import Cli
from support.reading import digests_at
from support.s3 import S3

import mlmigrate
from mlmigrate import api
from mlmigrate.errors import MlmigrateError
from mlmigrate.model import Artifact, Ref
from mlmigrate.stores import memory
from mlmigrate.stores.archive.remote import Remote
from mlmigrate.testing.suite import MemorySources, everything, experiment, run
from mlmigrate.testing.workspaces import housed


@pytest.fixture(params=["arrow", "s3fs"])
def bucket(
    request: pytest.FixtureRequest, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> str:
    """A bucket, reached by s3fs where that is installed, else by Arrow's client."""
    if request.param == "s3fs":
        pytest.importorskip("s3fs")
    else:
        known = import_module("fsspec.registry")._registry
        monkeypatch.delitem(known, "s3", raising=False)
        monkeypatch.setitem(sys.modules, "s3fs", None)
    return s3.make_bucket("backup")


def test_there_and_back(
    bucket: str, sources: MemorySources, tmp_path: Path, cli: Cli
) -> None:
    """export, check, verify, restore and export again, all over S3."""
    items, files = everything()
    big = run("b" * 32, artifacts=(Artifact("big.bin", 12 << 20),))
    files[big.ref, "big.bin"] = random.Random(1).randbytes(12 << 20)
    source = sources(*items, big, files=files)
    archive = f"{bucket}/team a/archive"
    used = type(Remote(archive)._files).__module__
    assert used.startswith("s3fs") == ("s3fs" in str(sys.modules.get("s3fs")))
    code, said = cli("export", source, archive, "--json")
    assert (0, []) == (code, said["failed"]), said
    place = f"archive:{archive}"
    assert digests_at(source) == digests_at(place)
    assert 0 == cli("verify", source, place, "--json")[0]
    code, said = cli("check", archive, "--json")
    assert (0, [], []) == (code, said["damaged"], said["notes"])

    sink = servers.fresh_database(tmp_path / "sink.db")
    code, said = cli("copy", place, sink, "--json")
    assert (0, 4) == (code, said["artifacts"]["files"])
    assert api.verify([source], sink).exit_code == 0
    _, again = cli("export", source, place, "--json")
    assert ({}, {}) == (again["copied"], again["updated"])

    sources.put(source, run("c" * 32))
    _, more = cli("export", source, archive, "--json")
    assert {"run": 1} == more["copied"]
    assert digests_at(source) == digests_at(place)
    names = [path for path, _ in Remote(archive).files()]
    assert not [path for path in names if "partial" in path or "lock" in path]


def test_workspaces(bucket: str, sources: MemorySources, cli: Cli) -> None:
    """Each is an archive of its own, below the default one's."""
    source, place = housed(sources), f"archive:{bucket}/archive"
    code, said = cli("export", source, place, "--verify", "--json")
    assert (0, 2, {}) == (code, said["copied"]["run"], said["verify"]["extra"])
    assert ["team-a"] == Remote(f"{bucket}/archive").folders("workspaces")
    assert 2 == mlmigrate.inspect(place)["runs"]["active"]
    assert 1 == mlmigrate.inspect(place, "workspace=team-a")["runs"]["active"]
    code, said = cli("check", place, "--json")
    assert (0, [], []) == (code, said["damaged"], said["notes"])
    _, again = cli("export", source, place, "--json")
    assert ({}, {}) == (again["copied"], again["updated"])


def test_damage(bucket: str, sources: MemorySources, cli: Cli) -> None:
    """What was changed or lost in the store is found, and costs no more."""
    items, files = everything()
    archive = f"{bucket}/archive"
    cli("export", sources(*items, files=files), archive, "--json")
    remote = Remote(archive)
    for path, size in list(remote.files()):
        with remote.open(path) as file:
            whole = file.read()
        assert len(whole) == size
        remote.delete(path)
        found = cli("check", archive, "--json")[1]["damaged"]
        assert [path] == [each["where"] for each in found]
        if whole:
            broken = bytearray(whole)
            broken[len(whole) // 3] ^= 4
            remote.replace(path, bytes(broken))
            found = cli("check", archive, "--json")[1]["damaged"]
            assert [path] == [each["where"] for each in found]
        remote.replace(path, whole)
    blob = next(path for path, size in remote.files("blobs") if size == 1)
    remote.delete(blob)
    target = sources()
    code, said = cli("copy", f"archive:{archive}", target, "--json")

    assert (3, []) == (code, said["failed"])
    assert "is missing" in said["problems"][0]["what"]
    assert 2 == len(
        memory.contents(target).items[Ref("run", items[1].ref.id)].artifacts
    )


def test_lock(bucket: str, sources: MemorySources, cli: Cli) -> None:
    """A second export is refused; a stale lock is taken over."""
    source, archive = sources(experiment()), f"{bucket}/archive"
    remote = Remote(archive)
    owner: dict[str, Any] = {"id": "x", "host": "elsewhere", "pid": 1, "user": "mei"}
    for time, expected in (("2999-01-01T00:00:00Z", 1), ("2020-01-01T00:00:00Z", 0)):
        lock = json.dumps({**owner, "since": time, "time": time}).encode()
        remote.replace("mlmigrate.lock", lock)
        code, said = cli("export", source, archive)

        assert expected == code, said
        assert "mei@elsewhere" in said
    assert remote.size("mlmigrate.lock") is None


def test_nowhere(bucket: str, cli: Cli, sources: MemorySources) -> None:
    """What is not there is an error of ours, without a secret."""
    for url in (f"{bucket}/absent", "s3://no-such-bucket/x"):
        code, said = cli("copy", f"archive:{url}", sources())
        assert code == 1
        assert "Traceback" not in said
    code, said = cli("copy", "archive:nosuch://x/y", sources())
    assert code == 2
    with pytest.raises(MlmigrateError):
        mlmigrate.copy([sources(experiment())], "archive:s3://no-such-bucket/x")


def test_other_stores(sources: MemorySources) -> None:
    """Whatever fsspec speaks: its own memory, here."""
    items, files = everything()
    source, target = sources(*items, files=files), sources()
    mlmigrate.copy([source], "archive:memory://backup/one")
    mlmigrate.copy(["archive:memory://backup/one"], target)

    assert digests_at(source) == digests_at(target)
    assert files == memory.contents(target).blobs
