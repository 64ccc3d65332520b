"""Metric histories of a server: of several runs with one request, where it can."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from mlmigrate.errors import ItemError, MlmigrateError
from mlmigrate.metrics import history
from mlmigrate.model import MetricHistory
from mlmigrate.stores.mlflow_server.rest import Json, Refused, Rest

_POINTS_A_PAGE = 25_000
#: What MLflow's own pages draw their charts from, since 1.27. It has no pages.
_BULK = "/ajax-api/2.0/mlflow/metrics/get-history-bulk"
RUNS_AT_ONCE = 100
#: What the first versions took.
_RUNS_AT_FIRST = 20
#: Histories of runs that are asked for together: all are in memory at once.
MOST_AT_ONCE = 500

#: A run's last point of each metric, as a search of runs gives them, by key.
Latest = Mapping[str, Json]


class Histories:
    """Reads histories in threads of its own, which wait for nothing but the server."""

    def __init__(self, rest: Rest, *, threads: int) -> None:
        self._rest = rest
        self._pool = ThreadPoolExecutor(threads, "mlmigrate-metrics")
        self._at_once = RUNS_AT_ONCE
        self._bulk = True

    def close(self) -> None:
        """Stop all threads. May be called twice."""
        self._pool.shutdown(cancel_futures=True)

    def submit(self, id: str, key: str) -> Future[MetricHistory]:
        """Begin to read one history.

        The result raises `ItemError` where nothing of it can be read.
        """
        return self._pool.submit(self._read, id, key)

    def of_several(
        self, runs: Mapping[str, Latest]
    ) -> dict[str, dict[str, MetricHistory]]:
        """Return, by run and key, those histories that could be had together.

        Any other is to be read by itself: of a server that does not know the request,
        or of a run that is too long for it.
        """
        found: dict[str, dict[str, MetricHistory]] = {id: {} for id in runs}
        holders: dict[str, list[str]] = {}
        for id, latest in runs.items():
            for key in latest:
                holders.setdefault(key, []).append(id)
        futures = [
            (key, self._pool.submit(self._read_together, key, ids))
            for key, holding in holders.items()
            for ids in _parts(holding, self._at_once)
            if len(ids) > 1 and self._bulk
        ]
        for key, future in futures:
            for id, metric in future.result().items():
                if _reaches(metric, runs[id][key]):
                    found[id][key] = metric
        return found

    def _read_together(self, key: str, ids: Sequence[str]) -> dict[str, MetricHistory]:
        if not self._bulk:
            return {}
        try:
            answer = self._rest.get(
                _BULK, run_id=list(ids), metric_key=key, max_results=_POINTS_A_PAGE
            )
            points = [(str(point["run_id"]), point) for point in answer["metrics"]]
        except Refused as refusal:
            if refusal.status == 400 and len(ids) > _RUNS_AT_FIRST:
                self._at_once = min(self._at_once, _RUNS_AT_FIRST)
                parts = _parts(ids, _RUNS_AT_FIRST)
                each = [self._read_together(key, part) for part in parts]
                return {id: one for found in each for id, one in found.items()}
            self._bulk = False
            return {}
        except (MlmigrateError, KeyError, TypeError):
            self._bulk = False  # reading them one by one tells what is wrong, if any
            return {}
        if len(points) >= _POINTS_A_PAGE:  # there may be more
            self._at_once = min(self._at_once, max(1, len(ids) // 2))
            return {}
        found: dict[str, list[Json]] = {}
        for id, point in points:
            found.setdefault(id, []).append(point)
        return {id: _history(key, found[id]) for id in ids if id in found}

    def _read(self, id: str, key: str) -> MetricHistory:
        query = {"run_id": id, "metric_key": key, "max_results": _POINTS_A_PAGE}
        points = list(self._rest.pages("metrics/get-history", "metrics", query))
        if not points:
            raise ItemError("the server lists it, but has no point of it")
        return _history(key, points)


def _history(key: str, points: Sequence[Json]) -> MetricHistory:
    return history(
        key,
        np.array([int(point.get("step") or 0) for point in points], np.int64),
        np.array([int(point.get("timestamp") or 0) for point in points], np.int64),
        # A number, or one of the texts "NaN", "Infinity" and "-Infinity".
        np.array([float(point.get("value") or 0.0) for point in points], np.float64),
    )


def _reaches(metric: MetricHistory, latest: Json) -> bool:
    """Tell whether a history has the run's last point: none was cut off before it."""
    step, timestamp = int(latest.get("step") or 0), int(latest.get("timestamp") or 0)
    return bool(((metric.steps == step) & (metric.timestamps == timestamp)).any())


def _parts(ids: Sequence[str], size: int) -> list[Sequence[str]]:
    return [ids[at : at + size] for at in range(0, len(ids), size)]
