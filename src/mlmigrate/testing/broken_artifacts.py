"""Artifacts that cannot be read to their end."""

from __future__ import annotations

from typing import BinaryIO

import pytest

from mlmigrate.model import Artifact, Ref
from mlmigrate.stores import memory
from mlmigrate.testing.faults import BrokenFile
from mlmigrate.testing.items import OTHER, RUN, experiment, run
from mlmigrate.testing.sink_under_test import MemorySources, SinkSeenThrough


class BrokenArtifacts(SinkSeenThrough):
    """What cannot be copied whole costs its run alone."""

    def test_broken_artifact(
        self,
        source: MemorySources,
        sink_location: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """It fails its run alone: no mark, no partial file; later it is completed."""
        data = bytes(3 << 20)
        good = run(OTHER, artifacts=(Artifact("sound.bin", 3),))
        bad = run(
            artifacts=(Artifact("a-sound.bin", 3), Artifact("big.bin", len(data)))
        )
        files = {
            (good.ref, "sound.bin"): b"123",
            (bad.ref, "a-sound.bin"): b"123",
            (bad.ref, "big.bin"): data,
        }
        origin = source(experiment(), good, bad, files=files)
        whole = memory.MemoryStore.open

        def broken(store: memory.MemoryStore, ref: Ref, path: str) -> BinaryIO:
            if path == "big.bin":
                return BrokenFile(data, readable=2 << 20)
            return whole(store, ref, path)

        with monkeypatch.context() as patched:
            patched.setattr(memory.MemoryStore, "open", broken)
            result = self.copy(origin, sink_location)
        seen = self.peek(sink_location, RUN)

        assert result.counts() == {"copied": 1, "failed": 1}
        assert seen is None or not seen.marked
        assert self.held(sink_location, OTHER).marked
        assert self.partial_files(sink_location) == []

        again = self.copy(origin, sink_location)
        assert again.counts()["skipped"] == 1
        assert self.differences(origin, sink_location) == []
