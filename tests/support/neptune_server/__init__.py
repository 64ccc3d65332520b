"""
A Neptune server (2.x API) on loopback, which the real client takes for the real one.

It keeps all in memory and answers at once, so that what a client sees follows from
what it has sent. It knows one API token and one user; any `workspace/project` exists,
unless its name is among the `missing`. Runs and models can be put in without a client
(`add_run`, `add_model`), and faults are planted by the name of an operation, or by a
part of its path:

    with neptune_server() as server, neptune_client(server):
        server.plant("executeOperations", refuse(500), times=2)
        server.plant("executeOperations", Forget("metrics/*", keep=1))
        server.plant("createExperiment", Deny(422, title="no more runs"))
        run = neptune.init_run(project="team/proj", custom_run_id="a" * 32)
        run["params/lr"] = 0.1
        run.stop()
        server.projects["team/proj"].run("a" * 32)["params/lr"]

`server.lag` is after how many seconds new data shows; `server.count(…)` tells how
often something was asked for.
"""

from ..faults import delay, drop, lie, refuse, reset, truncate
from .attributes import (
    Artifact,
    Atom,
    File,
    FileSet,
    GitRef,
    Image,
    Point,
    Series,
    StringSet,
)
from .client import client_environment, neptune_client
from .messages import Deny
from .operations import Forget
from .planting import (
    add_artifact,
    add_model,
    add_model_version,
    add_run,
    floats,
    images,
    strings,
)
from .serving import NeptuneServer, neptune_server
from .state import Container, Project

__all__ = [
    "Artifact",
    "Atom",
    "Container",
    "Deny",
    "File",
    "FileSet",
    "Forget",
    "GitRef",
    "Image",
    "NeptuneServer",
    "Point",
    "Project",
    "Series",
    "StringSet",
    "add_artifact",
    "add_model",
    "add_model_version",
    "add_run",
    "client_environment",
    "delay",
    "drop",
    "floats",
    "images",
    "lie",
    "neptune_client",
    "neptune_server",
    "refuse",
    "reset",
    "strings",
    "truncate",
]
