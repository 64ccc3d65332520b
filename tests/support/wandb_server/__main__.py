"""Run a server until interrupted: `python -m tests.support.wandb_server --port 0`."""

from __future__ import annotations

import argparse
import sys
import threading
from contextlib import suppress

from .serving import wandb_server

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--port", type=int, default=0)
with wandb_server(parser.parse_args().port) as server:
    sys.stdout.write(f"WANDB_BASE_URL={server.url} WANDB_API_KEY={server.api_key}\n")
    sys.stdout.flush()
    with suppress(KeyboardInterrupt):
        threading.Event().wait()
