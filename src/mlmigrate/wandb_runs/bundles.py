"""A run's files as W&B artifacts: one for each model, and one for all others."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b, md5
from pathlib import PurePosixPath
from typing import Any, BinaryIO

from mlmigrate.artifacts import CHUNK
from mlmigrate.model import Artifact

#: The types of W&B artifacts that mlmigrate makes.
FILES, MODEL, RECORD = "mlflow-artifacts", "model", "mlmigrate-record"
#: The key of an artifact's metadata that tells which folder of the run it was.
FOLDER = "mlflow_path"

_MODEL_FILE = "MLmodel"
_LONGEST_NAME = 128
_BAD_IN_NAME = re.compile(r"[^A-Za-z0-9_.-]")


@dataclass(frozen=True, slots=True)
class Bundle:
    """The files of a run that become one W&B artifact."""

    name: str
    type: str
    folder: str  # below the run's artifacts; '' for all of them
    files: tuple[Artifact, ...]

    @property
    def metadata(self) -> dict[str, Any]:
        """What W&B shows of the artifact, from which it is read back."""
        return {FOLDER: self.folder}

    def inside(self, path: str) -> str:
        """Return the path within the bundle of a file of the run."""
        return path.removeprefix(f"{self.folder}/") if self.folder else path


def bundles(run_id: str, files: Sequence[Artifact]) -> list[Bundle]:
    """Divide the files of a run: a folder that MLflow saved a model in is one."""
    models = {
        str(PurePosixPath(file.path).parent)
        for file in files
        if PurePosixPath(file.path).name == _MODEL_FILE
    } - {"."}
    # A model within a model belongs to the outer one.
    outer = sorted(
        folder
        for folder in models
        if not any(str(above) in models for above in PurePosixPath(folder).parents)
    )
    parts: dict[str, list[Artifact]] = {folder: [] for folder in outer}
    rest: list[Artifact] = []
    for file in files:
        above = next(
            (
                str(each)
                for each in PurePosixPath(file.path).parents
                if str(each) in parts
            ),
            None,
        )
        (rest if above is None else parts[above]).append(file)
    found = [
        Bundle(model_name(run_id, folder), MODEL, folder, tuple(part))
        for folder, part in parts.items()
    ]
    if rest:
        found.append(Bundle(_name(run_id, "artifacts"), FILES, "", tuple(rest)))
    return found


def model_name(run_id: str, folder: str) -> str:
    """Return the name of the artifact that holds a model of a run's."""
    return _name(run_id, folder)


def record_name(run_id: str) -> str:
    """Return the name of the artifact that holds a run's record."""
    return _name(run_id, "record")


def _name(run_id: str, what: str) -> str:
    return plain_name(f"{run_id}-{what}")


def plain_name(name: str) -> str:
    """Return a name that W&B takes for an artifact: *name* itself where it does."""
    plain = _BAD_IN_NAME.sub("-", name)
    if plain == name and 0 < len(plain) <= _LONGEST_NAME:
        return plain
    tail = "-" + blake2b(name.encode(), digest_size=4).hexdigest()
    return plain[: _LONGEST_NAME - len(tail)] + tail


def original_path(type: str, metadata: Any, path: str) -> str | None:
    """Return where a file of an artifact that mlmigrate made lay in the run; None for
    an artifact of another make, or the record.
    """
    if isinstance(metadata, str):
        try:
            metadata = json.loads(metadata)
        except (ValueError, RecursionError):
            return None
    folder = metadata.get(FOLDER) if isinstance(metadata, dict) else None
    if type not in (FILES, MODEL) or not isinstance(folder, str):
        return None
    return f"{folder}/{path}" if folder else path


def content_digest(data: BinaryIO) -> str:
    """Return the digest that W&B has of a file's bytes: MD5, in base64."""
    digest = md5(usedforsecurity=False)
    while chunk := data.read(CHUNK):
        digest.update(chunk)
    return b64encode(digest.digest()).decode()


def manifest_digest(entries: Mapping[str, str]) -> str:
    """Return the digest that W&B has of an artifact, from path -> `content_digest`."""
    digest = md5(b"wandb-artifact-manifest-v1\n", usedforsecurity=False)
    for path in sorted(entries):
        digest.update(f"{path}:{entries[path]}\n".encode())
    return digest.hexdigest()


def is_record(type: str) -> bool:
    """Tell whether an artifact of this type holds only a run's record."""
    return type == RECORD


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of a logged artifact."""

    path: str
    digest: str
    size: int  # bytes
    local_path: str  # where W&B's client finds it


@dataclass(frozen=True, slots=True)
class LoggedArtifact:
    """A W&B artifact that a run logs."""

    name: str
    type: str
    digest: str
    metadata: Mapping[str, Any]
    entries: tuple[Entry, ...]


def logged(
    name: str, type: str, metadata: Mapping[str, Any], entries: Iterable[Entry]
) -> LoggedArtifact:
    """Return the artifact that holds *entries*."""
    found = tuple(entries)
    digest = manifest_digest({each.path: each.digest for each in found})
    return LoggedArtifact(name, type, digest, metadata, found)
