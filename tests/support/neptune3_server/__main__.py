"""Run a server until interrupted; `--port` says where."""

from __future__ import annotations

from ..serving import serve
from .client import client_environment
from .serving import neptune3_server

serve(__doc__, neptune3_server, client_environment)
