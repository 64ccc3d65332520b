"""Whether an MLflow server answers, and lets us in."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from urllib.parse import urljoin, urlsplit, urlunsplit

import requests

from mlmigrate.artifacts import redact, short
from mlmigrate.doctor.check import Check
from mlmigrate.errors import StoreError
from mlmigrate.stores.mlflow_server.access import login_to, trust_in

TIMEOUT = 5.0
_TOKEN = "MLFLOW_TRACKING_TOKEN"
_EXPERIMENTS = "/api/2.0/mlflow/experiments/"
_VERSION = re.compile(r"\d+(\.\w+)+")


def diagnose_server(location: str, environ: Mapping[str, str]) -> Iterator[Check]:
    """Check that a server answers, that it is MLflow's, and that the login is right.

    Args:
        location: its ``http(s)://`` URL.
        environ: the environment, whose login and certificates count as they do for a
            copy.
    """
    base = location.rstrip("/")
    shown = redact(base)

    subject = "login"
    try:
        url = urlsplit(base)
        auth, headers = login_to(url, environ)
        subject = "server"
        verify, cert = trust_in(url, environ)
        with requests.Session() as session:

            def ask(path: str) -> requests.Response:
                # Given with each request: what a session says comes after ``.netrc``
                # and ``REQUESTS_CA_BUNDLE``, which MLflow's own variables precede.
                return session.get(
                    base + path,
                    timeout=TIMEOUT,
                    allow_redirects=False,
                    auth=auth,
                    headers=headers,
                    verify=verify,
                    cert=cert,
                )

            health, version = ask("/health"), ask("/version")
            api = ask(f"{_EXPERIMENTS}get?experiment_id=0")
            if api.status_code == 403:
                # Who may not read the first experiment may read others.
                search = ask(f"{_EXPERIMENTS}search?max_results=1")
                api = search if search.ok else api
    except StoreError as error:
        what, _, fix = str(error).partition(": ")
        yield Check(subject, False, what, fix)
        return
    except (OSError, ValueError) as error:
        yield Check("server", False, *_unreachable(shown, error))
        return
    yield from _judge(shown, health, version, api)


# -- no answer ------------------------------------------------------------------------


def _unreachable(shown: str, error: OSError | ValueError) -> tuple[str, str]:
    failures = requests.exceptions
    if isinstance(error, ValueError):
        # The text of a malformed URL may hold its password.
        return f"{shown} is no URL of a server", "give http://HOST:PORT"
    if not isinstance(error, requests.RequestException):
        fix = (
            "correct MLFLOW_TRACKING_SERVER_CERT_PATH or"
            " MLFLOW_TRACKING_CLIENT_CERT_PATH"
        )
        return f"{shown} was not asked: {short(error)}", fix
    text = str(error)
    if isinstance(error, failures.SSLError):
        if "WRONG_VERSION_NUMBER" in text or "record layer failure" in text:
            fix = f"give http://{shown.partition('://')[2]}"
            return f"{shown} answers, but without TLS", fix
        fix = "set MLFLOW_TRACKING_SERVER_CERT_PATH to the server's certificate"
        return f"{shown}: TLS fails: {short(error)}", fix
    if isinstance(error, failures.ProxyError):
        fix = "correct HTTP_PROXY and HTTPS_PROXY, or name the host in NO_PROXY"
        return f"{shown} is asked through a proxy, which does not answer", fix
    if isinstance(error, requests.Timeout):
        fix = "check the host, the port, the VPN and the firewall"
        return f"{shown} does not answer within {TIMEOUT:.0f} s", fix
    if "resolve" in text or "Name or service" in text or "getaddrinfo" in text:
        return f"{shown}: its name is not known", "check the spelling, and the VPN"
    reason = "refuses the connection" if "refused" in text else "cannot be reached"
    return (
        f"{shown} {reason}",
        "start it (mlflow server --host … --port …), or correct the host and the port",
    )


# -- its answers ----------------------------------------------------------------------


def _judge(
    shown: str,
    health: requests.Response,
    version: requests.Response,
    api: requests.Response,
) -> Iterator[Check]:
    """Tell from its answers what a server is.

    Only the API counts: it is all that MLflow's clients ask for, and a proxy may guard
    or hide the other pages.
    """
    status = api.status_code
    if any("Invalid Host header" in each.text[:2000] for each in (health, api)):
        host = urlsplit(health.url).netloc.rpartition("@")[2]
        what = f"{shown} refuses requests for the host {host}"
        fix = f"start it with: mlflow server --allowed-hosts {host}"
        yield Check("server", False, what, fix)
        return
    if status >= 500:
        what = f"{shown} answers with HTTP {status}"
        yield Check("server", False, what, "look into the server's log")
        return
    if api.is_redirect:
        yield from _redirected(shown, api)
        return
    if status in (401, 403):
        yield Check("server", True, f"{shown} answers")
        yield Check("login", False, *_refused(shown, api))
        return
    if not _is_mlflow(api):
        what = f"{shown} answers, but not as an MLflow server does (HTTP {status})"
        fix = "give the URL of the server itself, with the path below which it serves"
        yield Check("server", False, what, fix)
        return
    text = version.text.strip() if version.status_code == 200 else ""
    release = f", MLflow {text}" if _VERSION.fullmatch(text) else ""
    yield Check("server", True, f"{shown} answers{release}")
    yield Check("login", True, f"{shown} lets this user read")


def _is_mlflow(api: requests.Response) -> bool:
    try:
        answer = api.json()
    except ValueError:
        return False
    return isinstance(answer, dict) and (api.ok or "error_code" in answer)


def _redirected(shown: str, api: requests.Response) -> Iterator[Check]:
    target = urlsplit(urljoin(api.url, api.headers["location"]))
    path, found, _ = target.path.partition(_EXPERIMENTS)
    if found:  # the same page elsewhere: the server has moved, or wants TLS
        moved = redact(urlunsplit((target.scheme, target.netloc, path, "", "")))
        what, fix = f"{shown} redirects to {moved}", f"give {moved} instead"
        yield Check("server", False, what, fix)
        return
    page = redact(urlunsplit((target.scheme, target.netloc, target.path, "", "")))
    fix = f"log in as its proxy wants it, or set {_TOKEN}"
    yield Check("server", True, f"{shown} answers")
    yield Check("login", False, f"{shown} redirects to {page}", fix)


def _refused(shown: str, api: requests.Response) -> tuple[str, str]:
    if api.status_code == 403:
        fix = "ask its administrator for permission to read"
        return f"{shown} denies this user permission", fix
    given = "refuses the login given" if "Authorization" in api.request.headers else ""
    return (
        f"{shown} {given or 'wants a login'}",
        f"set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or {_TOKEN}",
    )
