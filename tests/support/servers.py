"""Real MLflow servers, and databases with the schema that MLflow itself makes."""

from __future__ import annotations

import importlib.util
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from ._folders import locked, session_folder
from ._processes import StartError, answers, child, clean_environment, reserved_port

ADMIN_USER = "admin"
ADMIN_PASSWORD = "correct-horse-battery"

#: Makes the tables alone. Opening a store would also add the experiment "Default",
#: with an artifact location that suits no later server.
_MAKE_SCHEMA = """
import sys
import sqlalchemy
import mlflow.store.model_registry.dbmodels.models
import mlflow.store.tracking.dbmodels.models
from mlflow.store.db.utils import _initialize_tables
_initialize_tables(sqlalchemy.create_engine(sys.argv[1]))
"""


def make_schema(uri: str) -> None:
    """Make MLflow's tables in the empty database *uri*; takes tens of seconds."""
    made = subprocess.run(
        [sys.executable, "-c", _MAKE_SCHEMA, uri],
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    if made.returncode != 0:
        raise StartError(f"MLflow could not make its schema:\n{made.stderr[-4000:]}")


def fresh_database(path: Path) -> str:
    """
    Make an SQLite database with MLflow's current schema and no rows at *path*.

    Returns:
        Its URI.
    """
    shutil.copyfile(_template(), path)
    return f"sqlite:///{path}"


def _template() -> Path:
    folder = session_folder()
    template = folder / f"schema-{version('mlflow')}.db"
    with locked(folder / "schema.lock"):
        if not template.exists():
            # Under another name until complete, should the session be interrupted.
            partial = template.with_suffix(".partial")
            partial.unlink(missing_ok=True)
            make_schema(f"sqlite:///{partial}")
            partial.rename(template)
    return template


def has_auth() -> bool:
    """Tell whether MLflow's basic-auth app can run here (extra `mlflow[auth]`)."""
    return importlib.util.find_spec("flask_wtf") is not None


@contextmanager
def mlflow_server(
    folder: Path,
    *,
    workers: int = 1,
    backend_uri: str | None = None,
    artifacts: Literal["proxied", "direct"] = "proxied",
    auth: bool = False,
    env: Mapping[str, str] | None = None,
) -> Iterator[str]:
    """
    Run an MLflow server with all its state in *folder* and yield its URL.

    Without *backend_uri* it stores in `mlflow.db`, made unless it is there already.
    Artifacts lie in `artifacts`, reached through the server or directly; the log is
    `server.log`. With *auth* it wants `ADMIN_USER` and `ADMIN_PASSWORD`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if backend_uri is None:
        database = folder / "mlflow.db"
        if not database.exists():
            fresh_database(database)
        backend_uri = f"sqlite:///{database}"
    root = (folder / "artifacts").absolute()
    root.mkdir(exist_ok=True)
    command: list[str | Path] = [sys.executable, "-m", "mlflow", "server"]
    command += ["--backend-store-uri", backend_uri, "--workers", str(workers)]
    if artifacts == "proxied":
        command += ["--serve-artifacts", "--artifacts-destination", root.as_uri()]
    else:
        command += ["--no-serve-artifacts", "--default-artifact-root", root.as_uri()]
    settings = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    if auth:
        command += ["--app-name", "basic-auth"]
        settings.update(_auth_settings(folder))
    with reserved_port() as port:
        url = f"http://127.0.0.1:{port}"
        with child(
            [*command, "--host", "127.0.0.1", "--port", str(port)],
            ready=lambda: answers(f"{url}/health"),
            log=folder / "server.log",
            cwd=folder,
            env={**settings, **(env or {})},
        ):
            yield url


def _auth_settings(folder: Path) -> dict[str, str]:
    config = folder / "basic_auth.ini"
    config.write_text(
        "[mlflow]\n"
        "default_permission = READ\n"
        f"database_uri = sqlite:///{folder.absolute() / 'basic_auth.db'}\n"
        f"admin_username = {ADMIN_USER}\n"
        "authorization_function ="
        " mlflow.server.auth:authenticate_request_basic_auth\n"
    )
    return {
        "MLFLOW_AUTH_CONFIG_PATH": str(config),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN_PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests only",
    }


@dataclass(frozen=True, slots=True)
class ReusableServer:
    """A running server that can be made as new, in far less time than it starts."""

    url: str
    folder: Path

    def reset(self) -> None:
        """Forget all experiments, models and artifacts. No request may be going on."""
        # SQLite's own backup is one transaction, so the server need not be stopped.
        with (
            closing(sqlite3.connect(self.folder / "new.db")) as source,
            closing(sqlite3.connect(self.folder / "mlflow.db", timeout=30)) as target,
        ):
            source.backup(target)
        artifacts = self.folder / "artifacts"
        shutil.rmtree(artifacts)
        artifacts.mkdir()


@contextmanager
def reusable_server(folder: Path) -> Iterator[ReusableServer]:
    """Run a server with one worker, proxied artifacts and an SQLite database."""
    with mlflow_server(folder) as url:
        # Some of its first state, like the experiment "Default", the server makes
        # itself when it is first asked.
        answers(f"{url}/api/2.0/mlflow/experiments/get?experiment_id=0")
        shutil.copyfile(folder / "mlflow.db", folder / "new.db")
        yield ReusableServer(url, folder)
