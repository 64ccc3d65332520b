"""An archive of format 1, made once: every later mlmigrate reads it as it was meant."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from golden.make import BARE, OLD, plain, told
from support import reading
from support.archives import rows_of
from support.command_line import Cli

import mlmigrate
from mlmigrate.locations import resolve
from mlmigrate.model import KINDS
from mlmigrate.stores import memory
from mlmigrate.testing.suite import MemorySources, experiment

GOLDEN = Path(__file__).parent / "golden" / "format-1"
EXPECTED = json.loads((GOLDEN / "expected.json").read_text())
FIRST = json.loads((GOLDEN / "archive" / "mlmigrate.json").read_text())["segments"][0]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    shutil.copytree(GOLDEN / "archive", tmp_path / "archive")
    return tmp_path / "archive"


def held(archive: Path, *options: str) -> tuple[Any, list[Any]]:
    """Return all that is read, as the expected values are written, and the findings."""
    with closing(resolve(str(archive), options).source()) as store:
        items = [item for kind in KINDS for item in reading.held(store, kind)]
        files = {
            (item.ref, path): data
            for item in items
            for path, data in reading.contents(store, item).items()
        }
        return jsonable(told(items, files)), [plain(each) for each in store.findings()]


def jsonable(value: Any) -> Any:
    return json.loads(json.dumps(value))


def test_it_is_read_as_it_was_written(archive: Path) -> None:
    """Every value of every record, and every byte of every artifact."""
    found, findings = held(archive)

    assert EXPECTED["live"] == found
    assert EXPECTED["findings"] == findings


def test_its_first_state(archive: Path) -> None:
    """Also as of its first segment."""
    found, findings = held(archive, f"as-of={FIRST['time']}")

    assert EXPECTED["first"] == found
    assert EXPECTED["findings"] == findings


def test_it_is_whole(archive: Path, cli: Cli) -> None:
    """Its checksums are computed as they were."""
    code, said = cli("check", archive, "--json")

    assert (0, [], []) == (code, said["damaged"], said["notes"])


def test_it_goes_on(archive: Path, cli: Cli, sources: MemorySources) -> None:
    """Exported into again, it holds what it held."""
    code, said = cli("export", sources(experiment("8", "new")), archive, "--json")
    assert (0, {"experiment": 1}) == (code, said["copied"])
    found, _ = held(archive)
    del found["items"]["experiment/8"]

    assert EXPECTED["live"] == found
    assert 0 == cli("check", archive, "--json")[0]


def test_restored(archive: Path, sources: MemorySources) -> None:
    """Copied to a sink that holds everything, nothing is missing."""
    target = sources()
    mlmigrate.copy([str(archive)], target)
    contents = memory.contents(target)

    assert EXPECTED["live"]["items"].keys() == {str(ref) for ref in contents.items}
    assert EXPECTED["live"]["artifacts"] == {
        f"{ref}: {path}": b64encode(data).decode()
        for (ref, path), data in contents.blobs.items()
    }


def test_what_plain_tools_see(archive: Path) -> None:
    """The odd values as they stand in the tables."""
    odd = rows_of(archive, "metrics", "run", OLD)
    points = [(each["step"], each["timestamp"], str(each["value"])) for each in odd]
    now = 1_700_000_000_000
    (left,) = rows_of(archive, "artifacts", "run", BARE)
    params = {
        each["key"]: each["value"] for each in rows_of(archive, "params", "run", OLD)
    }

    assert {
        (-5, -1, "-0.0"),
        (0, 0, "-inf"),
        (0, now, "inf"),
        (0, now, "nan"),
        (2**62, now, "5e-324"),
    } == set(points)
    assert (12, None) == (left["size"], left["sha256"])
    assert {
        "": "no key",
        "nul\0": "lone \U0010ffffd800, \U0010ffffffff and 🚀",
    } == params


@pytest.fixture
def with_models(tmp_path: Path) -> Path:
    place = Path(__file__).parent / "golden" / "format-1-logged-models"
    shutil.copytree(place, tmp_path / "models")
    return tmp_path / "models"


def test_logged_models_are_read_as_they_were_written(with_models: Path) -> None:
    """Their points by run and dataset, their artifacts, and links of runs."""
    found, findings = held(with_models / "archive")
    expected = json.loads((with_models / "expected.json").read_text())

    assert expected["live"] == found
    assert expected["findings"] == findings


def test_an_archive_of_logged_models_is_whole(with_models: Path, cli: Cli) -> None:
    code, said = cli("check", with_models / "archive", "--json")

    assert (0, [], []) == (code, said["damaged"], said["notes"])
