"""Run a server until interrupted: `python -m tests.support.neptune_server --port 0`."""

from __future__ import annotations

from ..serving import serve
from .client import client_environment
from .serving import neptune_server

serve(__doc__, neptune_server, client_environment)
