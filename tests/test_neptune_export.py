"""Archives of neptune-exporter: all that they hold arrives, what they lack is told."""

from __future__ import annotations

import json
import math
import sqlite3
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import reading, tree
from support.copies import copied, differences
from support.neptune3_server import Neptune3Server
from support.neptune_archives import (
    NeptuneArchive,
    T,
    file,
    histogram,
    moment,
    of_3x,
    points,
    row,
    sanitized,
    table,
    texts,
    value,
)
from support.neptune_server import NeptuneServer
from support.reading import header, params, tags
from support.reading import points as rows_of

from mlmigrate import pipeline
from mlmigrate.contract import Selection
from mlmigrate.digest import digest
from mlmigrate.discover import scan
from mlmigrate.errors import LocationError, StoreNotFound
from mlmigrate.inspection import inspect
from mlmigrate.locations import resolve
from mlmigrate.model import Copied, Failed, Item, Note, Problem, Ref
from mlmigrate.neptune_runs.names import Names
from mlmigrate.neptune_runs.steps import multiplier_of, shown
from mlmigrate.pipeline import Options
from mlmigrate.stores.neptune_export import ExportArchive, open_source

P = "team/proj"


@pytest.fixture
def archive(tmp_path: Path) -> NeptuneArchive:
    return NeptuneArchive(tmp_path / "exports")


def opened(archive: NeptuneArchive, **options: Any) -> ExportArchive:
    return open_source(archive.location, options)


def items(archive: NeptuneArchive, kind: Any = "run", **options: Any) -> list[Item]:
    return reading.held(opened(archive, **options), kind)


def read(archive: NeptuneArchive, **options: Any) -> Item:
    (item,) = items(archive, **options)
    return item


def content(archive: NeptuneArchive, item: Item, path: str) -> bytes:
    store = opened(archive)
    with store.open(item.ref, path) as data:
        found = data.read()
    store.close()
    (size,) = [each.size for each in item.artifacts if each.path == path]
    assert size == len(found)
    return found


def problems(findings: Any) -> list[str]:
    return [each.what for each in findings if isinstance(each, Problem)]


def notes(findings: Any) -> list[str]:
    return [each.what for each in findings if isinstance(each, Note)]


class TestAttributes:
    def test_typed_values_stay_what_they_are(self, archive: NeptuneArchive) -> None:
        said = [
            value("p/int", 12),
            value("p/large", 2**62 + 1),
            value("p/float", 12.0),
            value("p/third", 1 / 3),
            value("p/flag", True),
            value("p/text", "12"),
            value("p/empty", ""),
            value("p/when", moment(T + 7)),
            value("p/set", {"b", "a", "ü"}),
        ]
        archive.run(P, "RUN-1", said)

        item = read(archive)

        assert {
            "p/int": "12",
            "p/large": "4611686018427387905",
            "p/float": "12.0",
            "p/third": "0.3333333333333333",
            "p/flag": "True",
            "p/text": "12",
            "p/empty": "",
            "p/when": "2023-11-14T22:13:20.007Z",
            "p/set": '["a", "b", "ü"]',
        } == params(item)
        told = json.loads(content(archive, item, "neptune/attributes.json"))
        assert {"type": "int", "value": 12} == told["p/int"]
        assert {"type": "string", "value": "12"} == told["p/text"]
        assert {"type": "float", "value": 12.0} == told["p/float"]

    def test_a_row_without_a_value_is_an_attribute_of_another_run(
        self, archive: NeptuneArchive
    ) -> None:
        kinds = ("int", "float", "string", "bool", "datetime", "string_set")
        rows = [value(f"p/{kind}", None, kind) for kind in kinds]
        archive.run(P, "a", [*rows, value("p/x", 1), file("f", None)])

        item = read(archive)

        assert {"p/x": "1"} == params(item)
        assert ["neptune/attributes.json"] == [each.path for each in item.artifacts]
        assert () == item.findings

    def test_what_is_below_sys_gets_its_place(self, archive: NeptuneArchive) -> None:
        said = [
            value("sys/id", "RUN-1"),
            value("sys/name", "the first"),
            value("sys/owner", "ann"),
            value("sys/creation_time", moment(T)),
            value("sys/ping_time", moment(T + 9000)),
            value("sys/failed", True),
            value("sys/tags", {"good", "bad"}),
            value("sys/group_tags", {"exp 1"}),
            value("sys/description", "why"),
            value("sys/custom_run_id", "abc"),
        ]
        archive.run(P, "RUN-1", said)

        item = read(archive)

        assert ("the first", "FAILED", T, T + 9000, "ann") == (
            header(item).name,
            header(item).status,
            header(item).start_time,
            header(item).end_time,
            header(item).user,
        )
        assert {
            "neptune.project": P,
            "neptune.run_id": "RUN-1",
            "neptune.id": "RUN-1",
            "neptune.custom_run_id": "abc",
            "neptune.creation_time": "2023-11-14T22:13:20.000Z",
            "neptune.ping_time": "2023-11-14T22:13:29.000Z",
            "neptune.failed": "True",
            "neptune.tags": '["bad", "good"]',
            "neptune.group_tags": '["exp 1"]',
            "mlflow.note.content": "why",
        } == tags(item)
        assert {} == params(item)
        assert f"neptune:{P}/RUN-1" == item.origin

    @pytest.mark.parametrize("path", ["sys/trashed", "sys/archived"])
    def test_runs_in_the_trash_are_deleted(
        self, archive: NeptuneArchive, path: str
    ) -> None:
        archive.run(P, "a", [value(path, True)])
        archive.run(P, "b", [value(path, False)])

        assert ["deleted", "active"] == [header(e).lifecycle for e in items(archive)]

    @pytest.mark.parametrize(
        ("said", "end"),
        [
            ([], None),
            ([value("sys/modification_time", moment(T + 5))], T + 5),
            ([value("sys/running_time", 2.5)], T + 2500),
            (
                [value("sys/running_time", 0.5), *points("a", [(0, 1), (1, 1)])],
                T + 1000,
            ),
            (
                [value("sys/ping_time", moment(T + 8)), value("sys/running_time", 1.0)],
                T + 8,
            ),
        ],
    )
    def test_a_run_ended_when_it_was_last_heard_of(
        self, archive: NeptuneArchive, said: list[Any], end: int | None
    ) -> None:
        archive.run(P, "a", [value("sys/creation_time", moment(T)), *said])

        assert end == header(read(archive)).end_time

    def test_each_project_is_an_experiment(self, archive: NeptuneArchive) -> None:
        archive.run(P, "RUN-1", [value("x", 1)])
        archive.run("team/other project.x", "RUN-1", [value("x", 1)])

        names = [each.header.name for each in items(archive, "experiment")]
        homes = [header(each).experiment.id for each in items(archive)]

        assert ["team/other project.x", P] == names
        assert ["team:other%20project.x", "team:proj"] == homes

    def test_two_values_of_one_path_are_both_kept(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(P, "a", [value("p", 1), value("p", "one"), value("p", 1)])

        item = read(archive)

        assert {"p": "1", "p~2": "one"} == params(item)
        assert ["1 values of p beside its first: kept as p~2"] == notes(item.findings)


class TestSeries:
    def test_points_keep_values_steps_and_times(self, archive: NeptuneArchive) -> None:
        said = [(0, 0.5), (3, -0.0), (4, math.inf), (5, -math.inf), (10**11, 5e-324)]
        archive.run(P, "a", points("loss", said))

        found = rows_of(read(archive))["loss"]

        wanted = [(step, T + 1000 * at, v) for at, (step, v) in enumerate(said)]
        assert wanted == found
        assert math.copysign(1, found[1][2]) == -1

    def test_a_point_without_a_value_is_nan(self, archive: NeptuneArchive) -> None:
        archive.run(P, "a", points("loss", [(0, 1.0), (1, None), (2, math.nan)]))

        values = [value for _, _, value in rows_of(read(archive))["loss"]]

        assert 1.0 == values[0]
        assert all(math.isnan(value) for value in values[1:])

    def test_order_of_rows_and_parts_does_not_matter(
        self, archive: NeptuneArchive, tmp_path: Path
    ) -> None:
        mixed = [
            *points("a", [(2, 2.0), (0, 0.0)]),
            *points("b", [(1, 1.0)], start=T + 7),
            *points("a", [(1, 1.0)]),
            *texts("log", [(3, "c"), (1, "a")]),
            *points("b", [(0, 0.0)]),
            *texts("log", [(2, "b")]),
            value("p", 1),
        ]
        archive.run(P, "a", mixed[4:], mixed[:4], row_group=1)
        ordered = NeptuneArchive(tmp_path / "ordered")
        ordered.run(
            P, "a", sorted(mixed, key=lambda r: (r["attribute_path"], r.get("step")))
        )

        one, other = read(archive), read(ordered)

        assert digest(one) == digest(other)
        lines = content(archive, one, "log.jsonl").decode().splitlines()
        assert ["a", "b", "c"] == [json.loads(line)["value"] for line in lines]
        assert content(archive, one, "log.jsonl") == content(
            ordered, other, "log.jsonl"
        )

    def test_many_parts_in_the_order_of_numbers(self, archive: NeptuneArchive) -> None:
        parts = [points("a", [(at, at)], start=T + at) for at in range(12)]
        archive.run(P, "RUN-1", *parts)

        assert list(range(12)) == [s for s, _, _ in rows_of(read(archive))["a"]]

    def test_fractions_of_steps_are_made_whole_exactly(
        self, archive: NeptuneArchive
    ) -> None:
        said = [
            *points("a", [(0, 0.0), (0.25, 1.0), (1.5, 2.0)]),
            *points("b", [(3, 1)]),
        ]
        archive.run(P, "a", said)

        item = read(archive)

        assert [0, 1, 6] == [step for step, _, _ in rows_of(item)["a"]]
        assert [12] == [step for step, _, _ in rows_of(item)["b"]]
        assert "4" == tags(item)["neptune.step_multiplier"]
        assert ["its steps are fractions: they are times 4"] == notes(item.findings)

    def test_a_given_multiplier_is_taken_or_the_run_is_refused(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(P, "a", points("a", [(0.25, 1.0)]))
        archive.run(P, "b", points("a", [(2, 1.0)]))
        store = opened(archive, **{"step-multiplier": 10})

        refused, taken = store.read(list(store.refs(Selection("run"))))

        assert isinstance(refused, Failed)
        assert "give -i step-multiplier=4" in refused.why
        assert isinstance(taken, Item)
        assert [20] == [step for step, _, _ in rows_of(taken)["a"]]

    def test_steps_that_do_not_fit_are_refused(self, archive: NeptuneArchive) -> None:
        archive.run(P, "a", points("a", [(999_999_999_999, 1.0), (0.000001, 1.0)]))
        archive.run(P, "b", points("a", [(999_999_999_999, 1.0)]))
        store = opened(archive, **{"step-multiplier": 10_000_000})

        fits, too_large = (
            next(iter(opened(archive).read([Ref("run", f"neptune:{P}/a")]))),
            next(iter(store.read([Ref("run", f"neptune:{P}/b")]))),
        )

        assert isinstance(fits, Item)
        assert [1, 999_999_999_999_000_000] == [s for s, _, _ in rows_of(fits)["a"]]
        assert isinstance(too_large, Failed)
        assert "do not fit in 64 bits" in too_large.why

    def test_texts_and_histograms_are_lines(self, archive: NeptuneArchive) -> None:
        said = [
            *texts("monitoring/stdout", [(0, "ü\n"), (1.5, "")]),
            histogram("weights", 2, [0.0, 0.5, 1.0], [3.0, 4.0]),
        ]
        archive.run(P, "a", said)

        item = read(archive)

        lines = content(archive, item, "monitoring/stdout.jsonl").decode().splitlines()
        assert [
            {"step": 0, "timestamp": T, "value": "ü\n"},
            {"step": 1.5, "timestamp": T + 1000, "value": ""},
        ] == [json.loads(line) for line in lines]
        (line,) = content(archive, item, "weights.jsonl").decode().splitlines()
        held = {"type": "COUNTING", "edges": [0.0, 0.5, 1.0], "values": [3.0, 4.0]}
        assert {"step": 2, "timestamp": T, "value": held} == json.loads(line)

    def test_local_times_of_the_exporter_are_taken_back(
        self, archive: NeptuneArchive
    ) -> None:
        hour = 3_600_000
        facts = [value("sys/id", "R-1"), value("sys/creation_time", moment(T))]
        winter, summer = T - 5 * hour, T + 200 * 24 * hour - 4 * hour
        said = [*points("a", [(0, 1.0)], start=winter)]
        later = points("b", [(0, 1.0)], start=summer)
        archive.run(P, "R-1", [*facts, *said, *texts("t", [(0, "x")], start=winter)])
        archive.run(P, "R-2", later)

        early, _ = items(archive)
        first, second = items(archive, **{"series-zone": "America/New_York"})

        assert ["all of its points are 5.0 hours and more before it was made"] == [
            what.partition(":")[0] for what in notes(early.findings)
        ]
        assert [T] == [time for _, time, _ in rows_of(first)["a"]]
        assert [T + 200 * 24 * hour] == [time for _, time, _ in rows_of(second)["b"]]
        assert () == first.findings

    def test_types_that_are_not_known_are_kept_as_lines(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(P, "a", [row("x", "audio_series", string_value="s"), value("p", 1)])

        item = read(archive)

        (line,) = content(archive, item, "x.jsonl").decode().splitlines()
        said = json.loads(line)["value"]
        assert ("audio_series", "s") == (said["attribute_type"], said["string_value"])

    @given(st.lists(st.integers(-(10**12), 10**12), min_size=1, max_size=20))
    def test_the_multiplier_is_the_least_that_makes_all_whole(
        self, steps: list[int]
    ) -> None:
        import numpy as np

        found = multiplier_of([np.array(steps, dtype=np.int64)])

        assert all(step * found % 1_000_000 == 0 for step in steps)
        assert not any(
            all(step * less % 1_000_000 == 0 for step in steps)
            for less in range(1, min(found, 2000))
        )

    @pytest.mark.parametrize(
        ("millionths", "text"),
        [(0, "0"), (1, "0.000001"), (-500_000, "-0.5"), (12_000_000, "12")],
    )
    def test_steps_are_shown_without_needless_digits(
        self, millionths: int, text: str
    ) -> None:
        assert text == shown(millionths)


class TestFiles:
    def test_files_are_named_by_their_attribute(self, archive: NeptuneArchive) -> None:
        archive.file(P, "RUN-1/ckpt/best_pt.bin", b"weights")
        archive.file(P, "RUN-1/img/step_1.png", b"one")
        archive.file(P, "RUN-1/img/step_2.png", b"two")
        archive.file(P, "RUN-1/code/files.zip", b"zip")
        archive.file(P, "RUN-1/data/files_list.json", b"[]")
        said = [
            file("ckpt/best.pt", "RUN-1/ckpt/best_pt.bin"),
            file("img", "RUN-1/img/step_1.png", "file_series", 1),
            file("img", "RUN-1/img/step_2.png", "file_series", 2.5),
            file("code", "RUN-1/code", "file_set"),
            file("data", "RUN-1/data/files_list.json", "artifact"),
        ]
        archive.run(P, "RUN-1", said)

        item = read(archive)

        assert {
            "ckpt/best.pt": b"weights",
            "img/1.png": b"one",
            "img/2.5.png": b"two",
            "code/files.zip": b"zip",
            "data/files_list.json": b"[]",
        } == {each.path: content(archive, item, each.path) for each in item.artifacts}
        assert any("lists of their files" in what for what in notes(item.findings))
        assert [] == list(opened(archive).findings())

    def test_a_file_that_is_not_there_is_a_problem(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(P, "a", [file("f", "a/f"), value("p", 1)])

        item = read(archive)

        assert ["file f: a/f is not there"] == problems(item.findings)

    @pytest.mark.parametrize("path", ["../../secret", "/etc/hostname", "a/../../../x"])
    def test_no_path_leads_out_of_the_archive(
        self, archive: NeptuneArchive, path: str
    ) -> None:
        (archive.root.parent / "secret").write_text("secret")
        archive.file(P, "a/f")
        archive.run(P, "a", [file("f", path), value("p", 1)])

        item = read(archive)

        assert ["neptune/attributes.json"] == [each.path for each in item.artifacts]
        assert any(
            "leads out of the archive" in what for what in problems(item.findings)
        )

    def test_no_link_leads_out_of_the_archive(self, archive: NeptuneArchive) -> None:
        secret = archive.root.parent / "secret"
        secret.write_text("secret")
        archive.file(P, "a/x").unlink()
        (archive.root / "files" / sanitized(P) / "a" / "f").symlink_to(secret)
        archive.run(P, "a", [file("f", "a/f"), value("p", 1)])

        item = read(archive)

        assert any(
            "leads out of the archive" in what for what in problems(item.findings)
        )

    def test_hostile_and_clashing_paths_get_safe_names(
        self, archive: NeptuneArchive, tmp_path: Path
    ) -> None:
        paths = ["../up", "/abs", "a", "a/b", "C:/x", "n\0ul", "x" * 300, "", "dot/./s"]
        for at in range(len(paths)):
            archive.file(P, f"r/{at}", str(at).encode())
        rows = [file(path, f"r/{at}") for at, path in enumerate(paths)]
        archive.run(P, "r", [*rows, value("p", 1)])

        item = read(archive)
        result = copied(archive.location, f"sqlite:///{tmp_path / 'x.db'}")

        assert {str(at).encode() for at in range(len(paths))} == {
            content(archive, item, each.path)
            for each in item.artifacts
            if each.path != "neptune/attributes.json"
        }
        assert [] == result.of(Failed)
        assert "a~2/b" in {each.path for each in item.artifacts}

    @given(st.lists(st.text("ab/.~\0\\:", max_size=8), max_size=12))
    def test_names_are_safe_and_none_is_given_twice(self, paths: list[str]) -> None:
        names = Names()

        given = [names.give(path) for path in paths]

        assert len(given) == len(set(given))
        for one, other in pairwise(sorted(given)):
            assert not other.startswith(one + "/")
        for name in given:
            assert not {"", ".", ".."} & set(name.split("/"))
            assert "\0" not in name

    def test_files_that_no_run_names_are_told(self, archive: NeptuneArchive) -> None:
        archive.file(P, "RUN-1/f")
        archive.file(P, "RUN-2/half")
        archive.run(P, "RUN-1", [file("f", "RUN-1/f")])

        (what,) = notes(opened(archive).findings())

        assert "1 files that no run names, not copied, such as RUN-2/half" == what


class TestForks:
    def test_a_fork_has_the_points_of_its_parent_up_to_the_step(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(
            P,
            "root",
            [
                *of_3x({"sys/name": "root"}),
                *points("loss", [(at, at) for at in range(5)]),
                *points("only/root", [(4, 1.0)]),
                *texts("log", [(0, "r0"), (3, "r3")]),
            ],
        )
        fork = {"sys/forking/parent": "root", "sys/forking/step": 2}
        archive.run(
            P,
            "child",
            [
                *of_3x(fork),
                *points("loss", [(3, 30), (4, 40)], start=T + 50_000),
                *texts("log", [(5, "c5")]),
            ],
        )
        archive.run(
            P,
            "grandchild",
            [
                *of_3x({"sys/forking/parent": "child", "sys/forking/step": 3.0}),
                *points("loss", [(4, 400)], start=T + 90_000),
            ],
        )

        child, grandchild, root = items(archive)

        steps = [(step, value) for step, _, value in rows_of(child)["loss"]]
        assert [(0, 0), (1, 1), (2, 2), (3, 30), (4, 40)] == steps
        assert "only/root" not in rows_of(child)
        steps = [(step, value) for step, _, value in rows_of(grandchild)["loss"]]
        assert [(0, 0), (1, 1), (2, 2), (3, 30), (4, 400)] == steps
        lines = content(archive, child, "log.jsonl").decode().splitlines()
        assert ["r0", "c5"] == [json.loads(line)["value"] for line in lines]
        assert header(child).parent is None  # a fork is not nesting
        assert ("root", "2") == (
            tags(child)["neptune.forking/parent"],
            tags(child)["neptune.forking/step"],
        )
        assert 5 == len(rows_of(root)["loss"])

    def test_a_parent_is_found_by_its_other_ids(self, archive: NeptuneArchive) -> None:
        archive.run(P, "a", [value("sys/id", "RUN-7"), *points("m", [(0, 1.0)])])
        fork = {"sys/forking/parent": "RUN-7", "sys/forking/step": 0}
        archive.run(P, "b", [*of_3x(fork), *points("m", [(1, 2.0)])])

        _, child = items(archive)

        assert [0, 1] == [step for step, _, _ in rows_of(child)["m"]]

    def test_a_parent_that_is_lacking_is_a_problem(
        self, archive: NeptuneArchive
    ) -> None:
        fork = {"sys/forking/parent": "gone", "sys/forking/step": 7}
        archive.run(P, "a", [*of_3x(fork), *points("m", [(8, 1.0)])])

        item = read(archive)

        (what,) = problems(item.findings)
        assert "it goes on from step 7 of gone, which is not in the archive" in what

    def test_a_circle_of_forks_ends(self, archive: NeptuneArchive) -> None:
        for one, other in (("a", "b"), ("b", "a")):
            fork = {"sys/forking/parent": other, "sys/forking/step": 7}
            archive.run(P, one, [*of_3x(fork), *points("m", [(1, 1.0)])])

        for item in items(archive):
            assert any("which goes on from it" in w for w in problems(item.findings))


class TestWholeness:
    def test_a_run_without_part_0_is_no_whole_run(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(P, "whole", [value("p", 1)])
        archive.run(P, "half", [*points("m", [(0, 1.0)])], numbers=[1])
        (path,) = archive.run(P, "begun", [value("p", 1)])
        path.rename(path.with_name(path.name + ".tmp"))

        store = opened(archive)

        assert [f"neptune:{P}/whole"] == [r.id for r in store.refs(Selection("run"))]
        told = problems(store.findings())
        assert 2 == len(told)
        assert any("part 0, written last, is missing: not copied" in w for w in told)
        assert any("was not finished, and is all that is there" in w for w in told)

    def test_what_is_there_of_half_a_run_is_copied_on_request(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(P, "half", [value("p", 1)], points("m", [(0, 1.0)]), numbers=[1, 2])

        item = read(archive, incomplete="yes")

        assert {"p": "1"} == params(item)
        assert 1 == len(rows_of(item)["m"])
        store = opened(archive, incomplete="yes")
        assert 1 == len(problems(store.findings()))

    def test_a_part_in_between_may_not_be_missing(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(P, "a", [value("p", 1)], [value("q", 1)], numbers=[0, 2])

        store = opened(archive)

        assert [] == list(store.refs(Selection("run")))
        assert ["parts of it are missing: 1"] == [
            what.partition(": not copied")[0] for what in problems(store.findings())
        ]

    def test_a_damaged_part_is_a_problem_and_the_rest_is_read(
        self, archive: NeptuneArchive
    ) -> None:
        _, second = archive.run(P, "a", [value("p", 1)], [value("q", 1)])
        data = bytearray(second.read_bytes())
        data[:200] = b"\xff" * 200
        second.write_bytes(data)

        item = read(archive)

        assert {"p": "1"} == params(item)
        (what,) = problems(item.findings)
        assert "_part_1.parquet cannot be read whole" in what

    def test_a_file_that_is_no_parquet_is_a_problem(
        self, archive: NeptuneArchive
    ) -> None:
        (path,) = archive.run(P, "a", [value("p", 1)])
        archive.run(P, "b", [value("p", 1)])
        path.write_bytes(b"PAR1 not at all")

        store = opened(archive)

        assert [f"neptune:{P}/b"] == [ref.id for ref in store.refs(Selection("run"))]
        assert any("cannot be read" in what for what in problems(store.findings()))

    @settings(max_examples=60, deadline=None)
    @given(st.data())
    def test_damage_raises_our_errors_only(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        archive = NeptuneArchive(tmp_path_factory.mktemp("damage") / "x")
        said = [value("p", "text"), *points("m", [(0, 1.0), (1, 2.0)])]
        said += [*texts("t", [(0, "a")]), file("f", "a/f")]
        (path,) = archive.run(P, "a", said)
        whole = bytearray(path.read_bytes())
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(whole) - 1))
            whole[at] = data.draw(st.integers(0, 255))
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))] or whole)

        store = opened(archive)

        for each in store.read(list(store.refs(Selection("run")))):
            assert isinstance(each, Item | Failed)
        list(store.findings())

    def test_what_the_exporter_could_not_fetch_is_told(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(P, "a", [value("p", 1), value("there", 1)])
        record = {"project_id": P, "run_id": "a", "exception": "ReadTimeout"}
        said = [{**record, "attribute_path": path} for path in ("loss", "there", None)]
        lines = "".join(json.dumps(each) + "\n" for each in said) + '{"cut'
        (archive.root / "neptune_exporter_errors.jsonl").write_text(lines)

        told = problems(opened(archive).findings())

        assert [
            "the exporter could not fetch loss: ReadTimeout",
            "the exporter could not fetch some of it: ReadTimeout",
        ] == told

    def test_parts_that_hold_several_runs_are_told_apart(
        self, archive: NeptuneArchive
    ) -> None:
        folder = archive.folder(P)
        for number, ids in enumerate((["a", "b"], ["b", "c"])):
            rows = [table(P, id, [value(f"p{number}", id)]) for id in ids]
            pq.write_table(pa.concat_tables(rows), folder / f"part_{number}.parquet")

        found = [params(item) for item in items(archive)]

        assert [{"p0": "a"}, {"p0": "b", "p1": "b"}, {"p1": "c"}] == found


class TestModels:
    @pytest.fixture
    def models(self, archive: NeptuneArchive) -> NeptuneArchive:
        archive.run(P, "PROJ-1", [value("p", 1)])
        about = [value("sys/id", "PROJ-NET"), value("sys/name", "net")]
        about += [value("sys/creation_time", moment(T)), value("kind", "cnn")]
        archive.run(P, "PROJ-NET", about, scope="models")
        for number, stage in ((1, "archived"), (2, "production"), (10, "none")):
            place = f"model_versions/PROJ-NET-{number}/binary"
            archive.file(P, place, b"%d" % number, top="model_files")
            said = [
                value("sys/stage", stage),
                value("sys/creation_time", moment(T + number)),
                value("sys/description", f"version {number}"),
                value("acc", number / 10),
                file("binary", place),
                *points("history", [(0, 1.0)]),
            ]
            archive.run(P, f"PROJ-NET-{number}", said, scope="model_versions")
        return archive

    def test_models_and_versions_are_registered(self, models: NeptuneArchive) -> None:
        (model,) = items(models, "registered_model")

        assert "PROJ-NET" == model.ref.id
        assert {"kind": "cnn", "neptune.name": "net"}.items() <= tags(model).items()
        assert [
            (1, "Archived", "version 1", T + 1),
            (2, "Production", "version 2", T + 2),
            (10, "None", "version 10", T + 10),
        ] == [
            (v.version, v.stage, v.description, v.creation_time) for v in model.versions
        ]
        held = {tag.key: tag.value for tag in model.versions[0].tags}
        assert "0.1" == held["acc"]

    def test_what_a_version_holds_beside_values_is_a_run(
        self, models: NeptuneArchive
    ) -> None:
        runs = {item.ref: item for item in items(models)}
        (model,) = items(models, "registered_model")
        second = model.versions[1]

        assert second.run is not None
        run = runs[second.run]
        assert b"2" == content(models, run, "binary")
        assert 1 == len(rows_of(run)["history"])
        assert {"acc": "0.2"} == params(run)
        assert "team:proj%20%28model%20registry%29" == header(run).experiment.id
        assert 5 == len(runs)

    def test_a_copy_has_them_all(self, models: NeptuneArchive, tmp_path: Path) -> None:
        sink = f"sqlite:///{tmp_path / 'x.db'}"

        result = copied(models.location, sink)

        assert [] == result.of(Failed)
        assert [] == differences(models.location, sink)
        with sqlite3.connect(tmp_path / "x.db") as db:
            query = "select version, current_stage, run_id is null from model_versions"
            versions = sorted(db.execute(query).fetchall())
        db.close()
        assert [(1, "Archived", 0), (2, "Production", 0), (10, "None", 0)] == versions

    def test_versions_whose_model_is_not_there_are_registered(
        self, archive: NeptuneArchive
    ) -> None:
        archive.run(P, "PROJ-X-3", [value("a", 1)], scope="model_versions")

        (model,) = items(archive, "registered_model")

        assert ("PROJ-X", [3]) == (model.ref.id, [v.version for v in model.versions])


class TestCopies:
    """What the exporter's own loaders lose, and every sink."""

    @pytest.fixture
    def whole(self, archive: NeptuneArchive) -> NeptuneArchive:
        archive.file(P, "RUN-1/model", b"weights")
        for number in (1, 2, 3):
            said = [
                value("sys/id", f"RUN-{number}"),
                value("sys/name", "same name"),
                value("sys/creation_time", moment(T + number)),
                value("sys/failed", number == 2),
                value("sys/tags", {"best"}),
                value("layers", 12),
                value("rate", 12.0),
                *points("loss", [(0, 0.5), (0.5, math.nan), (1, math.inf)]),
                *texts("log", [(0, "line")]),
                histogram("weights", 1, [0.0, 1.0], [2.0]),
                *([file("model", "RUN-1/model")] if number == 1 else []),
            ]
            archive.run(P, f"RUN-{number}", said)
        return archive

    def test_numbers_nan_times_and_failures_stay(
        self, whole: NeptuneArchive, tmp_path: Path
    ) -> None:
        copied(whole.location, f"sqlite:///{tmp_path / 'x.db'}")

        with sqlite3.connect(tmp_path / "x.db") as db:
            runs = db.execute("select start_time, status from runs").fetchall()
            held = dict(db.execute("select key, value from params").fetchall())
            query = "select step, value, is_nan from metrics order by step limit 9"
            rows = db.execute(query).fetchall()
            labels = db.execute("select distinct key from tags").fetchall()
        db.close()
        statuses = ["FINISHED", "FAILED", "FINISHED"]
        assert [(T + 1 + at, each) for at, each in enumerate(statuses)] == sorted(runs)
        assert {"layers": "12", "rate": "12.0"} == held  # tags are no params
        assert 3 == sum(bool(nan) for _, _, nan in rows)
        assert {0, 1, 2} == {step for step, _, _ in rows}
        assert ("neptune.tags",) in labels

    def test_a_copy_that_was_broken_off_is_completed(
        self, whole: NeptuneArchive, tmp_path: Path
    ) -> None:
        """Runs of one name are told apart, and half of one is never taken for whole."""
        sink = f"sqlite:///{tmp_path / 'x.db'}"
        target = resolve(sink, shared={"artifacts": "copy"})
        events = pipeline.copy([resolve(whole.location)], target, Options())
        while not isinstance(next(events), Copied):
            pass
        events.close()

        result = copied(whole.location, sink)

        assert [] == result.of(Failed)
        assert [] == differences(whole.location, sink)
        assert {"skipped": 3} == copied(whole.location, sink).counts()

    @pytest.mark.parametrize(
        "place",
        [
            "sqlite:///{}/x.db",
            "archive:{}/a",
            "wandb-offline:{}/w",
            "neptune-offline:{}/n",
        ],
    )
    def test_every_sink_takes_it(
        self, whole: NeptuneArchive, tmp_path: Path, place: str
    ) -> None:
        sink = place.format(tmp_path)

        result = copied(whole.location, sink)

        assert [] == result.of(Failed)
        assert [] == differences(whole.location, sink)

    def test_a_neptune_server_takes_it_and_gives_it_back(
        self, whole: NeptuneArchive, tmp_path: Path, neptune_loopback: NeptuneServer
    ) -> None:
        copied(whole.location, "neptune://team/back")
        back = f"sqlite:///{tmp_path / 'back.db'}"

        copied("neptune://team/back", back)

        assert [] == differences(whole.location, "neptune://team/back")
        assert [] == differences(whole.location, back)

    def test_a_neptune_server_of_3x_takes_it_and_gives_it_back(
        self, whole: NeptuneArchive, tmp_path: Path, neptune3_loopback: Neptune3Server
    ) -> None:
        pytest.importorskip("neptune_scale")
        copied(whole.location, "neptune3://team/back")
        back = f"sqlite:///{tmp_path / 'back.db'}"

        copied("neptune3://team/back", back)

        assert [] == differences(whole.location, "neptune3://team/back")
        assert [] == differences(whole.location, back)


class TestLocations:
    def test_the_folder_of_data_may_be_given(self, archive: NeptuneArchive) -> None:
        archive.file(P, "a/f", b"x")
        archive.run(P, "a", [file("f", "a/f")])
        store = open_source(f"neptune-export:{archive.root / 'data'}", {})

        (item,) = store.read(list(store.refs(Selection("run"))))

        assert isinstance(item, Item)
        assert ["f"] == [each.path for each in item.artifacts]

    def test_folders_that_lie_elsewhere_are_given_by_options(
        self, archive: NeptuneArchive, tmp_path: Path
    ) -> None:
        archive.file(P, "a/f", b"x")
        archive.run(P, "a", [file("f", "a/f")])
        (archive.root / "data").rename(tmp_path / "fast")
        (archive.root / "files").rename(tmp_path / "cold")

        options = {"data": str(tmp_path / "fast"), "files": str(tmp_path / "cold")}
        item = read(archive, **options)

        assert ["f"] == [each.path for each in item.artifacts]

    def test_what_is_no_archive_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(StoreNotFound):
            open_source(f"neptune-export:{tmp_path / 'none'}", {})
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / "other.txt").write_text("x")
        with pytest.raises(LocationError, match="no part file of neptune-exporter"):
            open_source(f"neptune-export:{tmp_path}", {})

    def test_scan_finds_archives(self, archive: NeptuneArchive, tmp_path: Path) -> None:
        archive.run(P, "a", [value("p", 1)])
        other = NeptuneArchive(tmp_path / "models")
        other.run(P, "PROJ-M", [value("p", 1)], scope="models")
        (tmp_path / "fast").mkdir()
        (archive.root / "data" / sanitized(P)).rename(tmp_path / "fast" / sanitized(P))

        assert [
            f"neptune-export:{tmp_path / 'fast'}",
            f"neptune-export:{tmp_path / 'models'}",
        ] == sorted(map(str, scan([tmp_path])))

    def test_reading_changes_nothing(
        self, archive: NeptuneArchive, tmp_path: Path
    ) -> None:
        archive.file(P, "a/f", b"x")
        archive.run(P, "a", [file("f", "a/f"), *texts("t", [(0, "a")])])
        before = tree.snapshot(archive.root)

        copied(archive.location, f"sqlite:///{tmp_path / 'x.db'}")

        assert before == tree.snapshot(archive.root)

    def test_counts_are_told(self, archive: NeptuneArchive) -> None:
        archive.run(P, "a", [value("p", 1), *points("m", [(0, 1.0), (1, 1.0)])])
        archive.run(P, "b", [value("p", 1), value("sys/trashed", True)])

        counts = inspect(resolve(archive.location))

        assert {"active": 1, "deleted": 1} == counts["runs"]
        assert {"keys": 1, "points": 2} == counts["metrics"]
        assert "neptune_export" == counts["adapter"]
