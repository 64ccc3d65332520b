"""Run a server until interrupted: `python -m tests.support.wandb_server --port 0`."""

from __future__ import annotations

from ..serving import serve
from .serving import WandbServer, wandb_server


def _environment(server: WandbServer) -> dict[str, str]:
    return {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": server.api_key}


serve(__doc__, wandb_server, _environment)
