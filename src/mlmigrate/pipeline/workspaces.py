"""Workspaces: each is copied as if it were a store of its own, into the sink's of its
name.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace

from mlmigrate.contract import Housing, Sink, Source
from mlmigrate.entities import HOUSES
from mlmigrate.errors import StoreError
from mlmigrate.locations import Opened, chosen_workspace, shown, within, workspace_of
from mlmigrate.model import Problem
from mlmigrate.pipeline.job import keep_apart, open_sources, unusable
from mlmigrate.workspaces import DEFAULT, is_name


@dataclass(frozen=True, slots=True)
class Pass:
    """What goes into one workspace of the sink, which is opened in that."""

    workspace: str
    sources: list[tuple[Opened, Source]]
    sink: Sink
    problems: list[Problem]  # with sources that cannot be opened, or be kept apart


@dataclass(slots=True)
class _Plan:
    """The views of the sources that go into one workspace of the sink; with what is
    open already.
    """

    views: list[tuple[Opened, Source | None]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def passes(
    sources: Sequence[Opened], sink: Opened
) -> Generator[Pass | Problem, None, None]:
    """Yield a pass for each workspace of the sink that something goes into; each is
    over when the next is asked for. One that cannot be opened is a problem.

    What a sink has no workspaces for goes into the one place that it has, like what
    comes from several stores.

    Raises:
        UsageError: the sink is a source, too.
        StoreError: a store cannot be opened at all.
    """
    home, keeps = workspace_of(sink), chosen_workspace(sink) is None
    keep_apart(sources, sink)
    bad: list[Problem] = []
    with open_sources(sources, bad) as found:
        # The sink is closed before it is opened in another workspace.
        with closing(sink.sink()) as target, ExitStack() as stack:
            plans = _plans(found, home, target if keeps else None)
            views = [view for plan in plans.values() for view, _ in plan.views]
            for name in plans:
                keep_apart(views, sink if name == home else within(sink, name))
            yield from bad
            if (plan := plans.pop(home, None)) is not None:
                yield Pass(home, _opened(plan, stack), target, plan.problems)
        for name, plan in plans.items():
            yield from _elsewhere(name, plan, within(sink, name))


def _elsewhere(
    name: str, plan: _Plan, place: Opened
) -> Generator[Pass | Problem, None, None]:
    """Yield the pass into another workspace of the sink, or why there is none."""
    with ExitStack() as stack:
        found = _opened(plan, stack)
        try:
            opened = stack.enter_context(closing(place.sink()))
        except StoreError as error:
            what = f"cannot be opened, nothing was written there: {error}"
            yield Problem(shown(place), what)
            return
        yield Pass(name, found, opened, plan.problems)


def _plans(
    sources: Sequence[tuple[Opened, Source]], home: str, keeper: Sink | None
) -> dict[str, _Plan]:
    """Decide what goes where.

    Args:
        sources: all that are open.
        home: the workspace in which the sink is open.
        keeper: the sink, if it may keep others apart.

    Returns:
        The sink's workspace -> what goes into it.
    """
    plans: dict[str, _Plan] = {}
    for given, source in sources:
        views: list[tuple[Opened, Source | None]] = [(given, source)]
        try:
            views += ((view, None) for view in others(given, source))
        except StoreError as error:
            what = f"its workspaces are not told, and one alone is read: {error}"
            plan = plans.setdefault(home, _Plan())
            plan.problems.append(Problem(shown(given), what))
        for view, opened in views:
            name, problems = workspace_of(view), []
            if name != home and not is_name(name):
                what = f"is no name that MLflow takes: what is there comes into {home}"
                problems.append(Problem(shown(view), what))
                name = home
            # Asked only if it must be: to tell takes some sinks their time.
            elif name != home and not (keeper and _has_workspaces(keeper)):
                name = home
            plan = plans.setdefault(name, _Plan())
            plan.views.append((view, opened))
            plan.problems += problems
    return plans


def _has_workspaces(sink: Sink) -> bool:
    return sink.capabilities.entities.issuperset(HOUSES)


def _opened(plan: _Plan, stack: ExitStack) -> list[tuple[Opened, Source]]:
    """Open the views that are not open yet; note those that cannot be opened."""
    found = []
    for view, source in plan.views:
        try:
            opened = source or stack.enter_context(closing(view.source()))
        except StoreError as error:
            plan.problems.append(unusable(view, error))
        else:
            found.append((view, opened))
    return found


def others(opened: Opened, source: Source) -> list[Opened]:
    """Return a source's workspaces beside the default one, where nobody chose."""
    if chosen_workspace(opened) is not None or not isinstance(source, Housing):
        return []
    return [
        replace(opened, options={**opened.options, **source.view(name)})
        for name in source.workspaces()
        if name != DEFAULT
    ]


def each_workspace(
    opened: Opened, problems: list[Problem]
) -> Generator[tuple[Opened, Source], None, None]:
    """Yield a store for reading, in each of its workspaces; it is closed when the next
    is asked for. What cannot be opened but the first is noted in *problems*.

    Raises:
        StoreError: it cannot be opened.
    """
    with closing(opened.source()) as source:
        views = others(opened, source)
        yield opened, source
        for view in views:
            try:
                held = view.source()
            except StoreError as error:
                problems.append(unusable(view, error))
                continue
            with closing(held):
                yield view, held
