"""Connections to servers of several workers, without a stall of 40 ms an answer."""

from __future__ import annotations

import socket
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool


def _acknowledge_at_once(connection: HTTPConnection) -> None:
    """Make the kernel acknowledge what arrives without delay.

    Servers with several workers send head and body as two small packets, and hold the
    second back until the first is acknowledged, which takes 40 ms by default. The flag
    does not last, so it is set before every answer.
    """
    quickack = getattr(socket, "TCP_QUICKACK", None)
    sock = connection.sock
    if quickack is None or sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.IPPROTO_TCP, quickack, 1)


class _QuickConnection(HTTPConnection):
    def getresponse(self) -> Any:
        _acknowledge_at_once(self)
        return super().getresponse()


class _QuickTlsConnection(HTTPSConnection):
    def getresponse(self) -> Any:
        _acknowledge_at_once(self)
        return super().getresponse()


class _QuickPool(HTTPConnectionPool):
    ConnectionCls = _QuickConnection


class _QuickTlsPool(HTTPSConnectionPool):
    ConnectionCls = _QuickTlsConnection


class _QuickAdapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": _QuickPool,
            "https": _QuickTlsPool,
        }


def quicken(session: requests.Session) -> None:
    """Let a session use connections that acknowledge at once."""
    session.mount("http://", _QuickAdapter())
    session.mount("https://", _QuickAdapter())
