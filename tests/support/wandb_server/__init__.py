"""
A Weights & Biases server on loopback, which the real client takes for the real one.

It keeps all in memory, holds no queue and answers at once, so that what a client sees
follows from what it has sent. It knows one API key, one user and one organization;
any name is an entity. Runs and artifacts can be put in without a client (`add_run`,
`add_artifact`), and faults are planted by operation or path:

    with wandb_server() as server, wandb_client(server, tmp_path):
        server.plant("/file_stream", refuse(500), times=2)
        wandb.init(entity="team", project="proj", id="a").finish()
        server.runs["team", "proj", "a"].state
"""

from ..faults import delay, drop, lie, refuse, reset, truncate
from .client import client_environment, wandb_client
from .planting import add_artifact, add_link, add_run
from .rules import Forget
from .serving import API_KEY, WandbServer, wandb_server

__all__ = [
    "API_KEY",
    "Forget",
    "WandbServer",
    "add_artifact",
    "add_link",
    "add_run",
    "client_environment",
    "delay",
    "drop",
    "lie",
    "refuse",
    "reset",
    "truncate",
    "wandb_client",
    "wandb_server",
]
