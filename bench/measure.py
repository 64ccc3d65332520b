"""
Run a command and say what it took, as one line of JSON.

    python -I -S bench/measure.py RESULT LOG COMMAND...

A process of its own, and a small one: what a child needed at most is asked of the
kernel, which counts the parent's own memory at the time of the fork.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time


def main() -> None:
    result, log, *command = sys.argv[1:]
    with open(log, "ab") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output
        )
        code = process.wait()
        seconds = time.perf_counter() - begun
    # Of all descendants that were waited for: the sum of times, the largest memory.
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    unit = 1 if sys.platform == "darwin" else 1024
    with open(result, "w") as file:
        json.dump(
            {
                "seconds": seconds,
                "cpu_seconds": usage.ru_utime + usage.ru_stime,
                "peak_bytes": usage.ru_maxrss * unit,
                "exit_code": code,
            },
            file,
        )
    os._exit(0)


if __name__ == "__main__":
    main()
