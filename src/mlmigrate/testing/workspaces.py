"""Workspaces: names are unique in one alone, and each comes into that of its name."""

from __future__ import annotations

from contextlib import closing

from mlmigrate.entities import HOUSES
from mlmigrate.locations import within
from mlmigrate.model import (
    Artifact,
    Experiment,
    Failed,
    Item,
    Loss,
    Problem,
    Ref,
    RegisteredModel,
    Run,
)
from mlmigrate.testing.entity_items import dataset, mcp_server, record, workspace
from mlmigrate.testing.items import NOW, OTHER, RUN, experiment, model, run, version
from mlmigrate.testing.sink_under_test import MemorySources, Result, SinkUnderTest

TEAM = "team-a"
_NOTE = {(Ref("run", OTHER), "note.txt"): b"of the team"}


def housed(sources: MemorySources, team: str = TEAM) -> str:
    """Return a source whose two workspaces have the same names for what they hold."""
    location = sources(
        experiment(),
        run(),
        model("cat", version("cat", 1, NOW)),
        dataset("d-1", records=[record(1)]),
        mcp_server(),
    )
    sources.put(
        location,
        workspace(team, description="of the team"),
        experiment("2"),
        run(OTHER, "2", artifacts=(Artifact("note.txt", 11),)),
        model("cat", version("cat", 1, NOW + 7), version("cat", 2, NOW + 9)),
        dataset("d-2", records=[record(2)], homes=("2",)),
        mcp_server(endpoint="e-2"),
        files=_NOTE,
        workspace=team,
    )
    return location


def _wrong(result: Result) -> list[object]:
    return [*result.of(Failed), *result.of(Problem), *result.of(Loss)]


class NoWorkspaces(SinkUnderTest):
    """What a sink without workspaces does with them."""

    def test_nothing_in_a_workspace_is_lost(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """All runs come; that the workspace itself does not is told each time."""
        origin = housed(source)
        held = self.capabilities(sink_location).entities.issuperset(HOUSES)
        for _ in range(2):
            result = self.copy(origin, sink_location)
            lost = {each.ref for each in result.of(Loss) if not each.carried}

            assert result.of(Failed) == []
            assert (Ref("workspace", TEAM) in lost) == (not held)
            assert self.differences(origin, sink_location) == []
            assert sum(result.counts("run").values()) == 2

    def test_what_mlflow_takes_for_no_name_is_told(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """What is in such a workspace comes, and nothing is made by its name."""
        origin = housed(source, team="../../away")
        result = self.copy(origin, sink_location)

        (problem,) = result.of(Problem)
        assert "../../away" in problem.where
        assert "no name that MLflow takes" in problem.what
        assert result.of(Failed) == []
        assert result.counts("run") == {"copied": 2}
        assert self.differences(origin, sink_location) == []


class Workspaces(SinkUnderTest):
    """They stay apart, and grow."""

    def in_workspace(
        self, location: str, workspace: str
    ) -> tuple[str, str, int, str, bool]:
        """Return what tells the two of `housed` apart, of which each has one."""
        found = []
        for kind in ("run", "experiment", "registered_model"):
            ((_, item),) = self.read(location, kind, workspace).items()
            found.append(item)
        one, home, registered = found
        assert isinstance(one.header, Run)
        assert isinstance(home.header, Experiment)
        assert isinstance(registered.header, RegisteredModel)
        ((name, _),) = self.read(location, "evaluation_dataset", workspace).items()
        servers = self.read(location, "mcp_server", workspace)
        at_home = one.header.experiment == home.ref and len(servers) == 1
        return one.ref.id, home.header.name, len(registered.versions), name, at_home

    def test_each_comes_into_its_own(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Equal names stay two, and verify agrees."""
        origin = housed(source)
        result = self.copy(origin, sink_location)

        assert _wrong(result) == []
        assert result.counts("workspace") == {"copied": 1}
        assert self.differences(origin, sink_location) == []
        assert set(self.copy(origin, sink_location).counts(None)) == {"skipped"}
        assert self.in_workspace(sink_location, "default") == (
            RUN,
            "churn",
            1,
            "d-1",
            True,
        )
        assert self.in_workspace(sink_location, TEAM) == (
            OTHER,
            "churn",
            2,
            "d-2",
            True,
        )
        assert self.read(sink_location, "workspace") == {}
        (made,) = self.read(sink_location, "workspace", TEAM).values()
        assert made.rows == workspace(TEAM, description="of the team").rows
        with closing(within(self.opened(sink_location), TEAM).sink()) as store:
            for (ref, path), content in _NOTE.items():
                with store.open(ref, path) as file:
                    assert file.read() == content

    def test_what_grew_in_one(self, source: MemorySources, sink_location: str) -> None:
        """The others stay as they are; what is said of a workspace at the sink, too."""
        origin = source(experiment(), run())
        source.put(origin, workspace(), experiment("2"), workspace=TEAM)
        self.copy(origin, sink_location)
        described = workspace(TEAM, description="of the team")
        source.put(origin, described, run(OTHER, "2"), workspace=TEAM)
        result = self.copy(origin, sink_location)

        assert _wrong(result) == []
        assert result.counts("workspace") == {"updated": 1}
        assert result.counts("run") == {"copied": 1, "skipped": 1}
        assert result.counts("experiment") == {"skipped": 2}
        assert self.differences(origin, sink_location) == []

        source.put(origin, workspace(TEAM, description="others'"), workspace=TEAM)
        result = self.copy(origin, sink_location)
        (problem,) = [each for each in result.findings() if isinstance(each, Problem)]
        assert "something else stands at the sink, and stays" in problem.what
        (made,) = self.read(sink_location, "workspace", TEAM).values()
        assert made.rows == described.rows

    def test_several_stores_share_a_workspace(
        self, source: MemorySources, sink_location: str
    ) -> None:
        """Theirs of one name becomes one; one store may be without any."""
        one, other = housed(source), source(experiment("3"), run("3" * 32, "3"))
        third = source()
        source.put(third, experiment("4"), run("4" * 32, "4"), workspace=TEAM)
        sources = [one, other, third]
        result = self.copy(sources, sink_location)

        assert _wrong(result) == []
        assert self.differences(sources, sink_location) == []
        ((home, _),) = self.read(sink_location, "experiment", TEAM).items()
        held = self.read(sink_location, "run", TEAM).values()
        assert {item.ref.id for item in held} == {OTHER, "4" * 32}
        assert {_home(item) for item in held} == {home}
        assert set(self.copy(sources, sink_location).counts(None)) == {"skipped"}


def _home(item: Item) -> str:
    assert isinstance(item.header, Run)
    return item.header.experiment.id
