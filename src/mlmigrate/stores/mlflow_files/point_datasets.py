"""The datasets that points of a run name.

MLflow's file store writes a point that was measured of a logged model twice: into the
run's file of the metric, and with the run's id into the model's file of that metric, in
the run's experiment. Other stores keep a dataset with the latter alone, so that it is
lost where no model has the point.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from mlmigrate.metrics import by_series, model_additions
from mlmigrate.model import Finding, ModelLink, ModelMetric, Problem, Ref
from mlmigrate.stores.mlflow_files.layout import Layout
from mlmigrate.stores.mlflow_files.logged_models import read_points
from mlmigrate.stores.mlflow_files.points import blocks
from mlmigrate.stores.mlflow_files.records import chunks_of, files_of, key_of


def lost_datasets(
    run: str,
    folder: Path,
    files: Iterable[str],
    models: Callable[[], Iterator[Path]],
    where: str,
) -> list[Finding]:
    """Tell of the points of a run whose datasets no logged model has.

    Args:
        run: the run's id.
        folder: that of its metrics.
        files: those in it that name datasets.
        models: gives the folders of the models that may have the points.
        where: the run's place, in words.

    Raises:
        OSError: a file of the run's cannot be read.
    """
    found: list[Finding] = []
    for name in files:
        lacking = _named(folder / name, run)
        for model in models():
            if held := _held(model / "metrics" / name, run):
                lacking, _ = model_additions(held, lacking)
            if not lacking:
                break
        count = sum(len(metric.history.steps) for metric in lacking)
        if count:
            what = f"the datasets that {count} points name are not copied"
            key = key_of(name, "metrics", where, [])
            found.append(Problem(where, f"metrics/{key}: {what}"))
    return found


def models_of(
    run: str,
    links: Iterable[ModelLink],
    layout: Layout,
    measured: Callable[[], Mapping[str, Sequence[Path]]],
) -> Iterator[Path]:
    """Yield the folders of the logged models that a run may have measured: those that
    it made and used, where nearly all points are, and then those of its experiment that
    name it. *measured* gives the latter, and reads the models of a whole experiment.
    """
    for link in links:
        model = layout.logged_models.get(link.model.id)
        if model is not None:
            yield from (each.path for each in (model, *model.elsewhere))
    yield from measured().get(run, ())


def measured_models(layout: Layout, experiment: str) -> dict[str, list[Path]]:
    """Return the folders of an experiment that hold points of models, by the runs that
    measured them.
    """
    found: dict[str, list[Path]] = {}
    for folder in layout.model_folders:
        if folder.experiment == experiment:
            for run in _runs_in(folder.path / "metrics"):
                found.setdefault(run, []).append(folder.path)
    return found


def _runs_in(folder: Path) -> set[str]:
    """Return the runs that the lines of a model's metric files name."""
    runs: set[bytes] = set()
    for _, path in files_of(folder):
        for block in _blocks(path):
            for line in block.split(b"\n"):
                runs.update(line.split(None, 4)[3:4])
    return {run.decode("utf-8", "backslashreplace") for run in runs}


def _blocks(path: str) -> Iterator[bytes]:
    """Yield a model's metric file; nothing where it cannot be read, which is told where
    the model is read.
    """
    try:
        for _, block in blocks(chunks_of(path)):
            yield block
    except OSError:
        return


def _named(path: Path, run: str) -> list[ModelMetric]:
    """Read the points of a run's file that name datasets, as a model would have them.

    Raises:
        OSError: it cannot be read.
    """
    found: list[ModelMetric] = []
    for _, block in blocks(chunks_of(str(path))):
        lines = (line.split() for line in block.split(b"\n"))
        chosen = [
            b" ".join([*fields[:3], b"run", *fields[3:]])
            for fields in lines
            if len(fields) > 4
        ]
        found += read_points("", b"\n".join(chosen))[0]
    own = by_series(found).values()
    return [replace(metric, run=Ref("run", run)) for metric in own]


def _held(path: Path, run: str) -> list[ModelMetric]:
    """Read the points that a run measured from a model's file of a metric."""
    found: list[ModelMetric] = []
    sought = run.encode("utf-8", "backslashreplace")
    for block in _blocks(str(path)):
        if chosen := list(_lines_with(sought, block)):
            found += read_points("", b"\n".join(chosen))[0]
    return found


def _lines_with(sought: bytes, block: bytes) -> Iterator[bytes]:
    """Yield the lines that contain *sought*, without looking at the others, of which
    there are many where many runs measured one model.
    """
    at = block.find(sought)
    while at >= 0:
        start = block.rfind(b"\n", 0, at) + 1
        end = block.find(b"\n", at)
        end = len(block) if end < 0 else end
        yield block[start:end]
        at = block.find(sought, end + 1)
