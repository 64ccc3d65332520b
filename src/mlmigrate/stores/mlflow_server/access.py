"""How a server is logged in to, and by what it is trusted.

MLflow's own rules, so that what works for MLflow works here: the variables
``MLFLOW_TRACKING_…`` come before ``~/.mlflow/credentials``, a user with a password
before a token, and a login in the URL before all of them (`mlflow.utils.credentials`,
`mlflow.utils.rest_utils`). Whatever cannot work is said at once, by its name: a request
would only fail with a riddle.
"""

from __future__ import annotations

import configparser
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote

import requests
from requests.auth import AuthBase, HTTPBasicAuth

from mlmigrate.errors import StoreError
from mlmigrate.workspaces import DEFAULT

_USER = "MLFLOW_TRACKING_USERNAME"
_PASSWORD = "MLFLOW_TRACKING_PASSWORD"
_TOKEN = "MLFLOW_TRACKING_TOKEN"
_INSECURE = "MLFLOW_TRACKING_INSECURE_TLS"
_AUTHORITY = "MLFLOW_TRACKING_SERVER_CERT_PATH"
_CLIENT = "MLFLOW_TRACKING_CLIENT_CERT_PATH"
_WORKSPACE = "MLFLOW_WORKSPACE"
_HEADER = "X-MLFLOW-WORKSPACE"
#: Where requests looks for authorities if MLflow's variable names none.
_AUTHORITIES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


@dataclass(frozen=True, slots=True)
class Access:
    """What each request to one server takes along."""

    auth: AuthBase | None = field(repr=False)
    headers: dict[str, str]
    verify: bool | str | None  # as requests takes it; None: as the system is set up
    cert: str | None  # path of a client certificate with its key


def access_to(
    url: SplitResult,
    environ: Mapping[str, str] = os.environ,
    *,
    workspace: str | None = None,
) -> Access:
    """Return how to reach the server at *url*, with the settings in *environ*, and in
    another workspace if one is given.

    Raises:
        StoreError: a variable or the file is set to what cannot work, or asks for what
            mlmigrate does not support. Its text is ``WHAT: WHAT TO DO``.
    """
    auth, headers = login_to(url, environ)
    if workspace is not None:
        # A server without workspaces refuses the name of the one that it has, too.
        headers = {} if workspace == DEFAULT else {_HEADER: workspace}
    verify, cert = trust_in(url, environ)
    return Access(auth, headers, verify, cert)


# -- login ----------------------------------------------------------------------------


class _Bearer(AuthBase):
    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self._token}"
        return request


def login_to(
    url: SplitResult, environ: Mapping[str, str]
) -> tuple[AuthBase | None, dict[str, str]]:
    """Return the first half of `access_to`: who is there, and for which workspace."""
    workspace = _sendable(_WORKSPACE, environ)
    headers = {_HEADER: workspace} if workspace else {}
    if url.username is not None:
        return _basic(unquote(url.username), unquote(url.password or "")), headers
    _refuse_other_ways(environ)
    user, password = environ.get(_USER), environ.get(_PASSWORD)
    if not user or not password:
        kept_user, kept_password = _kept()
        user, password = user or kept_user, password or kept_password
    if user and password:
        return _basic(user, password), headers
    token = _sendable(_TOKEN, environ)
    return (_Bearer(token) if token else None), headers


def _basic(user: str, password: str) -> AuthBase:
    # As bytes: requests would encode text as Latin-1.
    return HTTPBasicAuth(user.encode(), password.encode())


def _kept() -> tuple[str | None, str | None]:
    """Return the user and the password that ``~/.mlflow/credentials`` holds."""
    path = os.path.expanduser("~/.mlflow/credentials")
    config = configparser.ConfigParser()
    try:
        config.read(path)
        if "mlflow" not in config:
            return None, None
        section = config["mlflow"]
        return section.get(_USER.lower()), section.get(_PASSWORD.lower())
    except (configparser.Error, UnicodeDecodeError):
        # The text of the error may hold the password.
        raise StoreError(
            f"{path} cannot be read: it should say [mlflow], then"
            f" {_USER.lower()} = … and {_PASSWORD.lower()} = …, with %% for each %"
        ) from None


def _refuse_other_ways(environ: Mapping[str, str]) -> None:
    if _is_set("MLFLOW_TRACKING_AWS_SIGV4", environ):
        raise StoreError(
            "MLFLOW_TRACKING_AWS_SIGV4 is set, but mlmigrate does not sign requests for"
            " AWS: unset it, and give the URL of a proxy that signs them"
        )
    if way := environ.get("MLFLOW_TRACKING_AUTH"):
        raise StoreError(
            f"MLFLOW_TRACKING_AUTH is set, but mlmigrate has no way to log in by {way}:"
            f" unset it, and set {_TOKEN}, or {_USER} and {_PASSWORD}"
        )


def _sendable(name: str, environ: Mapping[str, str]) -> str | None:
    value = environ.get(name)
    if value and not all(0x20 <= ord(letter) <= 0xFF for letter in value):
        raise StoreError(
            f"{name} holds a line's end or another letter that cannot be sent: set it"
            " anew"
        )
    return value or None


# -- trust ----------------------------------------------------------------------------


def trust_in(
    url: SplitResult, environ: Mapping[str, str]
) -> tuple[bool | str | None, str | None]:
    """Return the second half of `access_to`: `Access.verify` and `Access.cert`."""
    if url.scheme != "https":  # over plain HTTP nothing is certified
        return None, None
    return _authority(environ), _file(_CLIENT, environ)


def _authority(environ: Mapping[str, str]) -> bool | str | None:
    """Return what to check the server's certificate against."""
    authority = _file(_AUTHORITY, environ)
    if _is_set(_INSECURE, environ):
        if authority is not None:
            raise StoreError(
                f"{_INSECURE} and {_AUTHORITY} are both set: unset one of them"
            )
        return False
    if authority is None:
        for name in _AUTHORITIES:
            _file(name, environ)
    return authority


def _file(name: str, environ: Mapping[str, str]) -> str | None:
    path = environ.get(name)
    if path and not os.access(path, os.R_OK):
        what = "cannot be read" if os.path.exists(path) else "does not exist"
        raise StoreError(f"{path} {what}: correct {name}, which names it, or unset it")
    return path or None


def _is_set(name: str, environ: Mapping[str, str]) -> bool:
    return environ.get(name, "").lower() in ("true", "1")
