"""What a folder of offline runs holds beside runs: experiments, registered models, and
which run is in which container.

Neptune's client writes down neither what a run's custom id is nor which project it is
of, so ``neptune sync`` makes a new run each time. The manifest does, for people and for
whoever sends the runs; of a run whose container is no longer there it tells that it was
sent, or removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mlmigrate.errors import StoreError
from mlmigrate.partial_files import appearing
from mlmigrate.stores.neptune_offline.folders import DATA
from mlmigrate.told.values import as_dict, as_dicts, as_text

NAME = "mlmigrate-neptune.json"
FORMAT = 1


def is_ours(name: str) -> bool:
    """Tell whether a file or folder beside runs is mlmigrate's own."""
    return name == NAME or name.startswith(".mlmigrate-")


@dataclass(frozen=True, slots=True)
class Sent:
    """A run in the manifest."""

    origin: str
    container: str  # the name of its folder


@dataclass(slots=True)
class Manifest:
    """What the manifest tells."""

    runs: dict[str, Sent] = field(default_factory=dict)  # by custom id
    experiments: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # by name
    models: dict[str, Mapping[str, Any]] = field(default_factory=dict)  # by name


def manifest_of(root: Path) -> Manifest:
    """Read the manifest of the folder of Neptune's that *root* is, or is above or in.

    Raises:
        StoreError: it cannot be read.
    """
    for folder in (root, root / DATA, root.parent):
        if (folder / NAME).is_file():
            return load(folder)
    return Manifest()


def load(folder: Path) -> Manifest:
    """Read the manifest of a folder; an empty one where there is none.

    Raises:
        StoreError: it cannot be read, or is damaged: writing would lose what it told.
    """
    place = folder / NAME
    try:
        text = place.read_bytes() if place.is_file() else b"{}"
        said = json.loads(text)
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(
            f"{place} cannot be read: {error}; remove it to write without what it told"
        ) from error
    if said and as_dict(said).get("format") != FORMAT:
        raise StoreError(f"{place} is of a newer mlmigrate: use that")
    runs = {
        id: Sent(
            as_text(each.get("origin")) or "", as_text(each.get("container")) or ""
        )
        for id, each in as_dicts(as_dict(said).get("runs")).items()
    }
    return Manifest(
        runs,
        as_dicts(as_dict(said).get("experiments")),
        as_dicts(as_dict(said).get("registered_models")),
    )


def save(folder: Path, manifest: Manifest) -> None:
    """Write the manifest of a folder: it is there whole, or as it was.

    Raises:
        OSError: it cannot be written.
    """
    said = {
        "format": FORMAT,
        "runs": {id: asdict(run) for id, run in sorted(manifest.runs.items())},
        "experiments": dict(manifest.experiments),
        "registered_models": dict(manifest.models),
    }
    folder.mkdir(parents=True, exist_ok=True)
    with appearing(folder / NAME, folder) as file:
        file.write(json.dumps(said, indent=1).encode("ascii"))
