"""Corners of the core's pure functions that random records seldom reach."""

from __future__ import annotations

import numpy as np
import pytest

from mlmigrate.metrics import history


@pytest.mark.parametrize("steps", [(2**62, -(2**62) - 5), (2**63 - 1, -(2**63))])
def test_steps_far_apart_are_sorted(steps: tuple[int, int]) -> None:
    """Steps whose difference exceeds 64 bits are sorted like any others."""
    metric = history("m", np.array(steps), np.array([0, 0]), np.array([1.0, 2.0]))

    assert sorted(steps) == metric.steps.tolist()
    assert [2.0, 1.0] == metric.values.tolist()
