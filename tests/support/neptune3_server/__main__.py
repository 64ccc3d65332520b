"""Run a server until interrupted; `--port` says where."""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import suppress

from .client import client_environment
from .serving import neptune3_server

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=0)
with neptune3_server(parser.parse_args().port) as server:
    variables = client_environment(server)
    sys.stdout.write(" ".join(f"{name}={value}" for name, value in variables.items()))
    sys.stdout.write("\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
