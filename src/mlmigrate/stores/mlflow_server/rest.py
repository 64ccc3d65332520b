"""HTTP to one MLflow server: requests, retries and clear errors.

Three things can happen to a request. It is answered; it certainly did nothing (no
connection, 429) and is repeated; or nobody knows what it did (a lost answer, a 502).
The last is repeated where that is harmless, and is `Ambiguous` where it is not.
"""

from __future__ import annotations

import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any, BinaryIO, TypeAlias
from urllib.parse import SplitResult, quote, urlsplit, urlunsplit

import requests
from urllib3.exceptions import HTTPError, NewConnectionError

from mlmigrate.artifacts import redact, redact_within, short
from mlmigrate.errors import ItemError, LocationError, StoreError
from mlmigrate.stores.mlflow_server.access import access_to
from mlmigrate.stores.mlflow_server.connections import quicken
from mlmigrate.stores.mlflow_server.streams import Body, downloaded
from mlmigrate.workspaces import DEFAULT

Json: TypeAlias = dict[str, Any]

API = "/api/2.0/mlflow/"
#: What its searches take of them at once.
EXPERIMENTS_A_SEARCH = 100
_JSON = {"Content-Type": "application/json"}
_LONGEST_WAIT = 60.0
#: An error 500 is often a deadlock in the server's database, and as often for good.
_TRIES_AT_500 = 3
_TRIES_TO_CREATE = 6


class Refused(ItemError):
    """The server understood a request and refused it."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code

    @property
    def absent(self) -> bool:
        """What was asked for does not exist."""
        return self.status == 404 or self.code == "RESOURCE_DOES_NOT_EXIST"

    @property
    def unknown(self) -> bool:
        """The server has no such endpoint."""
        return self.status in (404, 405) and not self.code

    @property
    def failing(self) -> bool:
        """The server itself failed, at what others of its answers may not hold."""
        return self.status == 500

    @property
    def exists(self) -> bool:
        """What should be made exists."""
        return self.code == "RESOURCE_ALREADY_EXISTS"


class Ambiguous(Exception):
    """The answer to a create was lost: it may have been done, or not."""


class Rest:
    """The documented REST API of one server, in one of its workspaces. Safe to use from
    many threads.

    Raises:
        LocationError: the location is no URL of a server.
        StoreError: the login or the certificates that are set cannot be used.
    """

    def __init__(
        self,
        location: str,
        *,
        timeout: float,
        retries: int,
        workspace: str | None = None,
    ) -> None:
        parts = _parsed(location)
        host = parts.netloc.rpartition("@")[2]
        self.base = urlunsplit((parts.scheme, host, parts.path.rstrip("/"), "", ""))
        self.host = parts.hostname or ""
        self._timeout = timeout
        self._retries = retries
        self._access = access_to(parts, workspace=workspace)
        self.workspace = workspace or DEFAULT
        self._local = threading.local()
        self._sessions: list[requests.Session] = []
        self._lock = threading.Lock()

    @property
    def loopback(self) -> bool:
        """Whether the server seems to run on this machine."""
        return (
            self.host in ("localhost", "::1")
            or self.host.startswith("127.")
            or self.host == socket.gethostname()
        )

    def get(self, path: str, /, **query: Any) -> Json:
        """GET a path below ``/api/2.0/mlflow/``, or any path that begins with ``/``."""
        return self._json("GET", path, query={k: v for k, v in query.items() if v})

    def post(self, path: str, body: Json) -> Json:
        """POST what may be done twice without harm, or only reads."""
        return self._json("POST", path, body=body)

    def change(self, method: str, path: str, body: Json) -> Json:
        """Send a PATCH or DELETE, which may be done twice without harm."""
        return self._json(method, path, body=body)

    def post_bytes(self, path: str, data: bytes, headers: Mapping[str, str]) -> None:
        """POST what is no JSON and may be done twice without harm."""
        self._send("POST", self._url(path), data=data, headers=headers).close()

    def create(self, path: str, body: Json) -> Json:
        """POST what would make a second thing if done twice.

        Raises:
            Ambiguous: nobody knows whether it was done; look, and only then repeat.
        """
        return self._json("POST", path, body=body, repeatable=False)

    def pages(self, path: str, field: str, query: Json) -> Iterator[Json]:
        """Yield what is in *field* of each page of a search by GET."""
        token = ""
        while True:
            page = self.get(path, **query, page_token=token)
            yield from page.get(field) or ()
            following = page.get("next_page_token") or ""
            if not following or following == token:
                return
            token = following

    def posted_pages(self, path: str, field: str, body: Json) -> Iterator[Json]:
        """Yield what is in *field* of each page of a search by POST."""
        token = ""
        while True:
            page = self.post(path, {**body, **({"page_token": token} if token else {})})
            yield from page.get(field) or ()
            following = page.get("next_page_token") or ""
            if not following or following == token:
                return
            token = following

    def download(self, path: str, query: Json | None = None) -> BinaryIO:
        """Open the bytes at *path*. A connection that breaks is resumed.

        Raises:
            OSError: while reading, when it cannot be resumed.
        """
        url = self._url(path)

        def begin() -> requests.Response:
            return self._send("GET", url, query=query, stream=True)

        return downloaded(begin, self._retries)

    def upload(self, path: str, begin: Callable[[], Body]) -> Body:
        """PUT a stream; *begin* opens it anew for each try.

        Returns:
            The body that arrived, with its checksum.
        """
        bodies: list[Body] = []

        def fresh() -> Body | bytes:
            bodies.append(begin())
            # requests would send an empty stream in chunks, without its length.
            return bodies[-1] if len(bodies[-1]) else b""

        try:
            self._send("PUT", self._url(path), stream_body=fresh).close()
            bodies[-1].finish()
            return bodies[-1]
        finally:
            for body in bodies:
                body.close()

    def close(self) -> None:
        """Close all connections. May be called twice."""
        with self._lock:
            for session in self._sessions:
                session.close()
            self._sessions.clear()
            self._local = threading.local()

    # -- one request ------------------------------------------------------------

    def _json(
        self,
        method: str,
        path: str,
        *,
        query: Json | None = None,
        body: Json | None = None,
        repeatable: bool = True,
    ) -> Json:
        url = self._url(path)
        data = None if body is None else json.dumps(body).encode()
        response = self._send(
            method, url, query=query, data=data, repeatable=repeatable
        )
        answer: object = None
        # Anything else than an object is no answer of MLflow either.
        with suppress(ValueError):
            answer = json.loads(response.content)
        if isinstance(answer, dict):
            return answer
        raise StoreError(
            f"{self.base} does not answer like an MLflow server ({path}:"
            f" {response.headers.get('content-type', 'no type')}): give the URL that"
            " MLFLOW_TRACKING_URI would hold"
        )

    def _send(
        self,
        method: str,
        url: str,
        *,
        query: Json | None = None,
        data: bytes | None = None,
        stream_body: Callable[[], Body | bytes] | None = None,
        stream: bool = False,
        repeatable: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> requests.Response:
        """Send until there is an answer that more tries will not better."""
        attempt = 0
        while True:
            attempt += 1
            wait = _pause(attempt)
            try:
                response = self._session().request(
                    method,
                    url,
                    params=query,
                    data=stream_body() if stream_body else data,
                    headers=headers or (_JSON if data else None),
                    # Given with each request: REQUESTS_CA_BUNDLE would come before
                    # what a session says.
                    verify=self._access.verify,
                    timeout=(min(10.0, self._timeout), self._timeout),
                    stream=stream,
                    # A POST that is redirected would silently become a GET.
                    allow_redirects=False,
                )
            except (requests.RequestException, HTTPError) as error:
                self._judge_exception(error, attempt, repeatable)
            else:
                if response.status_code < 300:
                    return response
                after = self._judge_answer(response, attempt, repeatable)
                wait = max(wait, after)
            time.sleep(wait)

    def _judge_exception(
        self, error: Exception, attempt: int, repeatable: bool
    ) -> None:
        """Return where the request may be sent again, raise where not."""
        cause: object = error.args[0] if error.args else None
        reason = getattr(cause, "reason", None)
        unsent = isinstance(error, requests.ConnectTimeout) or isinstance(
            reason, NewConnectionError
        )
        if isinstance(error, requests.exceptions.SSLError):
            raise StoreError(
                f"{self.base}: TLS failed ({short(error)}): set"
                " MLFLOW_TRACKING_SERVER_CERT_PATH to the server's certificate"
            ) from None
        if isinstance(
            error,
            requests.exceptions.InvalidURL
            | requests.exceptions.InvalidSchema
            | requests.exceptions.MissingSchema,
        ):
            raise StoreError(f"{self.base} is no URL of a server") from None
        if not unsent and not repeatable:
            raise Ambiguous(short(error)) from None
        # A server that is not there at all will hardly come up while we wait.
        if attempt > (min(self._retries, 2) if unsent else self._retries):
            raise StoreError(
                f"{self.base} cannot be reached ({_plain(error)}): check that the"
                " server runs and that the URL is right"
            ) from None

    def _judge_answer(
        self, response: requests.Response, attempt: int, repeatable: bool
    ) -> float:
        """Return how long to wait at least before the next try, or raise."""
        status = response.status_code
        try:
            body = response.content[:100_000]
        except (requests.RequestException, HTTPError):
            body = b""
        code, text = _said(body)
        where = f"{self.base}: "
        if status in (429, 502, 503, 504) and "artifacts-only" not in text:
            if status != 429 and not repeatable:
                raise Ambiguous(f"HTTP {status}")
            if attempt <= self._retries:
                return _retry_after(response)
            raise StoreError(
                f"{where}still HTTP {status} after {attempt} tries: the server is"
                " overloaded or down; run the same command again later"
            )
        if status == 503:
            raise StoreError(
                f"{where}serves artifacts only: give the URL of the tracking server"
            )
        if status == 500:
            if not repeatable:
                raise Ambiguous(text or "HTTP 500")
            if attempt < min(_TRIES_AT_500, self._retries + 1):
                return 0.0
        if status == 401:
            raise StoreError(
                f"{where}wants a login, or refuses the one given: set"
                " MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or"
                " MLFLOW_TRACKING_TOKEN"
            )
        if 300 <= status < 400:
            target = redact(response.headers.get("location", "elsewhere"))
            raise StoreError(
                f"{where}redirects to {target}: give that server's URL, or log in"
            )
        if status == 403:
            raise Refused(
                status, code, f"permission denied by {self.base}: {text or 'HTTP 403'}"
            )
        if not code and status in (404, 405):
            raise Refused(
                status,
                code,
                f"{where}does not know {urlsplit(response.url).path}"
                " (no MLflow server, or an old one)",
            )
        if not text:
            path = urlsplit(response.url).path
            text = f"{where}gives no reason for what it answers to {path}"
        raise Refused(status, code, f"{text} (HTTP {status})")

    def _url(self, path: str) -> str:
        return self.base + (path if path.startswith("/") else API + path)

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._new_session()
            with self._lock:
                self._sessions.append(session)
            self._local.session = session
        return session

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.auth = self._access.auth
        session.cert = self._access.cert
        session.headers.update(self._access.headers)
        quicken(session)
        return session


def creating(create: Callable[[], Json], find: Callable[[], Json | None]) -> Json:
    """Create something once, though answers may be lost.

    Args:
        create: raises `Ambiguous` where nobody knows whether it was done.
        find: looks for what a lost answer made.

    Raises:
        ItemError: no answer came through.
    """
    lost: Ambiguous | None = None
    for attempt in range(_TRIES_TO_CREATE):
        try:
            return create()
        except Ambiguous as error:
            lost = error
            time.sleep(_pause(attempt))
            found = find()
            if found is not None:
                return found
    raise ItemError(f"the server lost every answer to a create: {lost}")


# -- small parts ------------------------------------------------------------------


def _parsed(location: str) -> SplitResult:
    """Return the parts of a server's URL.

    Raises:
        LocationError: it is none. An ``@`` behind the host belongs to a password that
            was cut short by a slash of its own: the rest of it must not be sent.
    """
    try:
        parts = urlsplit(location)
        whole = bool(parts.hostname) and parts.port != 0
        whole = whole and "@" not in parts.path + parts.query + parts.fragment
    except ValueError:
        whole = False
    if not whole:
        # Nothing of the cause is told: it may hold the password.
        raise LocationError(
            f"{redact(location)} is no URL of a server: give http://HOST:PORT, or"
            " http://USER:PASSWORD@HOST:PORT with %2F, %40 and so on for / and @ in the"
            " password"
        ) from None
    return parts


def _said(body: bytes) -> tuple[str, str]:
    """Return the error code and the message of an answer, empty where it has none."""
    try:
        fields = json.loads(body)
    except ValueError:
        text = body.decode(errors="replace").strip()
        plain = "" if text.startswith("<") else " ".join(text.split())
        return "", redact_within(plain)[:300]
    if not isinstance(fields, Mapping):
        return "", ""
    text = str(fields.get("message") or fields.get("detail") or "")
    plain = redact_within(" ".join(text.split()))
    return str(fields.get("error_code") or ""), plain[:500]


def _retry_after(response: requests.Response) -> float:
    try:
        return min(float(response.headers.get("retry-after", 0)), _LONGEST_WAIT)
    except ValueError:
        return 1.0


def _pause(attempt: int) -> float:
    """Return the seconds to wait after the given failed try."""
    # With jitter: many threads must not come back at the same moment.
    return float(min(0.1 * 2**attempt, 20.0) * (0.5 + random.random()))


def _plain(error: Exception) -> str:
    """Return the heart of a wordy connection error."""
    cause: object = error.args[0] if error.args else error
    reason = getattr(cause, "reason", None) or cause
    text = redact_within(str(reason)).strip().splitlines()[:1]
    tail = text[0].rsplit(": ", 1)[-1] if text else type(error).__name__
    return tail.strip("()'\" ")[:200]


def quoted(path: str) -> str:
    """Return *path* escaped for use in a URL."""
    return quote(path, safe="/~")


def filter_text(value: str) -> str | None:
    """Return *value* as a literal of MLflow's filter language.

    That knows no escapes: None where it cannot be said.
    """
    if "'" not in value:
        return f"'{value}'"
    return f'"{value}"' if '"' not in value else None
