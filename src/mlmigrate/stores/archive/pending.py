"""What a draft holds already, which the index does not know yet."""

from __future__ import annotations

from dataclasses import dataclass, field

from mlmigrate import marks
from mlmigrate.contract import Copy
from mlmigrate.entities import address
from mlmigrate.merge import origins_of
from mlmigrate.model import Entity, Experiment, Item, Lifecycle, Ref


@dataclass(slots=True)
class Pending:
    """Copies, and how they are found."""

    copies: dict[Ref, Copy] = field(default_factory=dict)
    origins: dict[Ref, Ref] = field(default_factory=dict)
    names: dict[str, Ref] = field(default_factory=dict)  # of experiments

    def add(self, item: Item) -> None:
        """Remember an item that was written; its records are not needed for that."""
        ref, header = item.ref, item.header
        lifecycle: Lifecycle = getattr(header, "lifecycle", "active")
        self.copies[ref] = Copy(ref, marks.load(item.mark), lifecycle)
        if isinstance(header, Experiment):
            for origin in origins_of(item.origin):
                self.origins.setdefault(Ref("experiment", origin), ref)
            self.names.setdefault(header.name, ref)
        else:
            self.origins[Ref(ref.kind, item.origin)] = ref
        if isinstance(header, Entity):
            self.origins[ref] = ref
            self.origins.setdefault(address(ref.kind, header), ref)

    def get(self, ref: Ref) -> Copy | None:
        """Return what is known of an item."""
        return self.copies.get(ref)

    def find(self, origin: Ref) -> Ref | None:
        """Return the item that bears an origin."""
        return self.origins.get(origin)

    def named(self, origin: Ref) -> Ref | None:
        """Return the experiment of an origin's name."""
        if origin.kind != "experiment":
            return None
        return self.names.get(origin.id.partition("/")[2])
