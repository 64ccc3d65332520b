"""Registered models of a server, prompts among them: what it says, and as items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import cast

from mlmigrate import marks
from mlmigrate.errors import ItemError
from mlmigrate.model import Alias, Item, Ref, RegisteredModel, Tag, named_version
from mlmigrate.stores.mlflow_server import answers
from mlmigrate.stores.mlflow_server.rest import Json, Refused, Rest, filter_text

#: A search leaves prompts out unless it asks for them so.
_PROMPTS = "tags.`mlflow.prompt.is_prompt` = 'true'"


def is_prompt(tags: Iterable[Tag]) -> bool:
    """Tell whether a registered model of these tags is a prompt."""
    return any(tag == Tag("mlflow.prompt.is_prompt", "true") for tag in tags)


class RegistryReader:
    """Reads the registry of a server. Safe to use from many threads."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    def models(self) -> Iterator[Json]:
        """Yield all registered models, and then the prompts: those are registered
        models that a search leaves out which does not ask for them.
        """
        path, query = "registered-models/search", {"max_results": 1000}
        seen = set()
        for model in self._rest.pages(path, "registered_models", query):
            seen.add(model["name"])
            yield model
        prompts = {"filter": _PROMPTS, **query}
        try:
            for model in self._rest.pages(path, "registered_models", prompts):
                if model["name"] not in seen:  # servers before there were prompts
                    yield model
        except Refused as refusal:
            if not refusal.absent and refusal.status != 400:
                raise

    def model(self, name: str) -> Json:
        """Get one registered model."""
        answer = self._rest.get("registered-models/get", name=name)
        return cast(Json, answer["registered_model"])

    def versions(self, name: str, *, prompt: bool) -> list[Json]:
        """Return all versions of a model, or of a prompt, by number, without the
        deleted.
        """
        literal = filter_text(name)
        if literal is None:
            raise ItemError(f"model {name!r}: a name with both kinds of quotes")
        wanted = f"name={literal} AND {_PROMPTS}" if prompt else f"name={literal}"
        query = {"filter": wanted, "max_results": 1000}
        found = self._rest.pages("model-versions/search", "model_versions", query)
        return sorted(found, key=lambda version: int(version["version"]))

    def prompt_versions(self) -> Iterator[str]:
        """Yield the versions of all prompts, as ``NAME/NUMBER``."""
        for model in self.models():
            tags = marks.lift(answers.key_values(model.get("tags"))).tags
            if is_prompt(tags):
                for version in self.versions(model["name"], prompt=True):
                    yield f"{model['name']}/{version['version']}"

    def item(self, ref: Ref) -> Item:
        """Read one registered model with its versions.

        Raises:
            ItemError: it cannot be read.
        """
        found = self.model(ref.id)
        lifted = marks.lift(answers.key_values(found.get("tags")))
        return Item(
            ref,
            RegisteredModel(
                name=found["name"],
                description=answers.text(found.get("description")),
                creation_time=answers.millis(found.get("creation_timestamp")),
                last_updated_time=answers.millis(found.get("last_updated_timestamp")),
            ),
            origin=found["name"],
            tags=lifted.tags,
            versions=tuple(
                answers.version_of(entry, self._storage_of(entry))
                for entry in self.versions(ref.id, prompt=is_prompt(lifted.tags))
            ),
            aliases=tuple(
                Alias(alias["alias"], int(alias["version"]))
                for alias in found.get("aliases") or ()
            ),
            mark=lifted.mark or None,
        )

    def _storage_of(self, entry: Json) -> str | None:
        """Return where the files of a version are whose source names another one."""
        if named_version(entry.get("source")) is None:
            return None
        asked = {"name": entry["name"], "version": str(entry["version"])}
        try:
            found = self._rest.get("model-versions/get-download-uri", **asked)
        except Refused:  # the version itself is told of without it
            return None
        return answers.text(found.get("artifact_uri"))
