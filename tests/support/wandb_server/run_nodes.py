"""What can be asked about runs, their files and sweeps."""

from __future__ import annotations

import json
import math
import re
from typing import Any
from urllib.parse import quote

from .graphql import Node
from .pages import connection
from .state import Run, State, StoredFile, Sweep, opaque

Args = dict[str, Any]


def run_node(state: State, run: Run, url: str) -> Node:
    """Return a run as clients ask for it."""
    from .artifact_nodes import artifact_node

    def artifacts(ids: list[str]) -> Any:
        found = [state.artifacts[id] for id in ids if id in state.artifacts]
        return lambda args: connection(
            found, args, lambda artifact: artifact_node(state, artifact, url)
        )

    def files(args: Args) -> Node:
        names = args.get("names") or ()
        found = [
            (name, file)
            for name, file in run.files.items()
            if (not names or name in names) and _like(name, args.get("pattern"))
        ]
        return connection(
            found, args, lambda item: _file_node(run, item[0], item[1], url)
        )

    return {
        "__typename": "Run",
        "id": run.storage_id,
        "projectId": str(state.project(run.entity, run.project).number),
        "project": lambda args: project_reference(state, run.entity, run.project),
        "name": run.id,
        "displayName": run.display_name,
        "description": run.description,
        "notes": run.notes,
        "state": run.state,
        "tags": run.tags,
        "group": run.group,
        "groupName": run.group,
        "jobType": run.job_type,
        "sweepName": run.sweep,
        "commit": run.commit,
        "host": run.host,
        "exitcode": run.exit_code,
        "readOnly": False,
        "createdAt": run.created,
        "heartbeatAt": run.heartbeat,
        "updatedAt": run.heartbeat,
        "user": {"__typename": "User", "name": state.user, "username": state.user},
        "shouldStop": False,
        "stopped": False,
        "running": run.state == "running",
        "failed": run.state == "failed",
        "config": lambda args: json.dumps(run.raw_config),
        "wandbConfig": lambda args: _own_config(run, args),
        "summaryMetrics": lambda args: json.dumps(run.summary),
        "systemMetrics": lambda args: json.dumps(_last_events(run)),
        "historyLineCount": run.history_lines.count,
        "eventsLineCount": run.event_lines.count,
        "logLineCount": run.log_lines.count,
        "historyTail": lambda args: json.dumps(run.history_lines.all[-1:]),
        "eventsTail": lambda args: json.dumps(run.event_lines.all[-1:]),
        "historyKeys": lambda args: _history_keys(run),
        "history": lambda args: _history(run, args),
        "events": lambda args: _sampled(run.event_lines.all, args.get("samples")),
        "sampledHistory": lambda args: [
            _sampled_history(run, json.loads(spec)) for spec in args["specs"]
        ],
        "parquetHistory": lambda args: _exports(run, args, url),
        "fileCount": len(run.files),
        "files": files,
        "logLines": lambda args: connection(
            list(enumerate(run.log, 1)), args, lambda item: _log_node(*item)
        ),
        "outputArtifacts": artifacts(run.logged),
        "inputArtifacts": artifacts(run.used),
    }


def project_reference(state: State, entity: str, name: str) -> Node:
    """Return a project as the things in it refer to it."""
    project = state.project(entity, name)
    return {
        "__typename": "Project",
        "id": project.id,
        "internalId": opaque("ProjectInternalId", project.number),
        "name": name,
        "entityName": entity,
        "entity": {
            "__typename": "Entity",
            "id": opaque("Entity", entity),
            "name": entity,
        },
    }


def sweep_node(state: State, sweep: Sweep, url: str) -> Node:
    """Return a sweep as clients ask for it."""
    runs = [
        r for r in state.runs_of(sweep.entity, sweep.project) if r.sweep == sweep.name
    ]
    return {
        "__typename": "Sweep",
        "id": sweep.id,
        "name": sweep.name,
        "displayName": sweep.display_name,
        "method": _method(sweep.config),
        "state": sweep.state,
        "description": sweep.description,
        "bestLoss": None,
        "config": sweep.config,
        "controller": None,
        "scheduler": None,
        "controllerRunName": None,
        "earlyStopJobRunning": False,
        "createdAt": sweep.created,
        "updatedAt": sweep.updated,
        "heartbeatAt": sweep.updated,
        "runCount": len(runs),
        "runCountExpected": None,
        "project": lambda args: project_reference(state, sweep.entity, sweep.project),
        "runs": lambda args: connection(runs, args, lambda r: run_node(state, r, url)),
    }


def _file_node(run: Run, name: str, file: StoredFile, url: str) -> Node:
    address = f"{url}/files/{quote(run.entity)}/{quote(run.project)}/{quote(run.id)}/"
    address += quote(name)
    return {
        "__typename": "File",
        "id": opaque("File", run.storage_id, name),
        "name": name,
        "displayName": name,
        "url": address,
        "directUrl": address,
        "sizeBytes": str(len(file.data)),
        "mimetype": file.mimetype,
        "updatedAt": file.updated,
        "md5": file.md5,
        "digest": file.md5,
        "storagePath": None,
    }


def _log_node(number: int, line: str) -> Node:
    said: Any = None
    if line.startswith("{"):
        said = json.loads(line)
    if isinstance(said, dict) and "content" in said:
        return {
            "number": number,
            "timestamp": said.get("ts"),
            "level": said.get("level"),
            "label": said.get("label"),
            "line": said["content"],
        }
    return {
        "number": number,
        "timestamp": None,
        "level": None,
        "label": None,
        "line": line,
    }


def _own_config(run: Run, args: Args) -> str | None:
    own = run.raw_config.get("_wandb", {}).get("value")
    if own is None:
        return None
    return json.dumps({key: own[key] for key in args["keys"] if key in own})


def _last_events(run: Run) -> dict[str, Any]:
    last: dict[str, Any] = {}
    for row in run.events:
        last.update(row)
    return last


def _history_keys(run: Run) -> Node | None:
    rows = run.history
    if not rows:
        return None
    kinds: dict[str, Any] = {}
    for row in rows:
        for key, value in row.items():
            kind = "number" if isinstance(value, (int, float)) else "string"
            seen = kinds.setdefault(key, {"typeCounts": [{"type": kind, "count": 0}]})
            seen["typeCounts"][0]["count"] += 1
            seen["monotonic"] = key in ("_step", "_runtime", "_timestamp")
    last = max(row.get("_step", -1) for row in rows)
    return {"sets": [], "keys": kinds, "lastStep": last}


def _history(run: Run, args: Args) -> list[str]:
    low, high = args.get("minStep"), args.get("maxStep")
    lines = run.history_lines.all
    if low is None and high is None:
        return _sampled(lines, args.get("samples"))
    # Pages are what the client adds to the exports: these must not come twice.
    live = list(zip(run.history, lines, strict=True))[run.exported :]
    found = [line for row, line in live if _within(row, low, high)]
    return found[: args.get("samples")]


def _sampled_history(run: Run, spec: dict[str, Any]) -> list[dict[str, Any]]:
    keys = spec.get("keys") or []
    low, high = spec.get("minStep"), spec.get("maxStep")
    # Here the highest step is asked for too, unlike in pages of the history.
    end = None if high is None else high + 1
    rows = [
        {key: _bare(value) for key, value in row.items() if not keys or key in keys}
        for row in run.history[0 if low is None else run.exported :]
        if _within(row, low, end) and all(key in row for key in keys)
    ]
    return _sampled(rows, spec.get("samples"))


def _exports(run: Run, args: Args, url: str) -> Node:
    # Rows without exports are to be had page by page, from the first live step on.
    place = f"{url}/storage/export/{quote(run.storage_id)}"
    keys = args.get("liveKeys") or ()
    live = run.history[run.exported :] if run.exports else []
    return {
        "parquetUrls": [f"{place}/{number}" for number in range(len(run.exports))],
        "liveData": [{k: row[k] for k in keys if k in row} for row in live],
    }


def _within(row: dict[str, Any], low: int | None, high: int | None) -> bool:
    step = row.get("_step", 0)
    return (low is None or step >= low) and (high is None or step < high)


def _bare(value: Any) -> Any:
    # A row within JSON has no NaN or infinity: it holds their names.
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value


def _sampled(items: list[Any], samples: int | None) -> list[Any]:
    if samples is None or len(items) <= samples:
        return items
    return [items[i * len(items) // samples] for i in range(samples)]


def _like(name: str, pattern: str | None) -> bool:
    if not pattern:
        return True
    parts = (re.escape(part).replace("_", ".") for part in pattern.split("%"))
    return re.fullmatch(".*".join(parts), name, re.DOTALL) is not None


def _method(config: str) -> str:
    found = re.search(r'"?method"?\s*:\s*"?(\w+)', config)
    return found.group(1) if found else "random"
