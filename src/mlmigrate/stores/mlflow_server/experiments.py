"""The sink half for experiments, and the care that deleted ones need.

A deleted experiment takes neither runs nor tags. So it is made, or restored, filled,
and deleted at the end, by `Experiments.finish`. Restoring one also restores its runs,
and deleting one deletes them: those that should be otherwise are put right again. A
tag, the promise, says what is left to do should the copy be killed before that. While
the experiment itself takes no tag, another one bears it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from mlmigrate import marks
from mlmigrate.contract import Delivery, Written
from mlmigrate.errors import ItemError
from mlmigrate.model import Experiment, Finding, Lifecycle, Note, Ref, Tag
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.index import MADE, Index, KnownExperiment
from mlmigrate.stores.mlflow_server.reading import Reader
from mlmigrate.stores.mlflow_server.rest import Json, Refused, Rest, creating

_LONGEST_TAG = 5000  # what the older servers take


@dataclass(slots=True)
class _Open:
    """An experiment that is active only until the end of the copy."""

    alive: set[str] = field(default_factory=set)  # runs that stay active in it


def delete_run(rest: Rest, id: str) -> None:
    """Make sure that a run is deleted."""
    _bring(rest, id, "runs/delete", "deleted")


def restore_run(rest: Rest, id: str) -> None:
    """Make sure that a run is active."""
    _bring(rest, id, "runs/restore", "active")


def _bring(rest: Rest, id: str, path: str, lifecycle: Lifecycle) -> None:
    try:
        rest.post(path, {"run_id": id})
    except Refused:
        # Older servers refuse where there is nothing to do, as after a lost answer.
        if answers.lifecycle(rest.get("runs/get", run_id=id)["run"]["info"]) != (
            lifecycle
        ):
            raise


class Experiments:
    """Writes experiments. Safe to use from many threads."""

    def __init__(self, rest: Rest, reader: Reader, index: Index) -> None:
        self._rest = rest
        self._reader = reader
        self._index = index
        self._lock = threading.RLock()
        self._open: dict[str, _Open] = {}

    # -- items --------------------------------------------------------------------

    def write(self, delivery: Delivery) -> Written:
        """Write one experiment.

        Raises:
            ItemError: the server refuses it.
        """
        header = delivery.item.header
        if not isinstance(header, Experiment):
            raise ItemError(f"{delivery.item.ref}: not an experiment")
        with self._lock:
            findings: list[Finding] = []
            held = self._held(delivery, header)
            if held is None:
                held = self._create(delivery, header)
            else:
                self._take_over(held, delivery, header)
            held = self._index.refresh(held.id)
            if header.lifecycle == "deleted" and held.id not in self._open:
                self._promise(held, "delete")
                self._open[held.id] = _Open(self._copied_as_active(held.id))
            self._tag_as_own(held, delivery, findings)
            self._index.refresh(held.id)
        return Written(Ref("experiment", held.id), findings=tuple(findings))

    def _held(self, delivery: Delivery, header: Experiment) -> KnownExperiment | None:
        if delivery.into is not None:
            return self._index.refresh(delivery.into.id)
        return self._index.named(header.name)

    def _create(self, delivery: Delivery, header: Experiment) -> KnownExperiment:
        own = [
            Tag(marks.ORIGIN, json.dumps([delivery.item.origin])),
            Tag(marks.SOURCE, delivery.source),
        ]
        if header.lifecycle == "deleted":
            own.append(Tag(answers.RESTORED, f"delete@{MADE}"))
        tags = [
            {"key": tag.key, "value": tag.value} for tag in (*delivery.item.tags, *own)
        ]
        body = {"name": header.name, "tags": tags}
        try:
            made = creating(
                lambda: self._rest.create("experiments/create", body),
                lambda: self._by_name(header.name),
            )
            known = self._index.refresh(str(made["experiment_id"]))
            # Before MLflow 1.23 the tags of a create are ignored.
            for tag in delivery.item.tags:
                if known.tags.get(tag.key) != tag.value:
                    self._set_tag(known.id, tag.key, tag.value)
            return known
        except Refused as refusal:
            if not refusal.exists:
                raise
        held = self._index.named_anew(header.name)
        if held is None:
            raise ItemError(
                f"an experiment {header.name!r} exists at {self._rest.base} that you"
                " are not allowed to see"
            )
        self._take_over(held, delivery, header)
        return held

    def _by_name(self, name: str) -> Json | None:
        held = self._index.named_anew(name)
        return {"experiment_id": held.id} if held is not None else None

    def _take_over(
        self, held: KnownExperiment, delivery: Delivery, header: Experiment
    ) -> None:
        """Make an experiment that is there ready for more."""
        if held.lifecycle == "deleted":
            if header.lifecycle == "active":
                self._restore_for_good(held)
            else:
                self.open(held.id)
        elif held.promise == "keep":
            self._delete_runs_again(held)
        if held.tags.get(marks.MARK):
            self._set_tag(held.id, marks.MARK, "")
        for tag in delivery.item.tags:
            self._set_tag(held.id, tag.key, tag.value)

    def _tag_as_own(
        self, held: KnownExperiment, delivery: Delivery, findings: list[Finding]
    ) -> None:
        for tag in marks.own_tags(delivery, mark=delivery.mark):
            if tag.key != marks.ORIGIN:
                self._set_tag(held.id, tag.key, tag.value)
                continue
            if tag.value in held.origins:
                continue
            text = json.dumps([*held.origins, tag.value])
            if len(text) <= _LONGEST_TAG:
                self._set_tag(held.id, tag.key, text)
            else:
                what = "merged from too many to list; found again by its name only"
                findings.append(Note(f"experiment/{held.id}", what))

    def _set_tag(self, id: str, key: str, value: str) -> None:
        body = {"experiment_id": id, "key": key, "value": value}
        self._rest.post("experiments/set-experiment-tag", body)

    # -- deleted experiments ------------------------------------------------------

    def open(self, id: str) -> None:
        """Make sure that an experiment takes runs, until `finish` if it is deleted."""
        with self._lock:
            held = self._index.experiments().get(id) or self._index.refresh(id)
            if held.lifecycle == "deleted":
                alive = self._active_runs(id)
                self._restore(id, "redelete")
                self._open[id] = _Open(alive)
            elif id not in self._open:
                self._adopt(held)

    def _adopt(self, held: KnownExperiment) -> None:
        """Take over the promise of a copy that was killed."""
        if held.promise == "delete":
            self._open[held.id] = _Open(self._copied_as_active(held.id))
        elif held.promise == "redelete":
            self._open[held.id] = _Open()  # all that was in it had been deleted
        elif held.promise == "keep":
            self._delete_runs_again(held)

    def _delete_runs_again(self, held: KnownExperiment) -> None:
        """Delete the runs of an experiment that a killed copy restored for good.

        Nothing was written into it yet: all were deleted.
        """
        for run in self._active_runs(held.id):
            delete_run(self._rest, run)
        self._forget_promise(held)

    def note_run(self, experiment: str, run: str, *, active: bool) -> None:
        """Remember the lifecycle of a run that was just written."""
        with self._lock:
            opened = self._open.get(experiment)
            if opened is not None and active:
                opened.alive.add(run)
            elif opened is not None:
                opened.alive.discard(run)

    def _restore_for_good(self, held: KnownExperiment) -> None:
        """Restore an experiment, but none of the runs that are deleted in it."""
        deleted = self._runs(held.id, "DELETED_ONLY")
        self._restore(held.id, "keep")
        for run in deleted:
            delete_run(self._rest, run)
        self._forget_promise(held)

    def _restore(self, id: str, promise: str) -> None:
        with self._announced(id, promise):
            try:
                self._rest.post("experiments/restore", {"experiment_id": id})
            except Refused:
                # The answer to a first try may have been lost, or another copy was
                # first.
                if self._index.refresh(id).lifecycle == "deleted":
                    raise
            self._promise(self._index.refresh(id), promise)

    @contextmanager
    def _announced(self, id: str, promise: str) -> Iterator[None]:
        """Let another experiment bear the promise for one that takes no tags now."""
        bearer = self._bearer(id)
        if bearer is not None:
            self._set_tag(bearer.id, answers.RESTORING, f"{promise}@{id}")
        yield
        if bearer is not None:
            self._set_tag(bearer.id, answers.RESTORING, "")

    def _bearer(self, id: str) -> KnownExperiment | None:
        others = (
            one
            for one in self._index.experiments().values()
            if one.id not in (id, *self._open)
            and one.lifecycle == "active"
            and one.promise is None
        )
        # Rather one that mlmigrate made.
        return min(others, key=lambda one: (not one.origins, one.id), default=None)

    def _promise(self, held: KnownExperiment, what: str) -> None:
        self._set_tag(held.id, answers.RESTORED, f"{what}@{held.updated}")
        self._index.refresh(held.id)

    def _forget_promise(self, held: KnownExperiment) -> None:
        self._set_tag(held.id, answers.RESTORED, "")
        self._index.refresh(held.id).announced = None

    def _active_runs(self, id: str) -> set[str]:
        return self._runs(id, "ACTIVE_ONLY")

    def _copied_as_active(self, id: str) -> set[str]:
        """Return the runs that are active, and were so at their source."""
        return {
            answers.run_id(run)
            for run in self._reader.search_runs([id], "", "ACTIVE_ONLY")
            if (mark := marks.load(answers.tags_of(run).get(marks.MARK))) is not None
            and mark.lifecycle == "active"
        }

    def _runs(self, id: str, view: str) -> set[str]:
        return {answers.run_id(run) for run in self._reader.search_runs([id], "", view)}

    def finish(self) -> None:
        """Keep all promises, also those of copies that were killed."""
        with self._lock:
            for held in list(self._index.experiments().values()):
                if held.lifecycle == "deleted":
                    self._open.pop(held.id, None)
                    continue
                if held.id not in self._open:
                    self._adopt(held)
                if held.id in self._open:
                    self._delete(held)
            for held in list(self._index.experiments().values()):
                if held.tags.get(answers.RESTORING):
                    self._set_tag(held.id, answers.RESTORING, "")
                    self._index.refresh(held.id)

    def _delete_experiment(self, id: str) -> None:
        try:
            self._rest.post("experiments/delete", {"experiment_id": id})
        except Refused:
            if self._index.refresh(id).lifecycle == "active":
                raise

    def _delete(self, held: KnownExperiment) -> None:
        opened = self._open.pop(held.id, _Open())
        if held.updated:
            self._delete_experiment(held.id)
        else:
            # Before MLflow 1.29 a promise names no time: it would hold for ever.
            with self._announced(held.id, "redelete"):
                self._set_tag(held.id, answers.RESTORED, "")
                self._delete_experiment(held.id)
        for run in sorted(opened.alive):
            restore_run(self._rest, run)
        self._index.refresh(held.id).announced = None
