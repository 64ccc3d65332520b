"""Entities: evaluation datasets, scorers and the others that travel as rows."""

from __future__ import annotations

import json
from typing import Any

from mlmigrate import entities
from mlmigrate.entities import ENTITIES
from mlmigrate.filters import Filters
from mlmigrate.model import Failed, Item, Loss, Note, Problem, Ref
from mlmigrate.testing.entity_items import (
    dataset,
    issue,
    label_schema,
    record,
    review_queue,
    scorer,
    webhook,
    with_entities,
)
from mlmigrate.testing.items import NOW, OTHER, experiment, run
from mlmigrate.testing.sink_under_test import MemorySources, SinkUnderTest


class NoEntities(SinkUnderTest):
    """What a sink without a place for entities says of them."""

    def test_entities_have_a_place_or_are_told_as_lost(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Each is copied, or lost and told, each time."""
        items = with_entities()
        origin = source(*items)
        places = self.capabilities(sink_location).entities
        for _ in range(2):
            result = self.copy(origin, sink_location)
            lost = {each.ref for each in result.of(Loss) if not each.carried}

            assert result.of(Failed) == []
            homeless = {item.ref for item in items if item.ref.kind in ENTITIES}
            assert lost == {ref for ref in homeless if ref.kind not in places}
            for kind in places:
                assert set(result.counts(kind)) <= {"copied", "skipped"}


class Entities(NoEntities):
    """They arrive row by row, and grow; those of one name become one."""

    def test_entities_arrive(self, source: MemorySources, sink_location: str) -> None:
        """Each row of each is read back as it was, and verify agrees."""
        items = with_entities()
        origin = source(*items)
        result = self.copy(origin, sink_location)

        assert [*result.of(Failed), *result.of(Problem), *result.of(Loss)] == []
        assert self.differences(origin, sink_location) == []
        for item in (each for each in items if each.ref.kind in ENTITIES):
            back = self.read(sink_location, item.ref.kind)[item.ref.id]
            assert back.header == item.header
            assert said(back) == said(item)
        assert set(self.copy(origin, sink_location).counts(None)) == {"skipped"}

    def test_datasets_of_one_name_become_one(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """It holds the records of both; of two with one input the later stands."""
        one = source(
            experiment(),
            dataset("d-1", records=[record(1), record(2, NOW, outputs="1")]),
        )
        other = source(
            experiment("2", "other"),
            dataset(
                "d-2",
                records=[record(2, NOW + 9, "r-9", outputs="2"), record(3, id="r-8")],
                homes=("2",),
                tags=(("more", "yes"),),
            ),
        )
        for sources in ([one, other], [other, one]):
            result = self.copy(sources, sink_location)
            assert [*result.of(Failed), *result.of(Problem)] == []
            assert self.differences(sources, sink_location) == []
        assert set(self.copy([one, other], sink_location).counts(None)) == {"skipped"}

        (back,) = self.read(sink_location, "evaluation_dataset").values()
        assert back.ref.id == "d-1"
        records = said(back)["evaluation_dataset_records"]
        assert sorted(each["dataset_record_id"] for each in records) == [
            "r-1",
            "r-2",  # its own, under which something may know it
            "r-8",
        ]
        assert [each["outputs"] for each in records if "outputs" in each] == ["2"]
        assert len(said(back)["evaluation_dataset_tags"]) == 2
        assert len(said(back)["entity_associations"]) == 2

    def test_two_of_one_name_in_one_source_stay_two(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """MLflow lets names of datasets and webhooks be given twice."""
        origin = source(
            experiment(),
            dataset("d-1", records=[record(1)]),
            dataset("d-2", records=[record(1, id="r-2", outputs="5")]),
            webhook("w-1"),
            webhook("w-2"),
        )
        for outcome in ("copied", "skipped"):
            result = self.copy(origin, sink_location)
            assert result.counts("evaluation_dataset") == {outcome: 2}
            assert result.counts("webhook") == {outcome: 2}
            assert self.differences(origin, sink_location) == []

    def test_a_second_of_one_name_that_comes_later(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """It is not taken for the first, whatever their order is by then."""
        first = dataset("d-2", records=[record(2)])
        self.copy(source(experiment(), first), sink_location)
        origin = source(experiment(), dataset("d-1", records=[record(1)]), first)
        result = self.copy(origin, sink_location)

        assert result.counts("evaluation_dataset") == {"copied": 1, "skipped": 1}
        assert self.differences(origin, sink_location) == []
        assert set(self.copy(origin, sink_location).counts(None)) == {"skipped"}
        back = self.read(sink_location, "evaluation_dataset").values()
        records = [said(each)["evaluation_dataset_records"] for each in back]
        assert list(map(len, records)) == [1, 1]

    def test_one_for_several_of_its_name(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Where the sink has two, another store's becomes one of them for good."""
        two = source(experiment(), dataset("d-1"), dataset("d-2"))
        self.copy(two, sink_location)
        other = source(experiment(), dataset("d-9", records=[record(9)]))
        result = self.copy(other, sink_location)

        assert result.counts("evaluation_dataset") == {"updated": 1}
        for _ in range(2):
            assert set(self.copy(other, sink_location).counts(None)) == {"skipped"}
            assert self.differences(other, sink_location) == []

    def test_scorers_of_one_name_become_one(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Versions that the sink lacks get the numbers that follow its own."""
        one = source(experiment(), scorer("s-1", '{"a": 1}', '{"a": 2}'))
        other = source(experiment(), scorer("s-2", '{"a": 1}', '{"b": 2}'))
        self.copy(one, sink_location)
        result = self.copy(other, sink_location)
        notes = [each.what for each in result.findings() if isinstance(each, Note)]

        assert result.counts("scorer") == {"updated": 1}
        assert notes == ["scorer_version 2 is scorer_version 3 at the sink"]
        for sources in (one, other, [one, other]):
            assert self.copy(sources, sink_location).counts("scorer").keys() == {
                "skipped"
            }
            assert self.differences(sources, sink_location) == []
        (back,) = self.read(sink_location, "scorer").values()
        assert [
            (each["scorer_version"], each["serialized_scorer"])
            for each in said(back)["scorer_versions"]
        ] == [(1, '{"a": 1}'), (2, '{"a": 2}'), (3, '{"b": 2}')]

    def test_references_between_entities_follow(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """A queue names the label schema that took the place of its own."""
        self.copy(source(experiment(), label_schema("l-1")), sink_location)
        origin = source(
            experiment(), label_schema("l-2"), review_queue(schemas=["l-2"])
        )
        self.copy(origin, sink_location)

        assert self.differences(origin, sink_location) == []
        (back,) = self.read(sink_location, "review_queue").values()
        assert said(back)["review_queue_label_schemas"] == [{"schema_id": "l-1"}]

    def test_queues_whose_names_differ_by_case(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """MLflow takes them for one, and so they become one."""
        self.copy(source(experiment(), review_queue("q-1", ())), sink_location)
        other = review_queue("q-2", (), name="first LOOK")
        origin = source(experiment(), other)
        assert self.copy(origin, sink_location).of(Failed) == []
        assert len(self.read(sink_location, "review_queue")) == 1

    def test_a_run_that_is_not_there(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """An issue that a lost run found is copied without it, and that is told."""
        origin = source(experiment(), issue(run=OTHER))
        result = self.copy(origin, sink_location)
        losses = [each for each in result.findings() if isinstance(each, Loss)]

        assert result.counts("issue") == {"copied": 1}
        assert [(each.ref, each.carried) for each in losses] == [
            (Ref("issue", "i-1"), False)
        ]
        assert self.differences(origin, sink_location) == []
        assert self.copy(origin, sink_location).counts("issue") == {"skipped": 1}

        source.put(origin, run(OTHER))  # it comes later
        result = self.copy(origin, sink_location)
        assert result.counts("issue") == {"updated": 1}
        assert [each for each in result.findings() if isinstance(each, Problem)] == []
        assert self.differences(origin, sink_location) == []
        assert set(self.copy(origin, sink_location).counts(None)) == {"skipped"}
        (back,) = self.read(sink_location, "issue").values()
        assert said(back)["issues"][0]["source_run_id"] == OTHER

    def test_json_with_numbers_that_are_none(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Python writes NaN into JSON, which has no word for it: where it does not fit,
        the rest of the dataset arrives.
        """
        odd = '{"a": [NaN, -Infinity], "NaN": "not NaN, \\"NaN\\"", "b": Infinity}'
        rows = [record(1, expectations=odd), record(2)]
        origin = source(experiment(), dataset(records=rows))
        result = self.copy(origin, sink_location)

        assert result.counts("evaluation_dataset") == {"copied": 1}
        assert self.differences(origin, sink_location) == []
        assert set(self.copy(origin, sink_location).counts(None)) == {"skipped"}
        (back,) = self.read(sink_location, "evaluation_dataset").values()
        records = said(back)["evaluation_dataset_records"]
        assert len(records) == 2
        (told,) = [
            each["expectations"] for each in records if "NaN" in each["expectations"]
        ]
        words = [each.what for each in result.losses() if "JSON" in each.what]
        if words:
            assert "3 numbers" in words[0]
            assert json.loads(told) == {
                "a": [None, None],
                "NaN": 'not NaN, "NaN"',
                "b": None,
            }
        else:
            assert repr(json.loads(told)) == repr(json.loads(odd))

    def test_what_changed_later_stands(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """An older state changes nothing; where no time tells, that is said."""
        origin = source(
            experiment(),
            label_schema(),
            review_queue(),
            dataset(records=[record(1, outputs="1")]),
        )
        self.copy(origin, sink_location)
        source.put(
            origin,
            label_schema(instruction="Well?", last_update_time=NOW + 50),
            review_queue(status="complete"),
        )
        result = self.copy(origin, sink_location)
        assert result.counts("label_schema") == {"updated": 1}
        assert result.counts("review_queue") == {"updated": 1}
        assert self.differences(origin, sink_location) == []

        source.put(
            origin,
            label_schema(),
            review_queue(),
            dataset(records=[record(1, outputs="other")], tags=[("team", "x")]),
        )
        result = self.copy(origin, sink_location)
        problems = [
            each.what for each in result.findings() if isinstance(each, Problem)
        ]
        assert set(result.counts(None)) == {"skipped"}
        assert [each.split(":")[0].split()[0] for each in problems] == [
            "evaluation_dataset_tags",
            "evaluation_dataset_records",
        ]
        assert len(self.differences(origin, sink_location)) == 2
        (schema,) = self.read(sink_location, "label_schema").values()
        assert said(schema)["label_schemas"][0]["instruction"] == "Well?"

    def test_a_webhook_fires_nothing(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """An enabled one is disabled where it would act, and stays as it is there."""
        origin = source(experiment(), webhook(status="ACTIVE"))
        self.copy(origin, sink_location)
        acts = self.capabilities(sink_location).acts
        (back,) = self.read(sink_location, "webhook").values()

        status = said(back)["webhooks"][0]["status"]
        assert status == ("DISABLED" if acts else "ACTIVE")
        assert self.differences(origin, sink_location) == []
        assert self.copy(origin, sink_location).counts("webhook") == {"skipped": 1}

    def test_filters_select_entities_by_their_experiments(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """What belongs to an experiment that is left out is left out, too."""
        origin = source(
            experiment(),
            experiment("2", "other"),
            dataset("d-1", "both", homes=("1", "2")),
            dataset("d-2", "others", homes=("2",)),
            dataset("d-3", "nobody's", homes=()),
            scorer(),
            webhook(),
        )
        filters = Filters(experiments=("churn",))
        result = self.copy(origin, sink_location, filters=filters)

        assert result.counts("evaluation_dataset") == {"copied": 1}
        assert result.counts("scorer") == {"copied": 1}
        assert result.counts("webhook") == {}
        assert self.differences(origin, sink_location, filters=filters) == []
        (back,) = self.read(sink_location, "evaluation_dataset").values()
        assert back.ref.id == "d-1"
        assert len(said(back)["entity_associations"]) == 1

        self.copy(origin, sink_location)
        assert self.differences(origin, sink_location) == []
        assert len(self.read(sink_location, "evaluation_dataset")) == 3

    def test_a_dataset_of_an_experiment_that_is_gone(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """It is copied without it, and that is told."""
        astray = dataset("d-2", "other", homes=("9",))
        origin = source(experiment(), dataset("d-1"), astray)
        result = self.copy(origin, sink_location)

        assert result.counts("evaluation_dataset") == {"copied": 2}
        notes = [each.what for each in result.findings() if isinstance(each, Note)]
        assert notes == ["experiment 9 is not at the sink"]
        assert self.differences(origin, sink_location) == []


def said(item: Item) -> dict[str, list[dict[str, Any]]]:
    """Return what the rows of an entity say, by table, in a fixed order."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(item.rows, key=lambda row: (row.table, row.values)):
        found.setdefault(row.table, []).append(entities.values(row))
    return found
