"""What is wrong with a location, said before any adapter fails over it.

A message never holds the password of a URL, nor the cause of what failed: the text of
a parser's error is often a part of the password.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from mlmigrate.artifacts import local_path, redact
from mlmigrate.errors import LocationError, StoreNotFound

#: A login in what lacks the ``://`` of a URL.
_LOGIN = re.compile(r"^(?![A-Za-z]:[\\/])([^/\\@\s:]+):.*@", re.DOTALL)
_TO_FIND = "`mlmigrate scan FOLDER` finds the stores below a folder"
_TO_NAME = "`mlmigrate stores` tells what locations look like"


def check_database(location: str) -> None:
    """Check the URL of a database.

    Raises:
        LocationError: it is malformed, or names no file.
    """
    if "://" not in location:
        return
    from sqlalchemy import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        url = make_url(location)
        whole = not set("@[] ") & set(url.host or "")
    except (ArgumentError, ValueError):  # the latter for a port in letters
        whole = False
    if not whole:
        raise LocationError(
            f"{redact(location)} is no URL of a database: give"
            " postgresql://USER:PASSWORD@HOST:PORT/NAME, with %40 for @ in the password"
        ) from None
    if url.get_backend_name() == "sqlite" and url.database in (None, "", ":memory:"):
        raise LocationError(f"{redact(location)} names no file: give sqlite:///PATH")


def check_folder(location: str) -> None:
    """Check that a folder holds experiments, runs or models.

    A store that is empty is refused, too: more often the path is wrong, or a disk is
    not mounted, and "nothing to copy" would be told as a success.

    Raises:
        StoreNotFound: there is no such folder.
        LocationError: it is no folder, or holds no store.
    """
    folder = Path(local_path(location))
    if location.startswith("file:") and not location[5:].strip("/"):
        raise LocationError(f"{location} names no folder: give file:///FOLDER")
    if not os.path.isdir(folder):
        if os.path.lexists(folder):
            raise LocationError(
                f"{redact(str(folder))} is no folder: give a database as"
                " sqlite:///FILE, a file store by its folder"
            )
        raise StoreNotFound(
            f"{redact(str(folder))}: there is no such folder; {_TO_FIND}"
        )
    try:
        inner = None if _holds_experiments(folder) else _store_inside(folder)
        if inner is not None:
            raise LocationError(
                f"{redact(str(folder))} is a folder above a store: give"
                f" {redact(str(inner))}; {_TO_FIND}"
            )
        if not _holds_anything(folder):
            raise LocationError(
                f"{redact(str(folder))} holds no experiment, no run and no model;"
                f" {_TO_FIND}"
            )
    except OSError:
        return  # whoever opens it says why it cannot be listed


def _subfolders(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir())


def _holds_experiments(folder: Path) -> bool:
    """Tell at a glance whether a folder is a file store, damaged or not."""
    from mlmigrate.stores.mlflow_files.layout import RUN_ID

    inside = _subfolders(folder)
    return any((one / "meta.yaml").is_file() for one in inside) or any(
        RUN_ID.match(below.name) for one in inside for below in _subfolders(one)
    )


def _store_inside(folder: Path) -> Path | None:
    """Return the store right below a folder that is none itself: experiments there
    would be taken for runs.
    """
    from mlmigrate.stores.mlflow_files.layout import read_meta_file

    for inside in _subfolders(folder):
        if inside.name in (".trash", "models"):
            continue
        for below in _subfolders(inside):
            if (below / "meta.yaml").is_file():
                meta, _ = read_meta_file(below, "")
                if "experiment_id" in meta and not {"run_id", "run_uuid"} & set(meta):
                    return inside
    return None


def _holds_anything(folder: Path) -> bool:
    """Tell whether a file store can be made out in a folder, or might be there."""
    from mlmigrate.stores.mlflow_files.layout import scan

    if _holds_experiments(folder):
        return True
    found = scan(folder)
    closed = any("cannot be listed" in str(finding) for finding in found.findings)
    return closed or bool(found.experiments or found.runs or found.models)


def refusal(location: str) -> str:
    """Say what a location is that no adapter understands."""
    shown = redact(location)
    if not location.strip():
        return f"an empty text is no location; {_TO_NAME}"
    if os.path.isfile(location):
        what = "is a file, but no SQLite database: give a file store by its folder"
        return f"{shown} {what}; {_TO_FIND}"
    if os.path.exists(location):
        return f"{shown} is neither a folder nor a file; {_TO_NAME}"
    if location.startswith("sqlite:"):
        return f"{shown} is no URL of a database: give sqlite:///FILE"
    if "://" in location:
        return f"{shown}: stores of this kind are not known; {_TO_NAME}"
    shown = _LOGIN.sub(r"\1:***@", shown)
    return f"{shown}: there is no such folder or file; {_TO_FIND}, and {_TO_NAME}"
