"""Traces over REST: into an MLflow server, and out of it."""

from __future__ import annotations

import pytest

from mlmigrate.testing.suite import Peeked, Traces


class TestConformance(Traces):
    """The shipped suite for traces, against a real server."""

    @pytest.fixture
    def sink_location(self, server: str) -> str:
        return server

    def peek(self, location: str, run: str) -> Peeked | None:
        raise NotImplementedError("traces alone are looked at")

    def edit_tag(self, location: str, run: str, key: str, value: str) -> None:
        raise NotImplementedError("traces alone are looked at")

    def delete_run(self, location: str, run: str) -> None:
        raise NotImplementedError("traces alone are looked at")
