"""Where the artifacts of a run or a logged model are, and what lies there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from mlmigrate.artifacts import Place, Remote, list_folder, locate
from mlmigrate.errors import ItemError
from mlmigrate.model import Artifact, Finding, Problem

_PROXIED = "mlflow-artifacts:"


@dataclass(frozen=True, slots=True)
class Around:
    """What tells where artifacts are, beside the URIs that a database holds."""

    folder: Path | None = None  # of a SQLite file: MLflow's own layout is often there
    maps: tuple[tuple[str, str], ...] = ()  # (old, new) prefixes, given by the user


@dataclass(frozen=True, slots=True)
class Spot:
    """What a database tells of where artifacts are."""

    owner: str  # the id of the run or model
    uri: str | None
    below: str  # where MLflow puts them below an artifact root


def place(around: Around, spot: Spot, where: str) -> Place:
    """Find artifacts; *where* is what to call their owner in findings."""
    uri, below = spot.uri, spot.below
    proxied = uri is not None and uri.startswith(_PROXIED)
    if uri is not None and proxied:
        below = unquote(uri.removeprefix(_PROXIED).lstrip("/"))
    layout: list[Path] = []
    if around.folder is not None and ".." not in below.split("/"):
        roots = [around.folder / n for n in ("mlruns", "mlartifacts", "artifacts")]
        layout = [root / below for root in roots]
        held = any(root.is_dir() for root in roots[1:])
        if proxied and held and not any(map(Path.is_dir, layout)):
            return Place()  # its server's artifacts are here; it has none
    return locate(
        uri,
        where=where,
        owner=spot.owner,
        layout=layout,
        base=around.folder,
        maps=around.maps,
    )


def listed(
    around: Around, spot: Spot, where: str
) -> tuple[list[Artifact], list[Finding]]:
    """List artifacts; takes what `place` takes."""
    found = place(around, spot, where)
    if found.folder is not None:
        files, problems = list_folder(found.folder, where)
        return files, [*found.findings, *problems]
    if found.uri is None:
        return [], list(found.findings)
    if found.uri.startswith(_PROXIED):
        what = (
            "its artifacts are held by an artifact server: copy from the server's"
            " URL, or give --map-artifacts mlflow-artifacts:/=FOLDER, its root"
        )
        return [], [Problem(where, what)]
    try:
        return Remote(found.uri).list(), list(found.findings)
    except ItemError as error:
        return [], [Problem(where, str(error))]
