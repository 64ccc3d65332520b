"""What a store holds: unreadable items, dead artifact URIs, open credentials."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from mlmigrate.ahead import reading
from mlmigrate.artifacts import redact
from mlmigrate.contract import Selection, Source
from mlmigrate.doctor.check import Check, listed, many
from mlmigrate.doctor.places import shown_of
from mlmigrate.errors import MlmigrateError, StoreError
from mlmigrate.locations import Opened
from mlmigrate.model import KINDS, Failed, Item, Kind, Problem
from mlmigrate.pipeline.workspaces import each_workspace
from mlmigrate.redaction import bears_credential

#: What the findings of sources say of artifacts; the first that fits counts.
_ARTIFACTS = (
    (
        "unreachable",
        re.compile(r"cannot (reach|list) artifacts at |artifacts cannot be listed"),
    ),
    ("held", re.compile(r"are held by an artifact server")),
    ("dead", re.compile(r"(?s)artifacts at .* cannot be read|mapped artifact folder")),
    ("moved", re.compile(r"artifact URI is dead")),
)


@dataclass(slots=True)
class _Contents:
    """What reading a whole store tells."""

    items: int = 0
    failed: list[Failed] = field(default_factory=list)
    #: Items by what _ARTIFACTS says of theirs, and by kind.
    artifacts: Counter[tuple[str, Kind]] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)
    credentials: Counter[tuple[Kind, str]] = field(default_factory=Counter)

    def add(self, item: Item | Failed) -> None:
        self.items += 1
        if isinstance(item, Failed):
            self.failed.append(item)
            return
        states = {
            state: finding.what
            for finding in reversed(item.findings)
            if (state := _state(finding.what)) is not None
        }
        self.artifacts.update((state, item.ref.kind) for state in states)
        self.examples = {**states, **self.examples}
        for bearer in _bearers(item):
            self.credentials[item.ref.kind, bearer] += 1

    def with_artifacts(self, state: str) -> str:
        """Name the items of whose artifacts something is said; empty for none."""
        counts = ((self.artifacts[state, kind], kind) for kind in KINDS)
        return listed(
            [many(count, kind.replace("_", " ")) for count, kind in counts if count]
        )


def _state(what: str) -> str | None:
    """Return what a finding says of its item's artifacts, None where nothing."""
    return next((state for state, text in _ARTIFACTS if text.search(what)), None)


def _bearers(item: Item) -> set[str]:
    """Return the tags, params and metadata of an item that hold a credential."""
    tags = [*item.tags, *(tag for version in item.versions for tag in version.tags)]
    return {
        f"{word} {record.key}"
        for word, records in (
            ("tag", tags),
            ("param", item.params),
            ("metadata", item.metadata),
        )
        for record in records
        if bears_credential(record.value)
    }


def diagnose_contents(opened: Opened) -> Iterator[Check]:
    """Read a whole store: its items, where their artifacts are, their credentials."""
    shown = shown_of(opened.location)
    found = _Contents()
    problems: list[Problem] = []
    try:
        with closing(each_workspace(opened, problems)) as each:
            for place, source in each:
                for item in _items(place, source):
                    found.add(item)
        if problems:
            raise StoreError(f"{problems[0].where} {problems[0].what}")
    except MlmigrateError as error:
        fix = "put right what the message says"
        yield Check("contents", False, str(error), fix)
        return
    yield from _judge_contents(found, shown, opened.adapter.name)


def _items(opened: Opened, source: Source) -> Iterator[Item | Failed]:
    for kind in KINDS:
        refs = list(source.refs(Selection(kind)))
        with reading([(opened, source)], [refs]) as read:
            for _, batch in read:
                for entry in batch:
                    yield entry if isinstance(entry, Failed) else entry.item


def _judge_contents(found: _Contents, shown: str, adapter: str) -> Iterator[Check]:
    if not found.items:
        fix = "check that MLflow logs to it, and that this user may read what it holds"
        if adapter == "mlflow_files":
            command = f"mlmigrate scan {shlex.quote(shown)}"
            fix = f"give the folder that holds the experiments: {command}"
        yield Check("contents", False, f"{shown} holds no experiment and no run", fix)
        return
    if found.failed:
        first = found.failed[0]
        count = many(len(found.failed), "item")
        what = f"{count} cannot be read; {first.ref}: {first.why}"
        fix = f"mlmigrate inspect {shlex.quote(shown)} names them"
        yield Check("contents", False, what, fix)
    else:
        yield Check("contents", True, f"{many(found.items, 'item')} can be read")
    yield _judge_artifacts(found, shown)
    if not found.credentials:
        yield Check("credentials", True, "no tag or param looks like a credential")
        return
    places = [
        f"{bearer} of {many(count, kind.replace('_', ' '))}"
        for (kind, bearer), count in sorted(found.credentials.items())
    ]
    yield Check(
        "credentials",
        False,
        f"credentials lie open in {shown}: {listed(places)}",
        "revoke them; mlmigrate copy --redact-credentials masks them in a copy",
    )


def _judge_artifacts(found: _Contents, shown: str) -> Check:
    if items := found.with_artifacts("dead"):
        what = (
            f"the artifact URIs of {items} lead nowhere;"
            f" {redact(found.examples['dead'])}"
        )
        return Check("artifacts", False, what, "give --map-artifacts OLD=NEW to copy")
    if items := found.with_artifacts("unreachable"):
        what = (
            f"the artifacts of {items} are out of reach;"
            f" {redact(found.examples['unreachable'])}"
        )
        fix = "put right what the message says, or give --map-artifacts OLD=NEW to copy"
        return Check("artifacts", False, what, fix)
    if items := found.with_artifacts("moved"):
        what = (
            f"the artifact URIs of {items} lead to where {shown}"
            " once was: MLflow finds no artifacts"
        )
        fix = "mlmigrate copy finds them where they are now, and records that"
        return Check("artifacts", False, what, fix)
    if items := found.with_artifacts("held"):
        what = (
            f"the artifacts of {items} are held by an artifact server:"
            " copy from its URL, or with --map-artifacts mlflow-artifacts:/=FOLDER"
        )
        return Check("artifacts", True, what)
    return Check("artifacts", True, "all artifact URIs lead somewhere")
