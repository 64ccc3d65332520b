"""New runs, sent to W&B many at once: as one by one, and as safely."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

from support import copies
from support.reading import held_at
from support.wandb_server import Forget, WandbServer, refuse

from mlmigrate.digest import digest
from mlmigrate.model import Alias, Artifact, Copied, DatasetInput, Failed, Item, Ref
from mlmigrate.testing import suite
from mlmigrate.testing.suite import NOW, MemorySources, Result, model, version
from mlmigrate.verification import Missing

SINK = "wandb://team/proj"
HASTY = ("settle=0.5", "retries=2")
IDS = [f"{number:032x}" for number in range(6)]


def copy(origin: str, *options: str) -> Result:
    return copies.copied(origin, SINK, [*HASTY, *options])


def differences(origin: str) -> list[Any]:
    return copies.differences(origin, SINK)


def runs_of(steps: int = 20) -> list[Item]:
    """Return runs with a file each: some finished, one that goes on, one nested."""
    values = [suite.points("loss", *((s, s / 7) for s in range(steps)))]
    files = (Artifact("model/MLmodel", 3), Artifact("a.txt", 1))
    more: list[dict[str, Any]] = [{} for _ in IDS]
    more[1] = {"status": "RUNNING", "end_time": None}
    more[2] = {"parent": Ref("run", IDS[0]), "status": "FAILED"}
    more[3] = {"inputs": (DatasetInput("d", "1", "local", "{}"),)}
    return [
        suite.run(id, metrics=tuple(values), artifacts=files, **each)
        for id, each in zip(IDS, more, strict=True)
    ]


def files_of(runs: list[Item]) -> dict[tuple[Ref, str], bytes]:
    return {
        (run.ref, file.path): b"x" * file.size for run in runs for file in run.artifacts
    }


def marked(server: WandbServer, id: str) -> bool:
    return bool(server.runs["team", "proj", id].config["mlmigrate"].get("mark"))


def test_as_one_by_one(sources: MemorySources, wandb_loopback: WandbServer) -> None:
    """Everything of many runs arrives; a second copy asks only what is there."""
    runs = runs_of()
    origin = sources(suite.experiment(), *runs, files=files_of(runs))
    result = copy(origin)
    begun = wandb_loopback.count("RunResumeStatus")

    assert {"copied": 6} == result.counts(), result.of(Failed)
    assert 1 == begun  # by the SDK: the one with a dataset
    assert [] == differences(origin)
    back = held_at(SINK)
    for run in runs:
        assert digest(run) == digest(back[run.ref.id])
    held = wandb_loopback.runs["team", "proj", IDS[2]]
    assert (IDS[0], "child", "failed") == (held.group, held.job_type, held.state)
    assert {f"{IDS[2]}-model", f"{IDS[2]}-artifacts", f"{IDS[2]}-record"} == {
        wandb_loopback.artifacts[id].collection for id in held.logged
    }
    assert {"skipped": 6} == copy(origin).counts()


def test_what_is_refused(sources: MemorySources, wandb_loopback: WandbServer) -> None:
    """Of many runs only those fail that the server does not keep, each with its own
    reason, and later they are completed.
    """
    runs = runs_of()
    origin = sources(suite.experiment(), *runs, files=files_of(runs))
    wandb_loopback.plant(f"{IDS[0]}/file_stream", refuse(400), times=None)
    wandb_loopback.plant(f"{IDS[1]}/file_stream", Forget(5), times=None)
    wandb_loopback.deleted_runs.add(("team", "proj", IDS[4]))
    result = copy(origin)
    why = {each.ref.id: each.why for each in result.of(Failed)}

    assert {IDS[0], IDS[1], IDS[4]} == set(why), why
    assert "has 0 rows of 20" in why[IDS[0]]
    assert "-o id-salt" in why[IDS[4]]
    assert not marked(wandb_loopback, IDS[0])
    assert not marked(wandb_loopback, IDS[1])
    assert all(marked(wandb_loopback, IDS[at]) for at in (2, 3, 5))

    wandb_loopback.clear()
    assert [IDS[4]] == [each.ref.id for each in copy(origin).of(Failed)]
    (missing,) = differences(origin)
    assert Missing(Ref("run", IDS[4])) == missing


def test_an_artifact_that_cannot_be_read(
    sources: MemorySources, wandb_loopback: WandbServer
) -> None:
    """It costs its run alone."""
    runs = runs_of()
    files = files_of(runs)
    del files[runs[5].ref, "a.txt"]
    result = copy(sources(suite.experiment(), *runs, files=files))
    (failed,) = result.of(Failed)

    assert IDS[5] == failed.ref.id
    assert 5 == sum(
        isinstance(each, Copied) and each.ref.kind == "run" for each in result.events
    )


def test_registered_models(sources: MemorySources, wandb_loopback: WandbServer) -> None:
    """A model is told by a run, its versions' files are linked, and it grows."""
    runs = runs_of()
    place = {"source_run": runs[0].ref, "source_path": "model", "run": runs[0].ref}
    versions = [
        version("m", 1, NOW, source=f"runs:/{IDS[0]}/model", **place),
        version("m", 2, NOW + 1, stage="Production"),
    ]
    first = model("m", *versions, aliases=[Alias("live", 1)])
    origin = sources(suite.experiment(), *runs, first, files=files_of(runs))
    copy(origin, "registry=model-registry")
    ((artifact, link),) = wandb_loopback.links("team", "model-registry", "m")

    assert f"{IDS[0]}-model" == artifact.collection
    assert {"live", "mlflow-1"} <= set(link.aliases)
    assert [] == differences(origin)
    assert {"skipped"} == set(copy(origin).counts("registered_model"))

    place = {"source_run": runs[5].ref, "source_path": "model", "run": runs[5].ref}
    versions.append(version("m", 3, NOW + 2, source=f"runs:/{IDS[5]}/model", **place))
    sources.put(origin, model("m", *versions, aliases=[Alias("live", 1)]))
    result = copy(origin, "registry=none")
    assert {"updated": 1} == result.counts("registered_model")
    assert [] == differences(origin)
    assert 1 == len(wandb_loopback.links("team", "model-registry", "m"))


def test_a_registry_that_is_not_there(
    sources: MemorySources, wandb_loopback: WandbServer
) -> None:
    """A model that cannot be linked is copied all the same, and that is told."""
    runs = runs_of()[:1]
    place = {"source_run": runs[0].ref, "source_path": "model", "run": runs[0].ref}
    first = model("m", version("m", 1, NOW, source=f"runs:/{IDS[0]}/model", **place))
    origin = sources(suite.experiment(), *runs, first, files=files_of(runs))
    wandb_loopback.plant("LinkArtifact", refuse(400), times=None)
    result = copy(origin)

    assert {"copied": 1} == result.counts("registered_model"), result.of(Failed)
    assert any("is not linked" in each.what for each in result.findings())
    assert [] == differences(origin)


def test_the_program_ends_with_its_parent() -> None:
    """One whose parent is gone sends nothing."""
    name = "mlmigrate.stores.wandb_cloud.sync_process"
    command = [sys.executable, "-m", name, str(os.getpid() + 1), "nowhere"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
