"""The parts that other tests rest on do what they promise."""

from __future__ import annotations

import http.client
import json
import os
import socket
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy

from support import faults, mariadb, servers
from support._processes import StartError, child, reserved_port
from support.corpus import CorpusStore
from support.faults import Kind, fault_proxy
from support.isolation import NetworkBlockedError
from support.s3 import S3
from support.tree import snapshot


class Upstream(ThreadingHTTPServer):
    """Remembers what was committed; answers with what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Echo)
        self.committed: list[tuple[str, str, bytes]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"


class Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Upstream

    def answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        self.server.committed.append((self.command, self.path, body))
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n")
            return
        answer = json.dumps(
            {"host": self.headers["Host"], "body": body.decode("latin-1")}
        ).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer)

    do_GET = do_HEAD = do_POST = do_PUT = answer

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class TestFaultProxy:
    def test_passes_on(self, upstream: Upstream) -> None:
        """Without a fault a client sees what the server says, on one connection."""
        with fault_proxy(upstream.url) as proxy, requests.Session() as session:
            host = proxy.url.removeprefix("http://")
            for number in range(3):
                answer = session.post(f"{proxy.url}/a?n={number}", data=b"x" * number)

                assert {"host": host, "body": "x" * number} == answer.json()

            assert 1 == proxy.connections
            assert 3 == proxy.count("POST", "/a")
            assert ("POST", "/a?n=2", b"xx") == upstream.committed[-1]

    def test_passes_on_streams(self, upstream: Upstream) -> None:
        """Chunked bodies arrive whole in both directions."""
        with fault_proxy(upstream.url) as proxy, requests.Session() as session:
            sent = session.put(f"{proxy.url}/in", data=iter([b"abc", b"def"]))
            got = session.get(f"{proxy.url}/chunked")

            assert "abcdef" == sent.json()["body"]
            assert "hello world" == got.text

    def test_passes_on_large_bodies(self, upstream: Upstream) -> None:
        """A body larger than any buffer arrives whole."""
        large = os.urandom(3_000_000)
        with fault_proxy(upstream.url) as proxy:
            answer = requests.put(f"{proxy.url}/large", data=large, timeout=30)

            assert large == answer.json()["body"].encode("latin-1")

    def test_head(self, upstream: Upstream) -> None:
        """The answer to HEAD has no body, and the connection stays usable."""
        with fault_proxy(upstream.url) as proxy, requests.Session() as session:
            assert int(session.head(f"{proxy.url}/a").headers["Content-Length"]) > 0
            assert 200 == session.get(f"{proxy.url}/a").status_code

    def test_refuse(self, upstream: Upstream) -> None:
        """A refused request is not forwarded, and the connection stays usable."""
        plan = faults.first(1, faults.refuse(429, retry_after=2))
        with fault_proxy(upstream.url, plan) as proxy, requests.Session() as session:
            refused = session.post(f"{proxy.url}/a", data=b"body")
            accepted = session.post(f"{proxy.url}/b", data=b"body")

        assert (429, "2") == (refused.status_code, refused.headers["Retry-After"])
        assert 200 == accepted.status_code
        assert ["/b"] == [path for _, path, _ in upstream.committed]
        assert {Kind.REFUSE: 1} == proxy.faults

    def test_reset(self, upstream: Upstream) -> None:
        """A reset request is not forwarded; the client is told at once."""
        with fault_proxy(upstream.url, faults.first(1, faults.reset())) as proxy:
            address = ("127.0.0.1", int(proxy.url.rpartition(":")[2]))
            with socket.create_connection(address, timeout=5) as client:
                client.sendall(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
                with pytest.raises(ConnectionResetError):
                    client.recv(1)

            assert 200 == requests.post(f"{proxy.url}/b", timeout=5).status_code
        assert ["/b"] == [path for _, path, _ in upstream.committed]

    def test_reset_while_sending(self, upstream: Upstream) -> None:
        """A client still sending fails as well, be it with one error or another."""
        with (
            fault_proxy(upstream.url, faults.first(1, faults.reset())) as proxy,
            pytest.raises(requests.ConnectionError),
        ):
            requests.post(f"{proxy.url}/a", data=b"x" * 5_000_000, timeout=5)

        assert [] == upstream.committed

    def test_drop(self, upstream: Upstream) -> None:
        """A dropped answer is to a request that was carried out."""
        with (
            fault_proxy(upstream.url, faults.first(1, faults.drop())) as proxy,
            pytest.raises(requests.ConnectionError, match="without response"),
        ):
            requests.post(f"{proxy.url}/a", data=b"body", timeout=5)

        assert [("POST", "/a", b"body")] == upstream.committed

    def test_lie(self, upstream: Upstream) -> None:
        """An error may be the answer to a request that was carried out."""
        with fault_proxy(upstream.url, faults.first(1, faults.lie())) as proxy:
            assert 502 == requests.post(f"{proxy.url}/a", timeout=5).status_code

        assert 1 == len(upstream.committed)

    @pytest.mark.parametrize("path", ["/a", "/chunked"])
    def test_truncate(self, upstream: Upstream, path: str) -> None:
        """A truncated body is shorter than announced."""
        with (
            fault_proxy(upstream.url, faults.first(1, faults.truncate())) as proxy,
            pytest.raises(
                requests.exceptions.ChunkedEncodingError, match="IncompleteRead"
            ),
        ):
            requests.get(proxy.url + path, timeout=5)

        assert 1 == len(upstream.committed)

    def test_delay(self, upstream: Upstream) -> None:
        """A delayed answer is to a request that was carried out at once."""
        with fault_proxy(upstream.url, faults.first(1, faults.delay(60))) as proxy:
            with pytest.raises(requests.Timeout):
                requests.post(f"{proxy.url}/a", timeout=0.3)

            assert 1 == len(upstream.committed)
            begun = time.monotonic()
        assert time.monotonic() - begun < 5  # closing the proxy does not wait

    def test_dead_upstream(self) -> None:
        """A client learns nothing else than that the connection has gone."""
        with (
            reserved_port() as port,
            fault_proxy(f"http://127.0.0.1:{port}") as proxy,
            pytest.raises(requests.ConnectionError),
        ):
            requests.get(proxy.url, timeout=5)

    def test_closes_idle_connections(self, upstream: Upstream) -> None:
        """A client that keeps its connection does not keep the proxy from closing."""
        with fault_proxy(upstream.url) as proxy:
            client = http.client.HTTPConnection(proxy.url.removeprefix("http://"))
            client.request("GET", "/a")
            client.getresponse().read()
        with closing(client), pytest.raises(OSError):
            client.request("GET", "/a")
            client.getresponse()

    def test_many_clients(self, upstream: Upstream) -> None:
        """Requests in parallel are each counted, and each fails by itself."""
        plan = faults.drop_every(5, seed=1)
        failed = []

        def ask(url: str) -> None:
            for _ in range(10):
                try:
                    requests.get(url, timeout=10)
                except requests.ConnectionError:
                    failed.append(url)

        with fault_proxy(upstream.url, plan) as proxy:
            threads = [
                threading.Thread(target=ask, args=(proxy.url,)) for _ in range(5)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()

        assert 50 == proxy.count("GET") == len(upstream.committed)
        assert {Kind.DROP: 10} == proxy.faults
        assert 10 == len(failed)


class TestPlans:
    def test_every(self) -> None:
        """Each block of requests has one fault, the same whenever it is asked for."""
        plan = faults.drop_every(7, seed=3)
        fates = [plan("GET", "/", n) is not None for n in range(1, 71)]

        assert [1] * 10 == [sum(fates[i : i + 7]) for i in range(0, 70, 7)]
        assert fates == [plan("GET", "/", n) is not None for n in range(1, 71)]
        assert len({tuple(fates[i : i + 7]) for i in range(0, 70, 7)}) > 1

    def test_on(self) -> None:
        """A fault can wait for a certain request."""
        plan = faults.any_of(
            faults.never, faults.on("POST", "/create", faults.drop(), times=2)
        )
        asked = [("GET", "/create"), *[("POST", "/runs/create")] * 3]

        assert [None, faults.drop(), faults.drop(), None] == [
            plan(method, path, n) for n, (method, path) in enumerate(asked, 1)
        ]


class TestSnapshot:
    def test_sees_every_change(self, tmp_path: Path) -> None:
        """Content, times, modes, links and names all count."""
        (tmp_path / "folder").mkdir()
        file = tmp_path / "folder" / "file"
        file.write_bytes(b"content")
        (tmp_path / "link").symlink_to("folder")
        before = snapshot(tmp_path)
        status = file.stat()

        assert {".", "folder", "folder/file", "link"} == set(before)
        assert before == snapshot(tmp_path)

        file.chmod(0o600)
        changed = snapshot(tmp_path)
        assert ["folder/file"] == [k for k in changed if changed[k] != before.get(k)]

        file.chmod(status.st_mode)
        file.write_bytes(b"CONTENT")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert before != snapshot(tmp_path)

        file.write_bytes(b"content")
        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        assert before != snapshot(tmp_path)

        os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
        assert before == snapshot(tmp_path)

        (tmp_path / "folder" / "brief").touch()
        (tmp_path / "folder" / "brief").unlink()
        assert before != snapshot(tmp_path)  # the folder's time tells


class TestIsolation:
    def test_no_network(self) -> None:
        """No connection leaves the machine; the loopback is free."""
        with socket.socket() as outward, pytest.raises(NetworkBlockedError):
            outward.connect(("192.0.2.1", 80))
        with reserved_port() as port, socket.socket() as inward:
            assert 0 != inward.connect_ex(("127.0.0.1", port))

    def test_no_settings(self) -> None:
        """Nothing of the developer's own set-up is seen."""
        assert "true" == os.environ["MLFLOW_DISABLE_TELEMETRY"]
        assert "MLFLOW_TRACKING_URI" not in os.environ
        assert not Path.home().exists()

    @pytest.mark.parametrize("turn", [1, 2])
    def test_environment_is_restored(self, turn: int) -> None:
        """What one test sets, the next does not see."""
        assert "MLFLOW_LEAK" not in os.environ
        os.environ["MLFLOW_LEAK"] = str(turn)


class TestProcesses:
    def test_group_is_stopped(self, tmp_path: Path) -> None:
        """Grandchildren end too, even those that ignore polite requests."""
        script = (
            "import pathlib, signal, subprocess, sys, time\n"
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
            "if len(sys.argv) == 1:\n"
            "    subprocess.Popen([sys.executable, sys.argv[0], 'grandchild'])\n"
            "    sys.exit(time.sleep(1))\n"
            "while True:\n"
            "    pathlib.Path('alive').touch()\n"
            "    time.sleep(0.02)\n"
        )
        (tmp_path / "script.py").write_text(script)
        alive = tmp_path / "alive"
        with child(
            [sys.executable, tmp_path / "script.py"],
            ready=alive.exists,
            log=tmp_path / "log",
            cwd=tmp_path,
        ):
            pass
        alive.unlink(missing_ok=True)
        time.sleep(0.1)

        assert not alive.exists()

    def test_failed_start(self, tmp_path: Path) -> None:
        """The error tells what the process said."""
        with (
            pytest.raises(StartError, match=r"(?s)ended with 1.*no such thing"),
            child(
                [sys.executable, "-c", "raise SystemExit('no such thing')"],
                ready=lambda: False,
                log=tmp_path / "log",
                cwd=tmp_path,
            ),
        ):
            pass


class TestDatabases:
    def test_sqlite(self, sqlite_uri: str) -> None:
        """A fresh database has tables and no rows."""
        with closing(sqlite3.connect(sqlite_uri.removeprefix("sqlite:///"))) as base:
            assert [(0,)] == base.execute("SELECT count(*) FROM runs").fetchall()
            assert [(0,)] == base.execute("SELECT count(*) FROM experiments").fetchall()

    def test_postgres(self, postgres_uri: str, postgres_mlflow_uri: str) -> None:
        """One database is empty, the other has MLflow's tables."""
        assert [] == _tables(postgres_uri)
        assert "runs" in _tables(postgres_mlflow_uri)

    def test_mariadb(self, mariadb_uri: str, mariadb_mlflow_uri: str) -> None:
        """One database is empty, the other has MLflow's tables."""
        assert [] == _tables(mariadb_uri)
        assert "runs" in _tables(mariadb_mlflow_uri)

    @pytest.mark.skipif(not mariadb.available(), reason="mariadbd is not installed")
    def test_mariadb_restarts(self) -> None:
        """After a stop, the next database starts a server again."""
        mariadb.stop()
        with mariadb.mariadb_database() as uri:
            assert [] == _tables(uri)


def _tables(uri: str) -> list[str]:
    engine = sqlalchemy.create_engine(uri)
    try:
        return sqlalchemy.inspect(engine).get_table_names()
    finally:
        engine.dispose()


class TestS3:
    def test_holds_objects(self, s3: S3) -> None:
        """The environment leads boto3 to the service."""
        import boto3

        s3.make_bucket("bucket")
        client = boto3.client("s3")
        client.put_object(Bucket="bucket", Key="a/b", Body=b"content")

        assert (
            b"content" == client.get_object(Bucket="bucket", Key="a/b")["Body"].read()
        )


class TestServer:
    def test_is_as_new(
        self, server: str, reusable_server: servers.ReusableServer
    ) -> None:
        """A reset server has forgotten everything and still works."""
        for _ in range(2):
            made = _post(server, "experiments/create", name="again")
            run = _post(
                server,
                "runs/create",
                experiment_id=made["experiment_id"],
                start_time=1,
            )
            assert run["run"]["info"]["artifact_uri"].startswith("mlflow-artifacts:")
            assert ["again", "Default"] == _experiments(server)
            reusable_server.reset()
            assert ["Default"] == _experiments(server)

    def test_direct_artifacts(self, start_server: Callable[..., str]) -> None:
        """Without proxying a client is told where to write."""
        url = start_server(artifacts="direct", workers=2)
        answer = _get(url, "experiments/get", experiment_id="0")

        assert answer["experiment"]["artifact_location"].startswith("file:///")

    def test_auth(self, start_server: Callable[..., str]) -> None:
        """With authentication only the administrator gets in."""
        if not servers.has_auth():
            pytest.skip("mlflow[auth] is not installed")
        url = start_server(auth=True)
        search = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
        admin = (servers.ADMIN_USER, servers.ADMIN_PASSWORD)

        assert 401 == requests.get(search, timeout=30).status_code
        assert 200 == requests.get(search, auth=admin, timeout=30).status_code


def _get(server: str, path: str, **query: str) -> Any:
    answer = requests.get(f"{server}/api/2.0/mlflow/{path}", query, timeout=30)
    answer.raise_for_status()
    return answer.json()


def _post(server: str, path: str, **body: object) -> Any:
    answer = requests.post(f"{server}/api/2.0/mlflow/{path}", json=body, timeout=30)
    answer.raise_for_status()
    return answer.json()


def _experiments(server: str) -> list[str]:
    found = _post(server, "experiments/search", max_results=10)["experiments"]
    return [experiment["name"] for experiment in found]


class TestCorpus:
    def test_exists(self, corpus: list[CorpusStore]) -> None:
        """Every store of the index is there."""
        assert [] == [store.name for store in corpus if not store.path.exists()]
