"""
How the archive beside this file was made. It is kept for ever: not made again.

    python tests/golden/make.py FOLDER

or with `logged-models` behind it, writes such an archive of the format of today, and
what it holds as plain JSON, which comes from the items themselves, not from reading the
archive. A later format gets a folder of its own; these must stay readable.
"""

from __future__ import annotations

import json
import sys
from base64 import b64encode
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import mlmigrate
from mlmigrate.metrics import history
from mlmigrate.model import (
    Artifact,
    Experiment,
    Item,
    Loss,
    MetricHistory,
    Note,
    Param,
    Problem,
    Ref,
    Run,
    Tag,
)
from mlmigrate.pipeline import Options
from mlmigrate.stores import memory
from mlmigrate.testing.suite import (
    NOW,
    RUN,
    MemorySources,
    everything,
    with_logged_models,
)

OLD = "0" * 32
BARE = "5" * 32
YOUNG = "9" * 32
LOST = Loss(Ref("run", OLD), "a tag is carried", carried=True)
LATER = ("links", "model_metrics", "source_model", "logged_model")
LATER += ("metadata", "spans", "assessments", "trace_links", "rows")
NAN, INF = float("nan"), float("inf")


def first() -> tuple[list[Item], dict[tuple[Ref, str], bytes]]:
    """Return what the first export finds: all fields, and values that are odd."""
    items, files = everything()
    old = Item(
        Ref("run", OLD),
        Run(
            Ref("experiment", "7"),
            status="KILLED",
            start_time=-1,
            source_type="NOTEBOOK",
            source_name="a.ipynb",
            source_version="abc",
            entry_point="main",
            artifact_uri="file:///gone",
        ),
        OLD,
        params=(Param("nul\0", "lone \ud800, \U0010ffff and 🚀"), Param("", "no key")),
        tags=(Tag("blank", " "), Tag("long", "x" * 9000)),
        metrics=(
            history(
                "odd",
                np.array([0, 0, 0, -5, 2**62], np.int64),
                np.array([NOW, NOW, 0, -1, NOW], np.int64),
                np.array([NAN, INF, -INF, -0.0, 5e-324], np.float64),
            ),
        ),
        findings=(
            Problem("old/params", "one cannot be read"),
            Note("old/meta.yaml", "seconds were read as milliseconds"),
            LOST,
        ),
    )
    gone = Item(
        Ref("experiment", "7"),
        Experiment("gone", "s3://bucket/7", "deleted"),
        "7/gone",
        tags=(Tag("mlflow.note.content", "thrown away"),),
    )
    return [items[0], gone, *items[1:], old], files


def second(items: list[Item]) -> list[Item]:
    """Return what the second export finds: a run that grew, and a new one."""
    grown = {item.ref.id: item for item in items}[RUN]
    more = history(
        "late", np.array([1], np.int64), np.array([NOW], np.int64), np.array([1.5])
    )
    young = Item(Ref("run", YOUNG), Run(Ref("experiment", "1"), start_time=NOW), YOUNG)
    return [replace(grown, metrics=(*grown.metrics, more)), young]


STRAY = [
    Problem("store/stray", "a folder that is no experiment"),
    Note("store", "read from a copy"),
]


def plain(value: Any) -> Any:
    """Return a value as JSON holds it, nothing rounded and no NaN lost."""
    if isinstance(value, MetricHistory):
        rows = zip(
            value.steps.tolist(),
            value.timestamps.tolist(),
            (each.hex() for each in value.values.tolist()),
            strict=True,
        )
        return [value.key, *sorted(map(list, rows), key=repr)]
    if isinstance(value, Ref):
        return str(value)
    if is_dataclass(value):
        # Marks name the place that was copied from, and the day's release. What there
        # was not yet when the first archive was made is told where it is something.
        names = [
            field.name
            for field in fields(value)
            if field.name != "mark"
            and (field.name not in LATER or getattr(value, field.name))
        ]
        return {type(value).__name__: {n: plain(getattr(value, n)) for n in names}}
    if isinstance(value, (tuple, list)):
        return sorted((plain(each) for each in value), key=repr)
    return value


def told(items: list[Item], files: dict[tuple[Ref, str], bytes]) -> Any:
    """Return items and the bytes of their artifacts as JSON holds them."""
    return {
        "items": {str(item.ref): plain(item) for item in items},
        "artifacts": {
            f"{ref}: {path}": b64encode(data).decode()
            for (ref, path), data in files.items()
        },
    }


def main() -> None:
    folder = Path(sys.argv[1])
    if sys.argv[2:] == ["logged-models"]:
        logged_models(folder)
        return
    archive = f"archive:{folder / 'archive'}"
    sources = MemorySources()
    items, files = first()
    source = sources(*items, files=files)
    changed = second(items)
    with patch.object(memory.MemoryStore, "findings", return_value=STRAY):
        mlmigrate.copy([source], archive)
        sources.put(source, *changed)
        mlmigrate.copy([source], archive)
    bare = replace(changed[1], ref=Ref("run", BARE), origin=BARE)
    behind = replace(bare, artifacts=(Artifact("left/behind.bin", 12),))
    other = sources(items[0], behind)
    mlmigrate.copy([other], archive, Options(artifacts="skip"))

    late = {item.ref: item for item in [*items, *changed, bare]}
    expected = {
        "first": told(items, files),
        "live": told(list(late.values()), files),
        # What was lost is also told beside the items.
        "findings": [plain(each) for each in (LOST, *STRAY)],
    }
    text = json.dumps(expected, indent=1, sort_keys=True)
    (folder / "expected.json").write_text(text + "\n")


def logged_models(folder: Path) -> None:
    """Write an archive of the first release that has logged models."""
    sources = MemorySources()
    items, files = with_logged_models()
    mlmigrate.copy([sources(*items, files=files)], f"archive:{folder / 'archive'}")
    expected = {"live": told(items, files), "findings": []}
    text = json.dumps(expected, indent=1, sort_keys=True)
    (folder / "expected.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
