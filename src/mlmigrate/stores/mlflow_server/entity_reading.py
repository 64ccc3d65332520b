"""The source half for entities: which there are, and what each is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor

from mlmigrate.entities import ENTITIES
from mlmigrate.errors import ItemError
from mlmigrate.model import Finding, Item, Kind, Note, Problem, Ref
from mlmigrate.stores.mlflow_server.entities import (
    OF_ACTIVE,
    id_of,
    is_told,
    item_of,
    listed,
    named_schemas,
    seeds_schemas,
)
from mlmigrate.stores.mlflow_server.rest import Json, Refused, Rest

_HIDDEN = (
    "a server shows nobody the scorers, label schemas and review queues of deleted"
    " experiments: restore those that have some, to have them copied"
)
_LIST = "mlflow.genai.label_schemas.list_label_schemas(experiment_id={})"
_MORE_SCHEMAS = (
    "only those label schemas are copied that a review queue or an assessment names:"
    " there may be others, but nobody has listed them yet, and to do so would make"
    f" MLflow's default one. Call {_LIST} once, and copy again"
)
_NO_SCHEMAS = (
    "label schemas are not looked for in experiments where nobody has listed them yet,"
    " and no review queue and no assessment names any: to list them would make MLflow's"
    f" default one. If you made some, call {_LIST.format('…')} once, and copy again"
)


class EntityReader:
    """Reads the entities of a server, and changes nothing there."""

    def __init__(
        self,
        rest: Rest,
        pool: Executor,
        *,
        active: Callable[[], Sequence[str]],
        sink: bool,
    ) -> None:
        """Make a reader.

        Args:
            rest: the server.
            pool: asks about many experiments at once.
            active: returns the ids of the experiments that are not deleted.
            sink: the server is one to copy to.
        """
        self._rest = rest
        self._pool = pool
        self._active = active
        self._sink = sink
        #: Scorers are asked for by their names.
        self._scorers: dict[Ref, Json] = {}
        #: Which could not be listed.
        self.found: list[Finding] = []

    def refs(self, kind: Kind, experiments: Sequence[str]) -> Iterator[Ref]:
        """Yield the entities of a kind, where they have one those of *experiments*."""
        places = list(experiments) if ENTITIES[kind].of_experiment else [""]
        for some in self._listed(kind, places):
            for said in some:
                try:
                    ref = Ref(kind, id_of(kind, said))
                except (KeyError, TypeError) as error:
                    what = f"a {kind.replace('_', ' ')} has no id: {error!r}"
                    self.found.append(Problem(self._rest.base, what))
                    continue
                if not is_told(kind, said):
                    continue
                if kind == "scorer":
                    self._scorers[ref] = said
                yield ref

    def read(self, ref: Ref) -> Item:
        """Read one entity.

        Raises:
            ItemError: it is not there, or cannot be read.
        """
        if ref.kind != "scorer":
            return item_of(self._rest, ref, None)
        if ref not in self._scorers:
            list(self.refs("scorer", self._active()))
        if ref not in self._scorers:
            raise ItemError(f"{self._rest.base} holds no such scorer")
        return item_of(self._rest, ref, self._scorers[ref])

    def _listed(self, kind: Kind, places: Sequence[str]) -> Iterator[list[Json]]:
        """Yield the entities of each place; none of a server that knows no such."""
        hidden: set[str] = set()
        if kind in OF_ACTIVE:
            hidden = set(places).difference(self._active())
            places = [place for place in places if place not in hidden]

        def in_place(place: str) -> list[Json]:
            try:
                if kind == "label_schema" and seeds_schemas(self._rest, place):
                    return self._named_schemas(place)
                return listed(self._rest, kind, place)
            except Refused as refusal:
                if refusal.unknown:
                    raise
                what = f"{kind.replace('_', ' ')}s cannot be listed: {refusal}"
                self.found.append(Problem(self._at(place), what))
                return []

        try:
            for place in places[:1]:
                yield in_place(place)
        except Refused:
            return
        if hidden:
            self.found.append(Note(self._rest.base, _HIDDEN))
        yield from self._pool.map(in_place, places[1:])

    def _named_schemas(self, experiment: str) -> list[Json]:
        """Return the label schemas of an experiment in which to list them would make
        one, which a source must not get.
        """
        found, may_have_more = named_schemas(self._rest, experiment)
        if self._sink:  # what else is there is not to be copied
            return found
        if may_have_more:
            what = _MORE_SCHEMAS.format(repr(experiment))
            self.found.append(Problem(self._at(experiment), what))
        else:
            self.found.append(Note(self._rest.base, _NO_SCHEMAS))
        return found

    def _at(self, place: str) -> str:
        return f"{self._rest.base}{': experiment ' * bool(place)}{place}"
