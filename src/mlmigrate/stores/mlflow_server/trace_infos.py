"""What a server says of its traces beside their spans, of any of MLflow's versions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any, cast

from mlmigrate.errors import ItemError, StoreError
from mlmigrate.mlflow_messages import NOT_READ, length, millis
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.rest import (
    EXPERIMENTS_A_SEARCH,
    Json,
    Refused,
    Rest,
    quoted,
)

#: Below this are the endpoints that MLflow >= 3.0 has for traces.
API = "/api/3.0/mlflow/traces"
#: The most that a server gives at once.
_A_PAGE = 500


def place(id: str) -> str:
    """Return the path of a trace."""
    return f"{API}/{quoted(id)}"


def search(rest: Rest, experiments: Sequence[str], filter: str = "") -> Iterator[Json]:
    """Yield the traces of some experiments, the oldest first; none of a server that
    does not know any.

    A server fails at a page with one trace of which it cannot say something, such as
    an assessment that is NaN. It then still lists them as older ones do, which say
    less of each.
    """
    for at in range(0, len(experiments), EXPERIMENTS_A_SEARCH):
        ids = experiments[at : at + EXPERIMENTS_A_SEARCH]
        seen: set[str] = set()
        try:
            for info in _search(rest, ids, filter):
                seen.add(info["trace_id"])
                yield info
        except Refused as refusal:
            if not refusal.unknown and not refusal.failing:
                raise
            for info in _older_search(rest, ids, filter, refusal):
                if info["trace_id"] not in seen:
                    yield info


def _search(rest: Rest, experiments: Sequence[str], filter: str) -> Iterator[Json]:
    body = {
        "locations": [
            {
                "type": "MLFLOW_EXPERIMENT",
                "mlflow_experiment": {"experiment_id": id},
            }
            for id in experiments
        ],
        "max_results": _A_PAGE,
        "order_by": ["timestamp_ms ASC"],
        **({"filter": filter} if filter else {}),
    }
    yield from _infos(rest, rest.posted_pages(f"{API}/search", "traces", body))


def _older_search(
    rest: Rest, experiments: Sequence[str], filter: str, instead: Refused
) -> Iterator[Json]:
    """Yield traces as the servers from MLflow 2.13 to 2.22 list them, in the place of
    what was refused.
    """
    query = {
        "experiment_ids": experiments,
        "max_results": _A_PAGE,
        "order_by": ["timestamp_ms ASC"],
        **({"filter": filter} if filter else {}),
    }
    try:
        yield from _infos(rest, rest.pages("traces", "traces", query))
    except Refused as refusal:
        if not refusal.unknown:
            raise
        if instead.failing:
            raise instead from None


def _infos(rest: Rest, listed: Iterator[Json]) -> Iterator[Json]:
    for said in listed:
        try:
            yield info_of(said)
        except NOT_READ as error:
            what = f"{rest.base} lists something that is no trace: {error!r}"
            raise StoreError(what) from None


def infos(rest: Rest, ids: Sequence[str]) -> dict[str, Json]:
    """Get what a server says of some traces, of those that are there. Where it fails to
    say all, ``untold`` says what is missing.

    Raises:
        ItemError: of one of them it says nothing at all.
    """
    try:
        answer = rest.post(f"{API}/batchGetInfos", {"trace_ids": list(ids)})
        said = answer.get("trace_infos") or ()
    except Refused as refusal:
        if not refusal.unknown and not refusal.failing:
            raise
        said = [one for id in ids if (one := _said(rest, id)) is not None]
    found = {}
    for one in said:
        with suppress(*NOT_READ):  # it is as good as not there
            info = info_of(one)
            found[info["trace_id"]] = info
    return found


def _said(rest: Rest, id: str) -> Json | None:
    """Get one trace of a server that does not give several."""
    untold: Json = {}
    try:
        return cast(Json, rest.get(place(id))["trace"]["trace_info"])
    except Refused as refusal:
        if refusal.failing:
            what = f"its assessments and previews cannot be read: {refusal}"
            untold = {"untold": what}
        elif not refusal.absent:
            raise
        elif not refusal.unknown:
            return None
    try:
        return {**rest.get(f"traces/{quoted(id)}/info")["trace_info"], **untold}
    except Refused as refusal:
        if not refusal.absent:
            raise
        if untold and refusal.unknown:
            raise ItemError(f"trace {id}: {untold['untold']}") from None
        return None


def info_of(said: Json) -> Json:
    """Return what a server says of a trace, also as MLflow < 3 said it. The fields that
    are named under ``odd`` are none.

    Raises:
        ValueError, KeyError, TypeError, AttributeError, RecursionError: it is none.
    """
    if "request_id" in said:
        times = said.get("timestamp_ms"), said.get("execution_time_ms")
        info: Json = {
            "trace_id": str(said["request_id"]),
            "experiment_id": str(said.get("experiment_id") or ""),
            "request_time": millis(times[0]),
            "execution_duration": millis(times[1]),
            "state": said.get("status"),
            "tags": dict(answers.key_values(said.get("tags"))),
            "trace_metadata": dict(answers.key_values(said.get("request_metadata"))),
            "untold": said.get("untold"),
        }
    else:
        place = (said.get("trace_location") or {}).get("mlflow_experiment") or {}
        times = said.get("request_time"), said.get("execution_duration")
        info = {
            **said,
            "trace_id": str(said["trace_id"]),
            "experiment_id": str(place.get("experiment_id") or ""),
            "request_time": millis(times[0]),
            "execution_duration": length(times[1]),
            "tags": _mapping(said.get("tags")),
            "trace_metadata": _mapping(said.get("trace_metadata")),
            "untold": None,
        }
    read = ("request_time", "execution_duration")
    info["odd"] = [
        f"{name} {str(told)[:40]!r}"
        for name, told in zip(read, times, strict=True)
        if told is not None and info[name] is None
    ]
    return info


def _mapping(said: Any) -> dict[str, str]:
    pairs = said.items() if isinstance(said, dict) else ()
    return {str(key): "" if value is None else str(value) for key, value in pairs}
