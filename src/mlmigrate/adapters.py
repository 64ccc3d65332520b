"""The adapters, as data: which locations each understands, and which options it has.

An adapter is imported only when one of its locations is opened. Third parties add
theirs through the entry-point group ``mlmigrate.stores``: an entry point that loads to
an `Adapter`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from mlmigrate import workspaces
from mlmigrate.location_checks import check_database, check_folder


@dataclass(frozen=True, slots=True)
class Option:
    """An option of one adapter, given as ``-o NAME=VALUE`` or ``-i NAME=VALUE``."""

    name: str
    type: Callable[[str], Any]
    default: Any
    help: str
    variable: str | None = None  # of the environment: what holds where it is not given


@dataclass(frozen=True, slots=True)
class Adapter:
    """What is known of an adapter without importing it."""

    name: str
    module: str  # has open_source(location, options), open_sink(location, options)
    locations: str  # for people
    matches: Callable[[str], bool]
    source: bool
    sink: bool
    holds: str  # one line for `mlmigrate stores`
    options: tuple[Option, ...] = ()
    check: Callable[[str], None] | None = None  # raises what is wrong with a location


# -- what matches ---------------------------------------------------------------------

_DATABASES = ("sqlite:", "postgresql", "postgres:", "mysql", "mariadb")
_DATABASE_FILES = (".db", ".sqlite", ".sqlite3")
_SQLITE = b"SQLite format 3\0"


#: An archive has both; one of them is enough to read it.
MANIFESTS = ("mlmigrate.json", "mlmigrate.spare.json")


def _is_memory(location: str) -> bool:
    return location.startswith("memory:")


def _is_wandb_server(location: str) -> bool:
    return location.startswith("wandb://")


def _is_wandb_folder(location: str) -> bool:
    return location.startswith("wandb-offline:")


def _is_neptune_export(location: str) -> bool:
    return location.startswith("neptune-export:")


def _is_neptune_server(location: str) -> bool:
    return location.startswith("neptune://")


def _is_neptune3_server(location: str) -> bool:
    return location.startswith("neptune3://")


def _is_neptune_folder(location: str) -> bool:
    return location.startswith("neptune-offline:")


def _is_archive(location: str) -> bool:
    return location.startswith("archive:") or any(
        os.path.isfile(os.path.join(location, name)) for name in MANIFESTS
    )


def _is_server(location: str) -> bool:
    return location[:8].lower().startswith(("http://", "https://"))


def _is_database(location: str) -> bool:
    if location.startswith(_DATABASES) and "://" in location:
        return True
    if "://" in location:
        return False
    if os.path.isfile(location):
        try:
            with Path(location).open("rb") as file:
                return file.read(16) in (_SQLITE, b"")
        except OSError:
            return True  # whoever opens it says why it cannot be read
    if location.startswith(("sqlite:", "file:")):
        return False  # half a URL
    return location.endswith(_DATABASE_FILES) and not os.path.isdir(location)


def _is_folder(location: str) -> bool:
    return location.startswith("file:") or (
        os.path.isdir(location) and bool(location.strip())
    )


# -- the adapters ---------------------------------------------------------------------


def _at_least_one(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError("give 1 or more")
    return number


def _not_negative(text: str) -> int:
    if (number := int(text)) < 0:
        raise ValueError("give 0 or more")
    return number


def _text(text: str) -> str:
    if not text.strip():
        raise ValueError("give a text")
    return text


def _seconds(text: str) -> float:
    if not 0 < (seconds := float(text)) < math.inf:
        raise ValueError("give a number of seconds above 0")
    return seconds


def _zone(text: str) -> str:
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

    try:
        ZoneInfo(text)
    except (ZoneInfoNotFoundError, OSError):
        raise ValueError("give a zone such as America/New_York") from None
    return text


def _one_or_each(text: str) -> str:
    if text not in ("one", "each"):
        raise ValueError("give one or each")
    return text


def _grouping(text: str) -> str:
    if text not in ("nesting", "experiment", "none"):
        raise ValueError("give nesting, experiment or none")
    return text


def _yes_or_no(text: str) -> str:
    if text not in ("yes", "no"):
        raise ValueError("give yes or no")
    return text


_TYPED_PARAMS = Option(
    "typed-params",
    _yes_or_no,
    "no",
    "yes: params that are numbers or truth values are such there",
)

#: How runs become W&B's: see `mlmigrate.wandb_runs.mapping.naming_of`.
_WANDB_OPTIONS = (
    Option(
        "grouping",
        _grouping,
        "nesting",
        "a run's group: nesting (the run above it), experiment or none",
    ),
    _TYPED_PARAMS,
    Option(
        "id-salt",
        str,
        None,
        "a text that makes all run ids others: W&B blocks deleted ones",
    ),
)


def _workspace(text: str) -> str:
    if text != workspaces.DEFAULT and not workspaces.is_name(text):
        raise ValueError("give 2 to 63 small letters, digits and hyphens")
    return text


WORKSPACE = Option(
    "workspace",
    _workspace,
    None,
    "read this one alone, or write all into it [each into that of its name]",
)

#: Neptune's steps may be fractions.
_STEP_MULTIPLIER = Option(
    "step-multiplier",
    _at_least_one,
    None,
    "what fractions of steps are times [the least that makes them whole]",
)

#: A run in the trash of a server keeps its id.
_ID_SALT = Option(
    "id-salt",
    str,
    None,
    "a text that makes all run ids others: a server's trash keeps those of its runs",
)

_NEPTUNE_SERVER = (
    _STEP_MULTIPLIER,
    _ID_SALT,
    _TYPED_PARAMS,
    Option("threads", _at_least_one, None, "runs at once [8 reading, 6 writing]"),
    Option(
        "settle",
        _seconds,
        10.0,
        "seconds in which the server is to show what it took",
    ),
)

ADAPTERS: tuple[Adapter, ...] = (
    Adapter(
        "memory",
        "mlmigrate.stores.memory",
        "memory:NAME",
        _is_memory,
        source=True,
        sink=True,
        holds="everything, while the process lives",
        options=(WORKSPACE,),
    ),
    Adapter(
        "archive",
        "mlmigrate.stores.archive",
        "FOLDER (with an mlmigrate.json), archive:FOLDER, archive:s3://…",
        _is_archive,
        source=True,
        sink=True,
        holds="everything, in an open format: see `mlmigrate export`",
        options=(
            Option(
                "as-of",
                str,
                None,
                "read the state of a time: 2026-01-31T12:00, or an age such as 7d",
            ),
            Option(
                "check-blobs",
                _yes_or_no,
                None,
                "yes: compare artifacts with their checksums before their run is copied"
                " [yes for a local folder]",
            ),
            WORKSPACE,
        ),
    ),
    Adapter(
        "wandb_offline",
        "mlmigrate.stores.wandb_offline",
        "wandb-offline:FOLDER (a wandb/)",
        _is_wandb_folder,
        source=True,
        sink=True,
        holds="runs for `wandb sync`; reads any run folders, without importing wandb",
        options=(
            Option("entity", str, None, "whose the runs are to be [as W&B's login]"),
            Option("project", str, None, "one for all runs [each experiment's name]"),
            *_WANDB_OPTIONS,
            Option(
                "synced-at",
                str,
                None,
                "the folder's path where `wandb sync` will run [as it is here]",
            ),
        ),
    ),
    Adapter(
        "wandb_cloud",
        "mlmigrate.stores.wandb_cloud",
        "wandb://ENTITY/PROJECT, wandb://ENTITY (all its projects)",
        _is_wandb_server,
        source=True,
        sink=True,
        holds="everything, as runs tell it, read back before it counts",
        options=(
            Option(
                "nesting",
                _yes_or_no,
                "yes",
                "read sweeps and groups as runs that theirs are nested in",
            ),
            Option(
                "registry",
                str,
                None,
                "where models are linked [wandb-registry-model]; none: nowhere",
            ),
            Option(
                "projects",
                _one_or_each,
                "one",
                "each: a project for each experiment, at wandb://ENTITY",
            ),
            *_WANDB_OPTIONS,
            Option(
                "threads", _at_least_one, None, "runs at once [8 reading, 6 writing]"
            ),
            Option("timeout", _seconds, 120.0, "seconds to wait for an answer"),
            Option(
                "retries", _not_negative, 6, "tries after a lost or refused request"
            ),
            Option(
                "settle",
                _seconds,
                10.0,
                "seconds in which the server is to show what it took",
            ),
        ),
    ),
    Adapter(
        "neptune_export",
        "mlmigrate.stores.neptune_export",
        "neptune-export:FOLDER (with its data/, files/)",
        _is_neptune_export,
        source=True,
        sink=False,
        holds="archives of neptune-exporter, of 2.x and 3.x",
        options=(
            _STEP_MULTIPLIER,
            Option(
                "incomplete",
                _yes_or_no,
                "no",
                "yes: copy what is there of runs that were not exported whole",
            ),
            Option(
                "series-zone",
                _zone,
                None,
                "the time zone of the machine that ran the exporter of 2.x, which wrote"
                " local times of points: Europe/Paris [UTC]",
            ),
            Option("data", str, None, "the exporter's data folder [FOLDER/data]"),
            Option("files", str, None, "its files folder [FOLDER/files]"),
            Option("model-data", str, None, "that of models [FOLDER/model_data]"),
            Option("model-files", str, None, "that of models [FOLDER/model_files]"),
        ),
    ),
    Adapter(
        "neptune_server",
        "mlmigrate.stores.neptune_server",
        "neptune://WORKSPACE/PROJECT (a server of your own)",
        _is_neptune_server,
        source=True,
        sink=True,
        holds="everything, of the 2.x API, read back before it counts",
        options=_NEPTUNE_SERVER,
    ),
    Adapter(
        "neptune3_server",
        "mlmigrate.stores.neptune_server",
        "neptune3://WORKSPACE/PROJECT (likewise, of the 3.x API)",
        _is_neptune3_server,
        source=True,
        sink=True,
        holds="everything, of the 3.x API, read back before it counts",
        options=_NEPTUNE_SERVER,
    ),
    Adapter(
        "neptune_offline",
        "mlmigrate.stores.neptune_offline",
        "neptune-offline:FOLDER (a .neptune/, or the folder above it)",
        _is_neptune_folder,
        source=True,
        sink=True,
        holds="runs that can be sent later; reads what Neptune's clients left",
        options=(
            _ID_SALT,
            _TYPED_PARAMS,
            Option(
                "project",
                _text,
                None,
                "WORKSPACE/NAME of runs that do not tell it [neptune-offline]",
            ),
            _STEP_MULTIPLIER,
        ),
    ),
    Adapter(
        "mlflow_server",
        "mlmigrate.stores.mlflow_server",
        "http(s)://HOST:PORT",
        _is_server,
        source=True,
        sink=True,
        holds="all but run ids and creation times, which it gives itself",
        options=(
            Option(
                "threads",
                _at_least_one,
                None,
                "requests at once [8 reading, 4 writing]",
            ),
            Option("timeout", _seconds, 120.0, "seconds to wait for an answer"),
            Option(
                "retries", _not_negative, 6, "tries after a lost or refused request"
            ),
            Option(
                "fire-webhooks",
                _yes_or_no,
                "no",
                "yes: write to a registry with webhooks",
            ),
            # As MLflow's own clients do.
            replace(WORKSPACE, variable="MLFLOW_WORKSPACE"),
        ),
    ),
    Adapter(
        "mlflow_db",
        "mlmigrate.stores.mlflow_db",
        "sqlite:///FILE, FILE.db, postgresql://…, mysql://…",
        _is_database,
        source=True,
        sink=True,
        holds="everything, ids and times too",
        options=(
            Option(
                "artifact-root",
                str,
                None,
                "folder or URL for artifacts [mlartifacts beside a SQLite file]",
            ),
            WORKSPACE,
        ),
        check=check_database,
    ),
    Adapter(
        "mlflow_files",
        "mlmigrate.stores.mlflow_files",
        "FOLDER (an mlruns/), file:///FOLDER",
        _is_folder,
        source=True,
        sink=False,
        holds="everything; read without importing mlflow",
        check=check_folder,
    ),
)


def adapters() -> tuple[Adapter, ...]:
    """Return every adapter, those of third parties first."""
    found = entry_points(group="mlmigrate.stores")
    return (*(point.load() for point in found), *ADAPTERS)
