"""The records of a run's transaction logs, gathered: one pass, none is kept."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mlmigrate.protobuf import decode
from mlmigrate.stores.wandb_offline.schema import MESSAGES
from mlmigrate.wandb_runs.history import HISTORY, History
from mlmigrate.wandb_runs.items import SUMMARY, summary_text
from mlmigrate.wandb_runs.log import read_log
from mlmigrate.wandb_runs.own import Own, own
from mlmigrate.wandb_runs.values import KeyPath, moment

#: Files that are made of records, beside `HISTORY` and `SUMMARY`.
CONSOLE = "wandb/console.jsonl"
RECORDS = "wandb/records.jsonl"
OUTPUT = "output.log"

#: Says how a record travelled between the client's processes.
_TRANSPORT = ("num", "control", "uuid", "_info")
_STREAMS = {0: "stderr", 1: "stdout"}


class Gathered:
    """What the logs of one run say, in the order in which they were written."""

    def __init__(self, write: Callable[[str, str], None]) -> None:
        """Gather; *write* gets the name of a file that is made, and its next text."""
        self.run: dict[str, Any] = {}
        self.environment: dict[str, Any] = {}
        self.telemetry: dict[str, Any] = {}
        self.config: dict[str, Any] = {}
        self.summary: dict[str, Any] = {}
        self.exit: dict[str, Any] | None = None  # of the last log
        self.start: int | None = None  # of the first log
        self.ended: int | None = None
        self.saved: dict[str, None] = {}  # files that the run named
        self.artifacts: list[dict[str, Any]] = []
        self.wrong: list[str] = []
        self.history = History(lambda line: write(HISTORY, line))
        self.repairs = self.history.repairs
        self._write = write
        self._started: int | None = None

    @property
    def own(self) -> Own | None:
        """What mlmigrate keeps in the config, where it wrote the run."""
        return self.history.own

    def read(self, path: Path) -> None:
        """Add what a log says.

        Raises:
            OSError: it cannot be read.
        """
        self.exit = self.ended = None
        damage: list[str] = []
        unread: Counter[str] = Counter()
        for data in read_log(path, damage):
            try:
                record = decode(data, "Record", MESSAGES)
                self._add(record)
            except (ValueError, RecursionError, OverflowError) as error:
                unread[str(error) or type(error).__name__] += 1
        self.wrong += [f"{path.name}: {what}" for what in damage]
        for what, count in list(unread.items())[:20]:
            self.wrong.append(f"{path.name}: {count} records cannot be read: {what}")

    def finish(self) -> None:
        """Write what is known only in the end."""
        if said := summary_text(self.summary):
            self._write(SUMMARY, said)

    def _add(self, record: dict[str, Any]) -> None:
        said = {key: record[key] for key in record if key not in _TRANSPORT}
        if any(key.startswith("#") for key in said):
            self.repairs[f"records of unknown kinds: kept in {RECORDS}"] += 1
        kept = _has_unknown(said)
        for kind, value in said.items():
            match kind:
                case "history":
                    self._add_row(value)
                case "stats":
                    kept |= self._add_sample(value)
                case "output_raw" | "output":
                    self._add_output(value)
                case "summary":
                    kept |= self._update(self.summary, value, "summary")
                case _:
                    kept = True
                    self._add_fact(kind, value)
        if kept:
            self._write(RECORDS, json.dumps(said) + "\n")

    def _add_fact(self, kind: str, value: Any) -> None:
        match kind:
            case "run":
                self._add_run(value)
            case "config":
                self._update(self.config, value, "config")
            case "telemetry":
                self.telemetry.update(value)
            case "environment":
                self.environment.update(value)
            case "exit":
                self._add_exit(value)
            case "files":
                paths = (each.get("path", "") for each in value.get("files", ()))
                self.saved.update(dict.fromkeys(paths))
            case "artifact":
                self.artifacts.append(value)

    def _add_run(self, run: dict[str, Any]) -> None:
        self.run.update({key: value for key, value in run.items() if value})
        self._update(self.config, run.get("config", {}), "config")
        self._update(self.summary, run.get("summary", {}), "summary")
        self.telemetry.update(run.get("telemetry", {}))
        self.history.own = own(self.config)
        self._started = moment(run.get("start_time"))
        if self._started is not None:
            self.start = min(self._started, self.start or self._started)
            self.history.saw(self._started)

    def _add_exit(self, exit: dict[str, Any]) -> None:
        self.exit = exit
        self.ended = self.history.latest
        if self._started is not None and exit.get("runtime"):
            # A resumed run counts on from the runtime that it had.
            ran = exit["runtime"] - self.run.get("runtime", 0)
            end = self._started + 1000 * (ran if ran >= 0 else exit["runtime"])
            self.ended = max(end, self.history.latest or end)

    def _update(self, tree: dict[str, Any], record: dict[str, Any], what: str) -> bool:
        """Change a tree; tell whether a value of it cannot be read."""
        bad = False
        for item in record.get("update", ()):
            path = _path(item)
            try:
                value = json.loads(item.get("value_json", ""))
            except (ValueError, RecursionError):
                bad = True
                self.wrong.append(f"{what} {path[-1]!r} is no JSON: kept in {RECORDS}")
                continue
            if not _put(tree, path, value):
                tree[path[0]] = {}  # it was no dict, and becomes one
                _put(tree, path, value)
        for item in record.get("remove", ()):
            *above, key = _path(item)
            node: Any = tree
            for name in above:
                node = node.get(name) if isinstance(node, dict) else None
            if isinstance(node, dict):
                node.pop(key, None)
        return bad

    # -- history ------------------------------------------------------------------

    def _add_row(self, row: dict[str, Any]) -> None:
        said: dict[str, Any] = {}
        texts: dict[str, str] = {}
        for item in row.get("item", ()):
            value, sound = _logged(item)
            path = _path(item)
            if not sound:
                self.repairs[f"values that are no JSON: kept in {HISTORY}"] += 1
                texts[".".join(path)] = value
            elif not _put(said, path, value):
                said[".".join(path)] = value  # the row has a value above it, too
        step = row["step"].get("num", 0) if "step" in row else None
        self.history.add_row(said, counted=step, texts=texts)

    # -- system metrics and console -------------------------------------------------

    def _add_sample(self, stats: dict[str, Any]) -> bool:
        """Add a sample; tell whether some of it is no number."""
        read = [(_path(item), *_logged(item)) for item in stats.get("item", ())]
        values = [(path, value) for path, value, sound in read if sound]
        lost = self.history.add_sample(values, moment(stats.get("timestamp")))
        return lost or len(values) < len(read)

    def _add_output(self, output: dict[str, Any]) -> None:
        line = output.get("line", "")
        time = moment(output.get("timestamp"))
        stream = _STREAMS.get(output.get("output_type", 0), "unknown")
        entry = {"stream": stream, "timestamp": time, "line": line}
        self._write(CONSOLE, json.dumps(entry) + "\n")
        self._write(OUTPUT, line)


def _has_unknown(value: Any) -> bool:
    """Tell whether a message has fields that this version does not know."""
    if isinstance(value, list):
        return any(map(_has_unknown, value))
    return isinstance(value, dict) and any(
        key[:1] == "#" or _has_unknown(inner) for key, inner in value.items()
    )


def _path(item: dict[str, Any]) -> KeyPath:
    nested = item.get("nested_key")
    return tuple(nested) if nested else (item.get("key", ""),)


def _put(tree: dict[str, Any], path: KeyPath, value: Any) -> bool:
    """Put a value into nested dicts; not where a value stands above its place."""
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
        if not isinstance(tree, dict):
            return False
    tree[path[-1]] = value
    return True


#: Newer clients write a value with its type, beside its JSON or in place of that.
_TYPED = ("boolean", "integer", "number", "text")


def _logged(item: dict[str, Any]) -> tuple[Any, bool]:
    """Return an item's value, and whether it could be read: else it is the text."""
    for name in _TYPED:
        if name in item:
            return item[name], True
    if "none" in item:
        return None, True
    said: str = item.get("value_json") or item.get("json", "")
    try:
        return json.loads(said), True
    except (ValueError, RecursionError):
        return said, False


def first_run(path: Path) -> dict[str, Any]:
    """Return the run record that a log begins with; nothing where there is none.

    Raises:
        OSError: it cannot be read.
    """
    for record in _first_records(path, 100):
        if "run" in record:
            found: dict[str, Any] = record["run"]
            return found
    return {}


def _first_records(path: Path, most: int) -> Iterator[dict[str, Any]]:
    for at, data in enumerate(read_log(path, [])):
        if at >= most:
            return
        try:
            yield decode(data, "Record", MESSAGES)
        except ValueError:
            continue
