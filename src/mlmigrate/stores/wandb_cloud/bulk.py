"""New runs, sent many at once: as logs, by ``wandb sync``.

By its SDK W&B's client begins one run after the other, some three a second; the same
client sends logs of runs twenty times as fast. It tells no more of what the server
refused than the SDK does: see `mlmigrate.stores.wandb_cloud.proof`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlmigrate.contract import Delivery
from mlmigrate.model import Run
from mlmigrate.stores.wandb_cloud import sync_process
from mlmigrate.stores.wandb_cloud.bundling import Bundled
from mlmigrate.wandb_runs import bundles
from mlmigrate.wandb_runs.log import write_log
from mlmigrate.wandb_runs.mapping import Logged
from mlmigrate.wandb_runs.messages import messages

#: Fewer are sent sooner by the SDK: the program takes a second to start.
FEWEST = 4
#: Files of so many bytes wait in a temporary folder at most, but for one run's.
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, eq=False)
class Outgoing:
    """A new run, ready to be sent."""

    delivery: Delivery
    written: Logged
    made: Sequence[Bundled]
    checksums: str | None
    files: int
    bytes: int


def fits(delivery: Delivery) -> bool:
    """Tell whether a run can be sent as a log: it is new, and consumed no dataset,
    whose version the server must name before a run can say that it used it.
    """
    header = delivery.item.header
    new = isinstance(header, Run) and delivery.into is None
    return new and not delivery.item.inputs


def portions(
    places: Iterable[int], deliveries: Sequence[Delivery]
) -> Iterator[list[int]]:
    """Cut the deliveries at *places* into portions whose files a temporary folder may
    hold.
    """
    portion: list[int] = []
    waiting = 0
    for at in places:
        size = sum(artifact.size for artifact in deliveries[at].item.artifacts)
        if portion and waiting + size > _MOST_BYTES:
            yield portion
            portion, waiting = [], 0
        portion.append(at)
        waiting += size
    if portion:
        yield portion


def sync(outgoing: Sequence[Outgoing], folder: Path) -> None:
    """Write the logs of runs below *folder*, and let W&B's client send them.

    Raises:
        OSError: they cannot be written, or the program cannot be started.
    """
    places = []
    for run in outgoing:
        place = folder / f"offline-run-19700101_000000-{run.written.id}"
        place.mkdir()
        artifacts = [_logged(each) for each in run.made]
        with (place / f"run-{run.written.id}.wandb").open("wb") as file:
            write_log(file, messages(run.written, artifacts))
        places.append(str(place))
    # Whether all went well is not seen from how it ends.
    subprocess.run(
        [sys.executable, "-m", sync_process.__name__, str(os.getpid()), *places],
        env={**os.environ, "WANDB_DIR": str(folder)},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _logged(bundle: Bundled) -> bundles.LoggedArtifact:
    entries = (
        bundles.Entry(path, bundle.digests[path], bundle.sizes[path], str(file))
        for path, file in bundle.files.items()
    )
    return bundles.logged(bundle.name, bundle.type, bundle.metadata, entries)
