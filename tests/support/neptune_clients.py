"""Folders as Neptune's clients leave them: written by the clients, and by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

UUID = "2f0e393c-a0f7-43e4-855f-4fb675dc90e3"
HEX = UUID.replace("-", "")
T = 1_700_000_000.25
MS = 1_700_000_000_250

#: Written by the 1.x client itself, in the folder where it runs.
CLIENT_1 = """
import datetime, os
from pathlib import Path
import neptune
from neptune.types import File
from PIL import Image

Path("data/sub").mkdir(parents=True)
Path("data/a.txt").write_text("AAA")
Path("data/sub/b.txt").write_text("BBB")
run = neptune.init_run(
    mode="offline", name="first", description="what it is", tags=["t1", "t2"],
    capture_hardware_metrics=False, capture_stdout=False, capture_stderr=False,
    capture_traceback=False, git_ref=False, source_files=[],
)
run["params"] = {
    "lr": 0.1, "n": 3, "flag": True, "name": "x",
    "when": datetime.datetime(2024, 1, 2, 3, 4, 5, 678000, datetime.timezone.utc),
}
for value in (1.0, 0.5, 0.25):
    run["loss"].append(value)
run["loss"].append(0.125, step=10)
run["loss"].append(0.1)
run["acc"].extend([0.1, 0.2], steps=[1, 2.5], timestamps=[1700000000.123, 1700000001.5])
run["text"].append("hello")
run["text"].append("w\\u00f6rld")
red = Image.new("RGB", (4, 4), (255, 0, 0))
run["img"].append(File.as_image(red), name="red", description="all of it")
run["pic"].upload(File.as_image(red))
run["file"].upload("data/a.txt")
run["content"].upload(File.from_content("inline", extension="md"))
run["set"].upload_files(["data/*.txt", "data/sub"])
run["art"].track_files("data")
run["sys/tags"].add(["t3"])
run["sys/tags"].remove("t1")
run["sys/failed"] = True
run["gone"] = 1
del run["gone"]
run.stop()
"""

#: What the 1.x client does while it sends; then it is killed.
SENDING_1 = """
import os, queue, threading
from neptune.internal.container_type import ContainerType
from neptune.internal.operation import AssignInt, LogFloats
from neptune.internal.operation_processors.async_operation_processor import (
    AsyncOperationProcessor,
)

class Backend:
    def execute_operations(self, container_id, container_type, operations, **_):
        return len(operations), []

processor = AsyncOperationProcessor(
    container_id="2f0e393c-a0f7-43e4-855f-4fb675dc90e3",
    container_type=ContainerType.RUN, backend=Backend(), lock=threading.RLock(),
    queue=queue.Queue(), sleep_time=0.05,
)
processor.start()
for at in range(3):
    processor.enqueue_operation(AssignInt(["sent", str(at)], at), wait=False)
processor.wait()
processor.pause()
point = LogFloats.ValueType(0.5, None, 1700000000.0)
processor.enqueue_operation(LogFloats(["m"], [point]), wait=False)
processor.flush()
processor.enqueue_operation(AssignInt(["lost"], 1), wait=False)
os._exit(0)
"""

#: Written by the 3.x client itself.
CLIENT_3 = """
import datetime
from pathlib import Path
from neptune_scale import Run
from neptune_scale.types import File, Histogram

def moment(second):
    return datetime.datetime(2024, 1, 2, 3, 4, second, 678000, datetime.timezone.utc)

if __name__ == "__main__":
    Path("f.txt").write_text("FILE")
    how = dict(mode="offline", project="ws/proj", enable_console_log_capture=False,
               source_tracking_config=None)
    run = Run(run_id="parent", experiment_name="exp", creation_time=moment(0), **how)
    run.log_configs({"lr": 0.1, "n": 2**40, "flag": False, "s": "x", "when": moment(5),
                     "l": ["b", "a"]})
    run.add_tags(["t1", "t2"])
    run.remove_tags(["t1"])
    for step in range(5):
        values = {"loss": 1 / (step + 1), "acc": float("nan") if step == 1 else step}
        run.log_metrics(values, step=step, timestamp=moment(step))
    run.log_metrics({"large": 1.0}, step=1_000_000_000, timestamp=moment(1))
    run.log_string_series({"txt": "h\\u00e4llo"}, step=1, timestamp=moment(1))
    run.log_string_series({"txt": "later"}, step=4, timestamp=moment(4))
    run.log_histograms({"h": Histogram([0, 1, 2], counts=[3, 4])}, step=2,
                       timestamp=moment(2))
    run.log_histograms({"h": Histogram([0, 1], densities=[0.5])}, step=3,
                       timestamp=moment(3))
    run.assign_files({"fa": "f.txt", "fb": File(b"bytes", mime_type="text/plain")})
    run.log_files({"fs": "f.txt"}, step=3)
    run.log_metrics({"p": 1.0}, step=3, preview=True, preview_completion=0.5,
                    timestamp=moment(3))
    run.close()
    run = Run(run_id="child", fork_run_id="parent", fork_step=2, **how)
    run.log_metrics({"loss": 7.0}, step=3, timestamp=moment(30))
    run.close()
    run = Run(run_id="plain", fork_run_id="child", fork_step=1, inherit_configs=False,
              **how)
    run.close()
    run = Run(run_id="orphan", fork_run_id="nobody", fork_step=1, **how)
    run.close()
"""


def written_by(script: str, folder: Path) -> Path:
    """Run a client in a folder; return the ``.neptune`` that it leaves there."""
    folder.mkdir(parents=True, exist_ok=True)
    program = folder / "script.py"
    program.write_text(script)
    done = subprocess.run(
        [sys.executable, str(program)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    program.unlink()
    return folder / ".neptune"


def queue(
    folder: Path,
    operations: Iterable[Mapping[str, Any]],
    *,
    sent: int | None = None,
    put: int | None = None,
    first: int = 1,
) -> Path:
    """Write a queue of the 1.x client's: the operations, a second apart."""
    folder.mkdir(parents=True, exist_ok=True)
    version = first - 1
    with (folder / f"data-{first}.log").open("w") as log:
        for version, said in enumerate(operations, start=first):
            record = {"obj": said, "version": version, "at": T + version}
            log.write(json.dumps(record) + "\n")
    count = version if put is None else put
    (folder / "last_put_version").write_text(str(count))
    if sent is not None:
        (folder / "last_ack_version").write_text(str(sent))
    return folder


def op(kind: str, path: str, **fields: Any) -> dict[str, Any]:
    """Return an operation of the 1.x client's."""
    return {"type": kind, "path": path.split("/"), **fields}


def logged(
    path: str, *values: Any, steps: Iterable[Any] = (), kind: str = "LogFloats"
) -> dict[str, Any]:
    """Return points of a series, one a second."""
    given = [*steps] or [None] * len(values)
    points = [
        {"value": value, "step": step, "ts": T + at}
        for at, (value, step) in enumerate(zip(values, given, strict=True))
    ]
    return op(kind, path, values=points)
