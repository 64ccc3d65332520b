"""What was found in a source beside its items; each export of it replaces all."""

from __future__ import annotations

from typing import Protocol

from mlmigrate import codec
from mlmigrate.errors import ItemError
from mlmigrate.model import Finding
from mlmigrate.stores.archive.manifest import Manifest
from mlmigrate.stores.archive.segments import SegmentReader


class _Reading(Protocol):
    manifest: Manifest

    def segment(self, number: int) -> SegmentReader: ...


def live(reading: _Reading) -> tuple[dict[str, list[Finding]], list[str]]:
    """Return source -> its findings, and what of them cannot be read."""
    holders: dict[str, int] = {}
    for segment in reading.manifest.segments:
        for source in segment.replaces_findings:
            holders[source] = segment.number
    found: dict[str, list[Finding]] = {source: [] for source in holders}
    lost: list[str] = []
    for number in sorted(set(holders.values())):
        reader = reading.segment(number)
        try:
            table = reader.table("store_findings")
            if "store_findings" in reader.wrong:
                # Nothing else tells which of its rows are still what they were.
                raise ItemError("its bytes are not those that were written")
            block = codec.Block("store_findings", table.whole())
        except ItemError as error:
            lost.append(f"what was found beside items is lost: {error}")
            continue
        sources = block.columns["source"]
        for at, source in enumerate(sources):
            if holders.get(source) == number:
                found[source] += codec.findings(at, block)
    return found, lost
