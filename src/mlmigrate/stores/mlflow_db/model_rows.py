"""Registered models into the ``registered_model…`` and ``model_version…`` tables."""

from __future__ import annotations

from dataclasses import replace

import sqlalchemy as sa

from mlmigrate import marks
from mlmigrate.contract import Delivery
from mlmigrate.model import ModelVersion, Ref, RegisteredModel, named_version
from mlmigrate.stores.mlflow_db.transaction import Transaction


def write_model(
    transaction: Transaction, delivery: Delivery, header: RegisteredModel
) -> Ref:
    """Insert a registered model, or what the one that stands lacks."""
    tables, connection = transaction.tables, transaction.connection
    item, name = delivery.item, header.name
    models, tags = tables["registered_models"], tables["registered_model_tags"]
    if delivery.into is None:
        connection.execute(
            sa.insert(models).values(
                name=name,
                creation_time=header.creation_time,
                last_updated_time=header.last_updated_time,
                description=header.description,
                **transaction.home("registered_models"),
            )
        )
    elif header.description:
        connection.execute(
            sa.update(models)
            .where(models.c.name == name, transaction.is_home("registered_models"))
            .values(description=header.description)
        )
    new = {tag.key: tag.value for tag in item.tags}
    if delivery.into is None:
        new[marks.SOURCE] = delivery.source
    for key, value in new.items():
        home = transaction.home("registered_model_tags")
        row = {"name": name, "key": key, "value": value, **home}
        connection.execute(sa.insert(tags).values(row))
    for version in item.versions:
        _write_version(transaction, delivery, name, version)
    aliases = tables["registered_model_aliases"]
    for alias in item.aliases:
        connection.execute(
            sa.insert(aliases).values(
                name=name,
                alias=alias.name,
                version=alias.version,
                **transaction.home("registered_model_aliases"),
            )
        )
    return Ref("registered_model", name)


def _write_version(
    transaction: Transaction, delivery: Delivery, name: str, version: ModelVersion
) -> None:
    tables, connection = transaction.tables, transaction.connection
    table, tags = tables["model_versions"], tables["model_version_tags"]
    where = (
        table.c.name == name,
        table.c.version == version.version,
        transaction.is_home("model_versions"),
    )
    standing = connection.scalar(
        sa.select(sa.func.count()).select_from(table).where(*where)
    )
    if not standing:
        source, storage = _version_source(transaction, version)
        connection.execute(
            sa.insert(table).values(
                name=name,
                version=version.version,
                creation_time=version.creation_time,
                last_updated_time=version.last_updated_time,
                description=version.description,
                user_id=version.user,
                current_stage=version.stage,
                source=source,
                run_id=version.run.id if version.run else None,
                run_link=version.run_link,
                status=version.status,
                status_message=version.status_message,
                storage_location=storage,
                **transaction.home("model_versions"),
            )
        )
    mark = replace(delivery.mark, tags=None)
    new = {tag.key: tag.value for tag in version.tags}
    new[marks.ORIGIN], new[marks.MARK] = version.origin, marks.dump(mark)
    connection.execute(
        sa.delete(tags).where(
            tags.c.name == name,
            tags.c.version == version.version,
            tags.c.key.in_(list(new)),
            transaction.is_home("model_version_tags"),
        )
    )
    home = transaction.home("model_version_tags")
    for key, value in new.items():
        connection.execute(
            sa.insert(tags).values(
                name=name, version=version.version, key=key, value=value, **home
            )
        )


def _version_source(
    transaction: Transaction, version: ModelVersion
) -> tuple[str | None, str | None]:
    """Return the source and storage location, rewritten to the copied artifacts."""
    source, storage = version.source, version.storage_location
    if source is None:
        return source, storage
    files = _files(transaction, version)
    if named_version(source) is not None:
        return source, files or storage
    below = f"/{version.source_path}" if version.source_path else ""
    if version.source_model is not None and source.startswith("models:/"):
        return f"models:/{version.source_model.id}{below}", files or storage
    if files is None:
        return source, storage
    if version.source_run is not None and source.startswith("runs:/"):
        return f"runs:/{version.source_run.id}{below}", files
    return files, files if storage else storage


def _files(transaction: Transaction, version: ModelVersion) -> str | None:
    """Return where the artifacts of a version are at the sink, where they came there
    with a run or a logged model.
    """
    tables = transaction.tables
    if version.source_model is not None:
        models = tables["logged_models"]
        query = sa.select(models.c.artifact_location).where(
            models.c.model_id == version.source_model.id
        )
    elif version.source_run is not None:
        runs = tables["runs"]
        query = sa.select(runs.c.artifact_uri).where(
            runs.c.run_uuid == version.source_run.id
        )
    else:
        return None
    uri = transaction.connection.scalar(query)
    below = f"/{version.source_path}" if version.source_path else ""
    return f"{uri}{below}" if uri else None
