"""
A Neptune server (3.x API) on loopback, which the real clients take for the real one.

It keeps all in memory and answers at once, so that what a client sees follows from
what it has sent. It carries `neptune_scale`, which writes, and `neptune_query`, which
reads. It knows one API token and one user; any `workspace/project` exists, unless its
name is among the `missing`. Runs can be put in without a client (`add_run`), and
faults are planted by the name of an operation (`submit`, `upload`, `download`, or that
of the client's own function for it), or by a part of its path:

    with neptune3_server() as server, neptune3_client(server):
        server.plant("submit", refuse(503), times=2)
        server.plant("submit", Forget("metrics/*"), when=lambda said: ...)
        server.plant("submit", Reject("RUN_CONFLICTING"))
        server.plant("upload", Forget(keep=10), times=None)  # bytes, of each file
        with neptune_scale.Run(project="team/proj", run_id="a", mode="offline") as run:
            run.log_metrics({"loss": 0.1}, step=1)
        sync_here(...)
        server.projects["team/proj"].runs["a"].points("loss")

`server.lag` is after how many seconds readers see new data, `server.status_lag` after
how many the writer is told of it; `server.count(…)` tells how often something was
asked for.
"""

from ..faults import delay, drop, lie, refuse, reset, truncate
from ..neptune_server.messages import Deny
from ..neptune_server.operations import Forget
from .attributes import (
    Atom,
    FileRef,
    Histogram,
    Point,
    Preview,
    Series,
    StoredFile,
    StringSet,
)
from .client import client_environment, neptune3_client, sync_here
from .operations import Reject
from .planting import File, add_run, files, floats, histograms, strings
from .serving import Neptune3Server, neptune3_server
from .state import Project, Run

__all__ = [
    "Atom",
    "Deny",
    "File",
    "FileRef",
    "Forget",
    "Histogram",
    "Neptune3Server",
    "Point",
    "Preview",
    "Project",
    "Reject",
    "Run",
    "Series",
    "StoredFile",
    "StringSet",
    "add_run",
    "client_environment",
    "delay",
    "drop",
    "files",
    "floats",
    "histograms",
    "lie",
    "neptune3_client",
    "neptune3_server",
    "refuse",
    "reset",
    "strings",
    "sync_here",
    "truncate",
]
