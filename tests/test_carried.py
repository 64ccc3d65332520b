"""What does not fit is carried in tags, and a later copy forgets none of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import replace

from mlmigrate import merge
from mlmigrate.contract import Capabilities, Mark
from mlmigrate.fit import fit
from mlmigrate.marks import WHOLE
from mlmigrate.model import Item, Loss, Tag
from mlmigrate.testing.items import NOW, model, points, run, version

SERVER = Capabilities(keeps_ids=False, keeps_times=False, infinities=False)


def carried(tags: Iterable[Tag]) -> str:
    return " ".join(tag.value for tag in tags if tag.key.startswith(WHOLE))


def fitted(item: Item) -> Item:
    found, losses = fit(item, SERVER)
    assert all(loss.carried for loss in losses)
    return found


def test_a_model_of_two_stores_carries_what_both_said() -> None:
    here = model("churn", version("churn", 1, NOW + 1))
    there = model("churn", version("churn", 1, NOW + 2), version("churn", 2, NOW + 3))
    merged, _, _ = merge.merge_models([fitted(here), fitted(there)], None)

    assert merged is not None
    for each, created in zip(merged.versions, (NOW + 1, NOW + 3, NOW + 2), strict=True):
        assert f'"text": "{created}"' in carried(each.tags)


def test_a_model_carries_the_header_of_each_store() -> None:
    one, two = (
        replace(
            model("churn", version("churn", 1, NOW)),
            tags=(Tag(f"{WHOLE}1", json.dumps([entry])),),
        )
        for entry in ({"a": 1}, {"b": 2})
    )
    merged, _, _ = merge.merge_models([one, two, one], None)

    assert merged is not None
    assert json.loads(carried(merged.tags)) == [{"a": 1}, {"b": 2}]


def test_a_version_that_stands_is_not_completed_by_what_it_carries() -> None:
    held = model("churn", version("churn", 1, NOW, mark="{}"))
    incoming = fitted(model("churn", version("churn", 1, NOW)))
    merged, _, _ = merge.merge_models([incoming], held)

    assert merged is None


def grown(*values: float) -> Item:
    history = points("loss", *enumerate(values))
    return fitted(run(metrics=(history,), end_time=NOW + 1000 * len(values)))


def additions(held: Item, incoming: Item) -> Item | None:
    tags = tuple(tag for tag in held.tags if not tag.key.startswith(WHOLE))
    back = Item(held.ref, held.header, held.origin, tags=tags, metrics=held.metrics)
    mark = Mark("digest", "options", "FINISHED", tags="")
    return merge.additions(back, incoming, mark=mark, same_source=False).item


def test_a_run_that_grew_carries_its_new_points_too() -> None:
    added = additions(grown(0.5, math.inf), grown(0.5, math.inf, 0.25, -math.inf))

    assert added is not None
    assert carried(added.tags).count("inf") == 2


def test_an_older_version_overwrites_nothing_that_is_carried() -> None:
    held = grown(0.5, math.inf)
    older = fitted(
        run(metrics=(points("other", (0, -math.inf), at=NOW - 9),), end_time=NOW - 5)
    )
    added = additions(held, older)

    assert added is not None
    (tag,) = [tag for tag in added.tags if tag.key.startswith(WHOLE)]
    assert "-inf" in tag.value
    assert tag.key not in {each.key for each in held.tags}


def test_what_is_carried_is_nothing_new_by_itself() -> None:
    newer, older = grown(0.5, math.inf, 0.25), grown(0.5, math.inf)

    assert additions(newer, older) is None


def test_the_losses_of_versions_are_carried_by_them() -> None:
    long = "x" * 500_000
    sink = Capabilities(True, text={"model_version.description": 10})
    item = model(
        "churn", version("churn", 1, NOW, description=long), version("churn", 2, NOW)
    )
    found, losses = fit(item, sink)

    assert [loss.carried for loss in losses if isinstance(loss, Loss)] == [False]
    assert carried(found.versions[0].tags) == ""
