"""The files of a run: those saved with it, and those of the artifacts it logged."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias, cast

from mlmigrate.errors import ItemError
from mlmigrate.model import Finding, Problem
from mlmigrate.stores.wandb_cloud.client import asking
from mlmigrate.wandb_runs import bundles

#: What a run's artifacts are beside their files.
ARTIFACTS = "wandb/artifacts.json"
#: Files that W&B's client leaves with every run.
CLIENT_FILES = (
    "config.yaml",
    "requirements.txt",
    "wandb-metadata.json",
    "wandb-summary.json",
)
#: W&B makes such artifacts of the history by itself.
_HISTORY_TYPES = ("wandb-history", "wandb-events")

#: Downloads a file into a folder, and returns where it is.
Fetch: TypeAlias = Callable[[Path], Path]


@dataclass(frozen=True, slots=True)
class Found:
    """A file of a run, which is fetched when it is opened."""

    size: int  # bytes
    fetch: Fetch


def saved_files(run: Any) -> dict[str, Found]:
    """List what was saved with a run, by path: media, the console, the client's own."""
    return {
        str(file.name): Found(int(file.size), _fetching(file)) for file in run.files()
    }


def _fetching(file: Any) -> Fetch:
    def fetch(folder: Path) -> Path:
        file.download(root=str(folder), replace=True).close()
        return folder / str(file.name)

    return fetch


def logged_artifacts(run: Any) -> list[Any]:
    """Return the artifact versions that a run logged and committed, oldest first,
    without what W&B makes of the history by itself.
    """
    found = [
        artifact for artifact in _committed(run) if artifact.type not in _HISTORY_TYPES
    ]
    return sorted(found, key=_version)


def _committed(run: Any) -> list[Any]:
    """Return the artifact versions that a run logged, without those that were never
    committed: a page with one of them is more than the client can read.
    """
    try:
        return [each for each in run.logged_artifacts() if each.state == "COMMITTED"]
    except AssertionError:
        pages = run.logged_artifacts(per_page=1)
    found = []
    while True:
        try:
            found.append(next(pages))
        except StopIteration:
            return found
        except AssertionError:
            pages.index -= 1  # the page is passed, and gave nothing


def _version(artifact: Any) -> int:
    text = str(artifact.source_version).removeprefix("v")
    return int(text) if text.isdigit() else -1


def name_of(artifact: Any) -> str:
    """Return an artifact's name without its version."""
    return str(artifact.source_name).rpartition(":")[0]


def artifact_files(
    artifacts: Iterable[Any], where: str
) -> tuple[dict[str, Found], list[Finding]]:
    """List the files of artifact versions, oldest first. What mlmigrate made of a run's
    files gets the paths that they had; all others get ``artifacts/NAME/PATH``, of which
    an earlier version's become ``artifacts/NAME@v0/PATH``.
    """
    found: dict[str, Found] = {}
    findings: list[Finding] = []
    last: dict[str, Any] = {name_of(each): each for each in artifacts}
    for artifact in artifacts:
        name = name_of(artifact)
        if bundles.is_record(artifact.type):
            continue
        folder = name if last[name] is artifact else f"{name}@{artifact.source_version}"
        for path, entry in artifact.manifest.entries.items():
            if entry.ref:
                continue  # it was never a file of the run's: see `ARTIFACTS`
            was = bundles.original_path(artifact.type, artifact.metadata, path)
            to = f"artifacts/{folder}/{path}" if was is None else was
            if ".." in to.split("/"):
                what = f"artifact {name!r}: {path!r} leads out of it: not copied"
                findings.append(Problem(where, what))
                continue
            found[to] = Found(int(entry.size or 0), _entry_fetching(artifact, path))
    return found, findings


def _entry_fetching(artifact: Any, path: str) -> Fetch:
    def fetch(folder: Path) -> Path:
        entry = artifact.get_entry(path)
        return Path(entry.download(root=str(folder), skip_cache=True))

    return fetch


def about_artifacts(logged: Iterable[Any], used: Iterable[Any]) -> str:
    """Return the text of `ARTIFACTS`; empty where there are none."""
    said: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for artifact in logged:
        references = {
            path: entry.ref
            for path, entry in artifact.manifest.entries.items()
            if entry.ref
        }
        said["logged"].append({**_about(artifact), "references": references})
    for artifact in used:
        said["used"].append(_about(artifact))
    return json.dumps(said, indent=1, sort_keys=True) + "\n" if said else ""


def _about(artifact: Any) -> dict[str, Any]:
    return {
        "name": str(artifact.source_qualified_name),
        "type": artifact.type,
        "digest": artifact.digest,
        "description": artifact.description,
        "metadata": artifact.metadata,
        "aliases": sorted(artifact.aliases),
        "tags": sorted(artifact.tags),
        "created_at": artifact.created_at,
    }


def made(text: str) -> Found:
    """Return a file whose text is known."""
    data = text.encode("utf-8", "backslashreplace")

    def fetch(folder: Path) -> Path:
        place = folder / "made"
        place.write_bytes(data)
        return place

    return Found(len(data), fetch)


def opened(
    found: Mapping[str, Found], path: str, where: str, *, temporary: str | None
) -> BinaryIO:
    """Open one of a run's files, fetched into a folder in *temporary*.

    Raises:
        ItemError: there is none of that path, or it cannot be had.
        OSError: it cannot be read.
    """
    file = found.get(path)
    if file is None:
        raise ItemError(f"{where} has no artifact {path!r}")
    folder = Path(tempfile.mkdtemp(prefix="mlmigrate-wandb-file-", dir=temporary))
    try:
        with asking(f"{where}: artifact {path!r}"):
            place = file.fetch(folder)
        return cast("BinaryIO", _Passing(place, folder))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


class _Passing(io.FileIO):
    """A file that is gone, with its folder, once it is closed."""

    def __init__(self, place: Path, folder: Path) -> None:
        super().__init__(place, "rb")
        self._folder = folder

    def close(self) -> None:
        super().close()
        shutil.rmtree(self._folder, ignore_errors=True)
