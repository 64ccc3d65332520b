"""The usual traps: each is set, found, told with a fix, and left as it is."""

from __future__ import annotations

import json
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner
from support.fixture_stores import FIXTURES
from support.servers import fresh_database

from mlmigrate.cli import group
from mlmigrate.doctor import Check, diagnose, servers, sqlite_files
from mlmigrate.errors import LocationError
from mlmigrate.stores.mlflow_db.schema import newest_revision

EMPTY = Path(__file__).parent / "support"  # no stores are below
RUN = "a" * 32


def failing(checks: list[Check]) -> dict[str, Check]:
    failed = {check.name: check for check in checks if not check.ok}
    assert all(check.what and check.fix for check in failed.values())
    return failed


def named(checks: list[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """A database of the installed MLflow's schema, or nearly."""
    path = tmp_path / "mlflow.db"
    shutil.copy(FIXTURES / "server-3.17" / "mlflow.db", path)
    with closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE alembic_version SET version_num = ?", [newest_revision()])
        db.commit()
    return path


def store(root: Path, **tags: str) -> Path:
    """A file store of one run."""
    run = root / "1" / RUN
    (run / "tags").mkdir(parents=True)
    (root / "1" / "meta.yaml").write_text("experiment_id: '1'\nname: one\n")
    (run / "meta.yaml").write_text(
        f"run_id: {RUN}\nexperiment_id: '1'\nartifact_uri: {run}/artifacts\n"
    )
    for key, value in tags.items():
        (run / "tags" / key).write_text(value)
    return root


# -- the environment ----------------------------------------------------------------


def test_nothing_set_and_nothing_there_is_well(tmp_path: Path) -> None:
    assert failing(diagnose(None, {}, tmp_path)) == {}


def test_stray_stores_without_a_tracking_uri(tmp_path: Path, database: Path) -> None:
    store(tmp_path / "project" / "mlruns")
    check = failing(diagnose(None, {}, tmp_path))["tracking-uri"]
    assert "2 stores" in check.what
    assert f"copy {database} {tmp_path}/project/mlruns sqlite:///" in check.fix


def test_stray_stores_beside_the_tracking_uri(tmp_path: Path) -> None:
    good = store(tmp_path / "good")
    environ = {"MLFLOW_TRACKING_URI": good.as_uri()}
    assert failing(diagnose(None, environ, tmp_path)) == {}
    store(tmp_path / "project" / "mlruns")
    check = failing(diagnose(None, environ, tmp_path))["stray-stores"]
    assert "project/mlruns" in check.what
    assert "good," not in check.what
    # A folder is never a sink: both go into a database.
    assert f"copy {good.as_uri()} {tmp_path}/project/mlruns sqlite:///" in check.fix


def test_stray_stores_are_not_sent_to_a_tracking_uri_that_is_wrong(
    tmp_path: Path,
) -> None:
    store(tmp_path / "project" / "mlruns")
    environ = {"MLFLOW_TRACKING_URI": "localhost:5000"}
    check = failing(diagnose(None, environ, tmp_path))["stray-stores"]
    assert "mlmigrate copy" not in check.fix


def test_stray_stores_beside_what_is_no_sink(tmp_path: Path) -> None:
    root = store(tmp_path / "mlruns")
    environ = {"MLFLOW_TRACKING_URI": "databricks"}
    check = failing(diagnose(None, environ, tmp_path))["stray-stores"]
    assert f"copy {root} sqlite:///{tmp_path}/all-runs.db" in check.fix


def test_a_store_is_not_to_be_copied_into_itself(
    tmp_path: Path, database: Path
) -> None:
    database.rename(tmp_path / "all-runs.db")
    check = failing(diagnose(None, {}, tmp_path))["tracking-uri"]
    assert "export MLFLOW_TRACKING_URI=" in check.fix
    assert "mlmigrate copy" not in check.fix


def test_commands_are_quoted(tmp_path: Path) -> None:
    folder = tmp_path / "my work"
    store(folder / "mlruns")
    check = failing(diagnose(None, {}, folder))["tracking-uri"]
    assert f"copy '{folder}/mlruns' 'sqlite:///{folder}/all-runs.db'" in check.fix


@pytest.mark.parametrize("host", ["localhost", "127.0.1.1", socket.gethostname()])
def test_stores_of_a_server_on_this_machine_may_be_its_own(
    tmp_path: Path, host: str
) -> None:
    store(tmp_path / "mlruns")
    environ = {"MLFLOW_TRACKING_URI": f"http://{host}:9"}
    assert named(diagnose(None, environ, tmp_path), "stray-stores").ok


@pytest.mark.parametrize(
    ("uri", "fix"),
    [
        ("localhost:5000", "http://localhost:5000"),
        ("127.0.0.1:5000", "http://127.0.0.1:5000"),
        ("htp://server", "http://HOST:PORT"),
        ("http://", "http://HOST:PORT"),
        ("./nowhere", "the folder"),
        ("file:///nowhere/at/all", "the folder"),
        ("sqlite://mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:///nowhere/mlflow.db", "mkdir"),
        ("sqlite://", "sqlite:////PATH"),
        ("postgres://me:secret@host/db", "postgresql://me:***@host/db"),
        ("postgres://host/db?password=secret", "postgresql://host/db?password=***"),
        ("postgresql:me", "postgresql://"),
        ("postgresql://me:secret@host:port/db", "postgresql://"),
        ("sqlite:mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:/var/mlflow.db", "sqlite:////var/mlflow.db"),
        ("mysql", "the folder"),
        ("me:secret@host:5000", "http://me:***@host:5000"),
        ("http://[::1", "http://HOST:PORT"),
        ("http://localhost:50o0", "http://HOST:PORT"),
        ("'http://localhost:5000'", "=http://localhost:5000"),
        ("http://localhost:5000\n", "=http://localhost:5000"),
    ],
)
def test_an_invalid_tracking_uri(tmp_path: Path, uri: str, fix: str) -> None:
    checks = diagnose(None, {"MLFLOW_TRACKING_URI": uri}, tmp_path)
    assert list(failing(checks)) == ["tracking-uri"]
    check = named(checks, "tracking-uri")
    assert fix in check.fix
    assert "secret" not in check.what + check.fix


@pytest.mark.parametrize(
    "uri",
    [
        "databricks",
        "databricks://me",
        "mlruns",
        "file:mlruns",
        "mssql+pyodbc://me@host/db",
    ],
)
def test_a_valid_tracking_uri(tmp_path: Path, uri: str) -> None:
    store(tmp_path / "mlruns")
    checks = diagnose(None, {"MLFLOW_TRACKING_URI": uri}, tmp_path)
    assert named(checks, "tracking-uri").ok


def test_the_tracking_uris_own_database_is_checked(database: Path) -> None:
    environ = {"MLFLOW_TRACKING_URI": "sqlite:///mlflow.db"}
    checks = diagnose(None, environ, database.parent)
    assert failing(checks) == {}
    assert named(checks, "integrity").ok


# -- servers ------------------------------------------------------------------------

Answer = tuple[int, str, str]
JSON, HTML, TEXT = "application/json", "text/html", "text/plain"


@contextmanager
def serving(answer: Callable[[str, Mapping[str, str]], Answer]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, kind, text = answer(self.path, dict(self.headers))
            self.send_response(status)
            self.send_header("Content-Type", kind)
            if status in (302, 307):
                self.send_header("Location", f"https://login.example/?rd={self.path}")
            if status == 308:
                self.send_header("Location", f"https://new.example/ml{self.path}")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def healthy(path: str, _: Mapping[str, str]) -> Answer:
    if path == "/health":
        return 200, HTML, "OK"
    return (200, HTML, "3.1.4") if path == "/version" else (200, JSON, "{}")


def guarded(path: str, headers: Mapping[str, str]) -> Answer:
    if path == "/health":
        return 200, HTML, "OK"
    if headers.get("Authorization") == "Bearer right":
        return healthy(path, headers)
    return 401, HTML, "You are not authenticated."


def check_server(url: str, **environ: str) -> list[Check]:
    return diagnose(None, {"MLFLOW_TRACKING_URI": url, **environ}, EMPTY)


def test_server_that_is_well() -> None:
    with serving(healthy) as url:
        checks = check_server(url)
    assert failing(checks) == {}
    assert "MLflow 3.1.4" in named(checks, "server").what


def test_server_that_wants_a_login() -> None:
    with serving(guarded) as url:
        wanted = failing(check_server(url))
        refused = failing(check_server(url, MLFLOW_TRACKING_TOKEN="wrong"))
        given = failing(check_server(url, MLFLOW_TRACKING_TOKEN="right"))
    assert list(wanted) == ["login"]
    assert "wants a login" in wanted["login"].what
    assert "refuses the login" in refused["login"].what
    assert given == {}


def test_login_in_the_url_comes_first() -> None:
    def picky(path: str, headers: Mapping[str, str]) -> Answer:
        right = headers.get("Authorization") == "Basic bWU6cmlnaHQ="  # me:right
        return healthy(path, headers) if right else (401, HTML, "")

    environ = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "old"}
    with serving(picky) as url:
        checks = check_server(url.replace("://", "://me:right@"), **environ)
    assert failing(checks) == {}


@pytest.mark.parametrize("token", ["right\n", "r€ght"])
def test_a_token_that_cannot_be_sent(token: str) -> None:
    with serving(guarded) as url:
        checks = check_server(url, MLFLOW_TRACKING_TOKEN=token)
    assert "MLFLOW_TRACKING_TOKEN" in failing(checks)["login"].what
    assert token.strip() not in repr(checks)
    environ = {"MLFLOW_TRACKING_USERNAME": "me", "MLFLOW_TRACKING_PASSWORD": "x"}
    with serving(healthy) as url:  # it is not sent then
        assert failing(check_server(url, MLFLOW_TRACKING_TOKEN=token, **environ)) == {}


def test_who_may_not_read_the_first_experiment_may_read_others() -> None:
    def restricted(path: str, headers: Mapping[str, str]) -> Answer:
        if "experiments/get" in path:
            return 403, JSON, '{"error_code": "PERMISSION_DENIED"}'
        return healthy(path, headers)

    with serving(restricted) as url:
        assert failing(check_server(url)) == {}


@pytest.mark.parametrize("answer", [(302, "text/html", ""), (503, "text/html", "")])
def test_only_the_api_counts(answer: Answer) -> None:
    """A proxy may guard or hide the pages that no client of MLflow's asks for."""

    def half(path: str, headers: Mapping[str, str]) -> Answer:
        return healthy(path, headers) if path.startswith("/api") else answer

    with serving(half) as url:
        assert failing(check_server(url)) == {}


def test_server_that_has_moved() -> None:
    with serving(lambda *_: (308, HTML, "")) as url:
        check = failing(check_server(url))["server"]
    assert check.fix == "give https://new.example/ml instead"


def test_server_without_tls(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of a machine's own settings, none comes before MLflow's.
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    environ = {"MLFLOW_TRACKING_INSECURE_TLS": "true"}
    with serving(healthy) as url:
        checks = check_server(url.replace("http", "https"), **environ)
    assert "http://" in failing(checks)["server"].fix


def test_a_certificate_that_is_not_there() -> None:
    environ = {"MLFLOW_TRACKING_SERVER_CERT_PATH": "/nowhere/ca.pem"}
    check = failing(check_server("https://127.0.0.1:9", **environ))["server"]
    assert "/nowhere/ca.pem" in check.what
    assert "MLFLOW_TRACKING_SERVER_CERT_PATH" in check.fix


def test_a_proxy_that_is_not_there() -> None:
    # The settings of this session name one at which nobody listens.
    check = failing(check_server("https://tracking.example"))["server"]
    assert "proxy" in check.what
    assert "NO_PROXY" in check.fix


def test_a_location_that_is_no_url() -> None:
    assert list(failing(diagnose("http://a..b:5000", {}, "."))) == ["server"]


@pytest.mark.parametrize(
    ("answer", "name", "what"),
    [
        ((403, JSON, '{"error_code": "PERMISSION_DENIED"}'), "login", "denies"),
        ((403, TEXT, "Invalid Host header - possible"), "server", "for the host"),
        ((302, HTML, ""), "login", "https://login.example/"),
        ((404, HTML, "<h1>nginx</h1>"), "server", "not as an MLflow server"),
        ((200, HTML, "<h1>hello</h1>"), "server", "not as an MLflow server"),
        ((404, JSON, '{"detail": "Not Found"}'), "server", "not as an MLflow server"),
        ((503, TEXT, "down"), "server", "HTTP 503"),
    ],
)
def test_server_that_answers_otherwise(answer: Answer, name: str, what: str) -> None:
    with serving(lambda *_: answer) as url:
        failed = failing(check_server(url))
    assert list(failed) == [name]
    assert what in failed[name].what


def test_server_that_is_not_there() -> None:
    with serving(healthy) as url:
        pass
    assert "refuses the connection" in failing(check_server(url))["server"].what


def test_server_that_keeps_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "TIMEOUT", 0.2)
    release = threading.Event()

    def silent(path: str, _: Mapping[str, str]) -> Answer:
        release.wait(5)
        return 200, HTML, ""

    with serving(silent) as url:
        failed = failing(check_server(url))
        release.set()
    assert "does not answer within" in failed["server"].what


def test_password_of_a_server_is_not_told() -> None:
    checks = check_server("http://me:hunter2@127.0.0.1:9")
    assert failing(checks)
    assert "hunter2" not in repr(checks)


# -- SQLite -------------------------------------------------------------------------


def test_a_sound_database_is_well_and_unchanged(database: Path) -> None:
    before = sorted(
        (path.name, path.stat().st_mtime_ns) for path in database.parent.iterdir()
    )
    checks = diagnose(str(database), {}, ".")
    failed = failing(checks)
    failed.pop("artifacts", None)  # copied away from its artifacts
    assert failed == {}
    after = sorted(
        (path.name, path.stat().st_mtime_ns) for path in database.parent.iterdir()
    )
    assert before == after


@pytest.mark.parametrize(
    ("system", "ok"),
    [("nfs4", False), ("cifs", False), ("fuse.sshfs", False), ("ext4", True)],
)
def test_network_file_systems(
    database: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    system: str,
    ok: bool,
) -> None:
    mounts = tmp_path / "mounts.txt"
    point = str(database.parent).replace(" ", "\\040")
    mounts.write_text(f"/dev/sda / ext4 rw 0 0\nhost:/x {point} {system} rw 0 0\n")
    monkeypatch.setattr(sqlite_files, "_MOUNTS", mounts)
    check = named(diagnose(str(database), {}, "."), "file-system")
    assert check.ok is ok
    assert system in check.what


@contextmanager
def another(code: str, *arguments: str) -> Iterator[None]:
    """Run Python code in another process until it is done with."""
    code += "\nprint('ready', flush=True)\nimport sys; sys.stdin.read()"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield
    finally:
        process.stdin.close()
        process.stdout.close()
        process.wait(10)


LOCK = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN EXCLUSIVE")
"""
OPEN = "import sys; file = open(sys.argv[1], 'r+b')"


def test_a_locked_database(database: Path) -> None:
    with another(LOCK, str(database)):
        check = failing(diagnose(str(database), {}, "."))["lock"]
    assert "locked" in check.what
    assert named(diagnose(str(database), {}, "."), "lock").ok


def test_a_broken_off_transaction_is_told_and_left(database: Path) -> None:
    broken = database.with_name("broken.db")
    with closing(sqlite3.connect(database, isolation_level=None)) as db:
        db.execute("PRAGMA cache_size=1")
        db.execute("BEGIN")
        db.execute("CREATE TABLE padding (x)")
        db.execute(
            "INSERT INTO padding WITH n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
            " WHERE i < 500) SELECT randomblob(4000) FROM n"
        )
        for suffix in ("", "-journal"):
            shutil.copy(f"{database}{suffix}", f"{broken}{suffix}")
        db.execute("ROLLBACK")
    journal = Path(f"{broken}-journal").read_bytes()
    check = failing(diagnose(str(broken), {}, "."))["lock"]
    assert "journal" in check.what
    assert Path(f"{broken}-journal").read_bytes() == journal


@pytest.mark.skipif(not Path("/proc/self/fdinfo").exists(), reason="needs /proc")
def test_two_programs_that_write_one_file(database: Path) -> None:
    with another(OPEN, str(database)):
        assert named(diagnose(str(database), {}, "."), "writers").ok
        with another(OPEN, str(database)):
            check = failing(diagnose(str(database), {}, "."))["writers"]
    assert "2 programs" in check.what


def test_a_damaged_database(database: Path) -> None:
    data = bytearray(database.read_bytes())
    for page in range(4096 * 4, len(data), 4096 * 3):
        data[page : page + 64] = b"\xff" * 64
    database.write_bytes(data)
    check = failing(diagnose(str(database), {}, "."))["integrity"]
    assert "recover" in check.what + check.fix


def test_a_log_beside_a_database_is_read_and_left(database: Path) -> None:
    with closing(sqlite3.connect(database)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("UPDATE experiments SET name = name || ' '")
        db.commit()
        before = Path(f"{database}-wal").read_bytes()
        checks = diagnose(str(database), {}, ".")
        assert named(checks, "integrity").ok
        assert named(checks, "lock").ok
        assert Path(f"{database}-wal").read_bytes() == before


@pytest.mark.parametrize(
    ("revision", "word"), [("90e64c465722", "older"), ("ffffffffffff", "newer")]
)
def test_another_schema_revision(database: Path, revision: str, word: str) -> None:
    with closing(sqlite3.connect(database)) as db:
        db.execute("UPDATE alembic_version SET version_num = ?", [revision])
        db.commit()
    check = failing(diagnose(str(database), {}, "."))["schema"]
    assert f"is {word} than" in check.what


def test_missing_indexes(database: Path) -> None:
    with closing(sqlite3.connect(database)) as db:
        db.execute("DROP INDEX index_metrics_run_uuid")
        db.commit()
    check = failing(diagnose(str(database), {}, "."))["indexes"]
    assert "index_metrics_run_uuid" in check.what
    assert "run the same" in check.fix


def test_a_database_of_somebody_else(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE runs (id)")
        db.commit()
    assert (
        "no tables of MLflow's" in failing(diagnose(str(path), {}, "."))["schema"].what
    )


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    assert list(failing(diagnose("sqlite:///gone.db", {}, tmp_path))) == ["file"]


def test_a_folder_where_a_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").mkdir()
    checks = diagnose("sqlite:///mlflow.db", {}, tmp_path)
    assert "is no file" in failing(checks)["file"].what


def test_file_systems_that_cannot_be_known(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_files, "_MOUNTS", database / "nowhere")
    assert "local" not in named(diagnose(str(database), {}, "."), "file-system").what


# -- database servers ---------------------------------------------------------------


def test_a_postgresql_database_without_runs(postgres_mlflow_uri: str) -> None:
    checks = diagnose(f"{postgres_mlflow_uri}&password=hunter2", {}, ".")
    assert list(failing(checks)) == ["contents"]
    assert named(checks, "indexes").ok
    assert "hunter2" not in repr(checks)


def test_sqlite_is_not_what_mends_a_postgresql_database(
    postgres_mlflow_uri: str,
) -> None:
    engine = sa.create_engine(postgres_mlflow_uri)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "ALTER TABLE alembic_version RENAME version_num TO x"
        )
    engine.dispose()
    check = failing(diagnose(postgres_mlflow_uri, {}, "."))["integrity"]
    assert "version_num" in check.what
    assert "sqlite" not in check.fix


@pytest.mark.parametrize("port", ["9", "port"])
def test_a_database_server_that_is_not_there(port: str) -> None:
    checks = diagnose(f"mysql+pymysql://me:secret@127.0.0.1:{port}/db", {}, ".")
    assert list(failing(checks)) == ["integrity"]
    assert "secret" not in repr(checks)


# -- what a store holds -------------------------------------------------------------


def test_a_sound_file_store_is_well(tmp_path: Path) -> None:
    assert failing(diagnose("mlruns", {}, store(tmp_path / "mlruns").parent)) == {}


def test_dead_artifact_uris(tmp_path: Path) -> None:
    root = store(tmp_path / "mlruns")
    meta = root / "1" / RUN / "meta.yaml"
    meta.write_text(f"run_id: {RUN}\nexperiment_id: '1'\nartifact_uri: /gone/away\n")
    check = failing(diagnose(str(root), {}, "."))["artifacts"]
    assert "1 run lead nowhere" in check.what
    assert "--map-artifacts" in check.fix


def test_artifacts_that_a_server_holds_are_not_dead(
    tmp_path: Path, database: Path
) -> None:
    root = store(tmp_path / "mlruns")
    meta = root / "1" / RUN / "meta.yaml"
    meta.write_text(
        f"run_id: {RUN}\nexperiment_id: '1'\n"
        f"artifact_uri: mlflow-artifacts:/1/{RUN}/artifacts\n"
    )
    for location, runs in ((root, "1 run"), (database, "11 runs, 1 logged model")):
        check = named(diagnose(str(location), {}, "."), "artifacts")
        assert check.ok
        assert f"{runs} are held by an artifact server" in check.what


def test_artifacts_that_cannot_be_reached(tmp_path: Path) -> None:
    root = store(tmp_path / "mlruns")
    meta = root / "1" / RUN / "meta.yaml"
    meta.write_text(
        f"run_id: {RUN}\nexperiment_id: '1'\nartifact_uri: nonesuch://x/{RUN}\n"
    )
    check = failing(diagnose(str(root), {}, "."))["artifacts"]
    assert "nowhere" not in check.what
    assert "what the message says" in check.fix


def test_artifact_uris_of_a_store_that_was_moved(tmp_path: Path) -> None:
    root = store(tmp_path / "mlruns")
    (root / "1" / RUN / "artifacts").mkdir()
    (root / "1" / RUN / "artifacts" / "model.txt").write_text("x")
    root = root.rename(tmp_path / "moved")
    check = failing(diagnose(str(root), {}, "."))["artifacts"]
    assert "once was" in check.what


def test_credentials_are_named_but_not_told(tmp_path: Path) -> None:
    root = store(tmp_path / "mlruns", url="https://me:hunter2@example.org/x", ok="fine")
    checks = diagnose(str(root), {}, ".")
    check = failing(checks)["credentials"]
    assert "tag url of 1 run" in check.what
    assert "--redact-credentials" in check.fix
    assert "hunter2" not in repr(checks)


def test_a_folder_may_be_called_sqlite(tmp_path: Path) -> None:
    store(tmp_path / "sqlite-runs")
    assert failing(diagnose("sqlite-runs", {}, tmp_path)) == {}


def test_an_empty_database_is_not_looked_for_in_folders(tmp_path: Path) -> None:
    location = fresh_database(tmp_path / "empty.db")
    with closing(sqlite3.connect(tmp_path / "empty.db")) as db:
        db.execute("DELETE FROM experiments")
        db.commit()
    check = failing(diagnose(location, {}, "."))["contents"]
    assert "holds no experiment" in check.what
    assert "folder" not in check.fix


def test_a_folder_that_is_no_store(tmp_path: Path) -> None:
    assert list(failing(diagnose(str(tmp_path), {}, "."))) == ["contents"]


# -- the command line ---------------------------------------------------------------


def test_the_command_prints_one_object(tmp_path: Path) -> None:
    good = str(store(tmp_path / "mlruns"))
    result = CliRunner().invoke(group, ["doctor", good, "--json"])
    checks = json.loads(result.stdout)["checks"]
    assert result.exit_code == 0
    assert all(set(check) == {"name", "ok", "what", "fix"} for check in checks)


def test_the_command_exits_with_3_where_a_check_fails(tmp_path: Path) -> None:
    result = CliRunner().invoke(group, ["doctor", str(tmp_path / "gone.db")])
    assert result.exit_code == 3
    assert "FAIL" in result.stdout
    assert "->" in result.stdout


def test_what_is_no_location_is_an_error() -> None:
    with pytest.raises(LocationError):
        diagnose("nonsense://x", {}, ".")
