"""A process that runs ``wandb sync``, and ends when the one that began it does.

``python -m mlmigrate.stores.wandb_cloud.sync_process PARENT FOLDER...``: if it outlived
a killed copy, the next copy would not know of the rows that it goes on to send.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

#: Of Linux's ``prctl``: the signal that a process gets when its parent ends.
_SET_DEATH_SIGNAL = 1
#: Runs that are sent at once: each waits for the server most of the time.
_AT_ONCE = "16"


def main() -> None:
    """Send the runs in the folders that the command line names."""
    parent, *folders = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(parent):
        return  # it ended before it could be asked for
    from wandb.cli.cli import cli

    cli(["sync", "-n", _AT_ONCE, *folders])


if __name__ == "__main__":
    main()
