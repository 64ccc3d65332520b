"""What Neptune holds of a run, a model or a version of one: attributes, by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from mlmigrate.model import Artifact, Finding, Float64s, Int64s

#: Steps are counted in millionths: Neptune's have six digits behind the point.
MILLIONTHS = 1_000_000

ScalarType: TypeAlias = Literal[
    "int", "float", "string", "bool", "datetime", "string_set"
]
#: What Neptune calls its objects with attributes.
ContainerKind: TypeAlias = Literal["run", "model", "model_version"]


@dataclass(frozen=True, slots=True)
class Scalar:
    """An attribute with one value; that of a datetime is in milliseconds."""

    type: ScalarType
    value: int | float | str | bool | tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)
class FloatSeries:
    """The points of one attribute, in columns of equal length and in any order."""

    steps: Int64s  # millionths of a step
    timestamps: Int64s  # milliseconds
    values: Float64s


@dataclass(frozen=True, slots=True, eq=False)
class Container:
    """A run, a model or a model version, as Neptune has it.

    Series of texts and histograms are among the *artifacts*, made by
    `mlmigrate.neptune_runs.series`.
    """

    kind: ContainerKind
    project: str  # workspace/name; '' where that is not known
    id: str  # unique in its project
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    floats: Mapping[str, FloatSeries] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    findings: tuple[Finding, ...] = ()
    #: Where no attribute tells: when it began, and when its client last wrote to it.
    began: int | None = None
    heard: int | None = None
    #: What is known of it beside its attributes: tags, without their ``neptune.``.
    about: Mapping[str, str] = field(default_factory=dict)

    def text(self, path: str) -> str:
        """Return the text of a string attribute; '' where there is none."""
        found = self.scalars.get(path)
        return found.value if found and isinstance(found.value, str) else ""

    def number(self, path: str) -> float | int | None:
        """Return the number that a scalar attribute is; a datetime's milliseconds."""
        found = self.scalars.get(path)
        if found is None or isinstance(found.value, bool | str | tuple):
            return None
        return found.value

    def words(self, path: str) -> tuple[str, ...]:
        """Return the members of a set of strings; none where there is none."""
        found = self.scalars.get(path)
        return found.value if found and isinstance(found.value, tuple) else ()
