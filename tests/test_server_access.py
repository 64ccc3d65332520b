"""Logging in to a server and trusting it, by MLflow's own variables and file."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from support.loopback import LoopbackHandler, LoopbackServer

from mlmigrate.errors import LocationError, StoreError
from mlmigrate.stores.mlflow_server import open_source
from mlmigrate.stores.mlflow_server.answers import proxied_root

USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


@contextmanager
def serving(context: ssl.SSLContext | None = None) -> Iterator[tuple[str, list[str]]]:
    """Serve an empty MLflow: its URL, and the logins of the requests so far."""
    logins: list[str] = []

    class Handler(LoopbackHandler):
        def handle_any(self) -> None:
            logins.append(self.headers.get("Authorization", "none"))
            page = json.dumps({"experiments": []}).encode()
            self.send_page(200, page, "application/json")

    server = LoopbackServer(0, Handler)
    url = server.url
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        url = url.replace("http:", "https:")
    server.start()
    try:
        yield url, logins
    finally:
        server.stop()


def login_at(location: str, logins: list[str]) -> str:
    with closing(open_source(location, {"retries": 0})):
        return logins[-1]


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


def keep(text: str) -> None:
    path = Path("~/.mlflow/credentials").expanduser()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


KEPT = "[mlflow]\nmlflow_tracking_username = kept\nmlflow_tracking_password = a%%b:c\n"


# -- login ----------------------------------------------------------------------------


def test_the_login_is_the_one_that_mlflow_would_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving() as (url, logins):
        assert login_at(url, logins) == "none"
        monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "t")
        assert login_at(url, logins) == "Bearer t"
        keep(KEPT)
        assert login_at(url, logins) == basic("kept", "a%b:c")
        monkeypatch.setenv(USER, "größe")
        assert login_at(url, logins) == basic("größe", "a%b:c")
        monkeypatch.setenv(PASSWORD, "p")
        assert login_at(url, logins) == basic("größe", "p")
        keep("nonsense")  # not even looked at where the variables suffice
        assert login_at(url, logins) == basic("größe", "p")
        at = url.replace("://", "://me:s%2F%40:x@")
        assert login_at(at, logins) == basic("me", "s/@:x")
        with closing(open_source(at, {})) as store:
            assert store.location == url


def test_mlflow_itself_reads_the_same_file() -> None:
    from mlflow.utils.credentials import read_mlflow_creds

    keep(KEPT)
    assert tuple(read_mlflow_creds()) == ("kept", "a%b:c")


@pytest.mark.parametrize("text", ["", "[other]\na = b\n", "[mlflow]\n"])
def test_a_file_without_a_login_is_none(text: str) -> None:
    keep(text)
    with serving() as (url, logins):
        assert login_at(url, logins) == "none"


@pytest.mark.parametrize(
    "text",
    [
        "mlflow_tracking_password = hunter2\n",
        "[mlflow]\nmlflow_tracking_password = hunter2%\n",
        "[mlflow]\nhunter2\n",
    ],
)
def test_a_file_that_cannot_be_parsed_is_said_so(text: str) -> None:
    keep(text)
    with pytest.raises(StoreError, match=r"\.mlflow/credentials") as caught:
        open_source("http://127.0.0.1:9", {})
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MLFLOW_TRACKING_AWS_SIGV4", "true"),
        ("MLFLOW_TRACKING_AUTH", "kubernetes"),
        ("MLFLOW_TRACKING_TOKEN", "secret\n"),
        ("MLFLOW_WORKSPACE", "größe…"),
    ],
)
def test_ways_that_do_not_work_are_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with serving() as (url, logins):
        with pytest.raises(StoreError, match=name) as caught:
            open_source(url, {})
        assert not logins
    assert "secret" not in str(caught.value)


def test_a_login_in_the_url_needs_no_other_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_AWS_SIGV4", "true")
    with serving() as (url, logins):
        at = url.replace("://", "://me:p@")
        assert login_at(at, logins) == basic("me", "p")


@pytest.mark.parametrize(
    "location",
    ["http://", "http://[::1", "http://h:99999", "http://me:s/ecret@h:1", "http://u:1/secret@h"],
)  # fmt: skip
def test_what_is_no_url_is_refused_before_anything_is_sent(location: str) -> None:
    with pytest.raises(LocationError, match="is no URL of a server") as caught:
        open_source(location, {})
    assert "ecret" not in str(caught.value)


def test_a_recorded_uri_that_is_none_harms_nobody() -> None:
    assert proxied_root("mlflow-artifacts://[::1/x") is None
    assert proxied_root("mlflow-artifacts:/1/x") == "1/x"


# -- trust ----------------------------------------------------------------------------


class Certificates:
    """An authority's certificate, and one signed by it with its key."""

    def __init__(self, folder: Path) -> None:
        pytest.importorskip("cryptography")
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import NameOID

        def name(text: str) -> x509.Name:
            return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

        def signed(subject: str, key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
            now = datetime.now(UTC)
            names = x509.SubjectAlternativeName(
                [x509.IPAddress(ip_address("127.0.0.1"))]
            )
            builder = (
                x509.CertificateBuilder()
                .subject_name(name(subject))
                .issuer_name(name("authority"))
                .public_key(key.public_key())
                .serial_number(x509.random_serial_number())
                .not_valid_before(now - timedelta(days=1))
                .not_valid_after(now + timedelta(days=1))
                .add_extension(names, critical=False)
                .add_extension(
                    x509.BasicConstraints(ca=subject == "authority", path_length=None),
                    critical=True,
                )
            )
            return builder.sign(authority, hashes.SHA256())

        authority = ec.generate_private_key(ec.SECP256R1())
        key = ec.generate_private_key(ec.SECP256R1())
        pem = serialization.Encoding.PEM
        self.authority = folder / "authority.pem"
        self.authority.write_bytes(signed("authority", authority).public_bytes(pem))
        self.own = folder / "own.pem"
        self.own.write_bytes(
            signed("own", key).public_bytes(pem)
            + key.private_bytes(
                pem,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def context(self, *, ask: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.own)
        if ask:
            context.load_verify_locations(self.authority)
            context.verify_mode = ssl.CERT_REQUIRED
        return context


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    return Certificates(tmp_path)


AUTHORITY = "MLFLOW_TRACKING_SERVER_CERT_PATH"


def test_mlflow_s_authority_comes_before_that_of_requests(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(certificates.context()) as (url, logins):
        with pytest.raises(StoreError, match=AUTHORITY):
            open_source(url, {})
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificates.authority))
        assert login_at(url, logins) == "none"
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
        with pytest.raises(StoreError, match=r"/nowhere/ca\.pem .*REQUESTS_CA"):
            open_source(url, {})
        monkeypatch.setenv(AUTHORITY, str(certificates.authority))
        assert login_at(url, logins) == "none"


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_checks_can_be_turned_off(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere/ca.pem")
    monkeypatch.setenv("MLFLOW_TRACKING_INSECURE_TLS", "True")
    with serving(certificates.context()) as (url, logins):
        assert login_at(url, logins) == "none"
        monkeypatch.setenv(AUTHORITY, str(certificates.authority))
        with pytest.raises(StoreError, match="both set"):  # as MLflow says
            open_source(url, {})


def test_a_client_s_certificate_is_shown(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(AUTHORITY, str(certificates.authority))
    with serving(certificates.context(ask=True)) as (url, logins):
        with pytest.raises(StoreError):
            open_source(url, {"retries": 0})
        monkeypatch.setenv("MLFLOW_TRACKING_CLIENT_CERT_PATH", str(certificates.own))
        assert login_at(url, logins) == "none"


@pytest.mark.parametrize("name", [AUTHORITY, "MLFLOW_TRACKING_CLIENT_CERT_PATH"])
def test_a_certificate_that_is_not_there_is_named(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, str(tmp_path / "gone.pem"))
    with pytest.raises(StoreError, match=f"gone.pem does not exist: correct {name}"):
        open_source("https://127.0.0.1:9", {})
    with serving() as (url, logins):  # plain HTTP has no use for it
        assert login_at(url, logins) == "none"
    (tmp_path / "gone.pem").write_text("nonsense")
    with pytest.raises(StoreError, match=r"TLS failed|cannot be reached"):
        open_source("https://127.0.0.1:9", {"retries": 0})
