"""Traces into ``trace_info`` and the tables that name it, as MLflow fills them when
spans and assessments arrive.
"""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from mlmigrate import marks, trace_sums
from mlmigrate.contract import Delivery
from mlmigrate.mlflow_traces import (
    ARTIFACT_LOCATION,
    SOURCE_RUN,
    SPANS_LOCATION,
    attributes_of,
    decoded,
    summed,
)
from mlmigrate.model import Assessment, Item, Ref, Span, Tag, Trace
from mlmigrate.stores.mlflow_db import promoted
from mlmigrate.stores.mlflow_db.copies import run_id
from mlmigrate.stores.mlflow_db.stored import Stored
from mlmigrate.stores.mlflow_db.transaction import Transaction

_USAGE, _COST = "mlflow.chat.tokenUsage", "mlflow.llm.cost"
_MODEL, _PROVIDER = "mlflow.llm.model", "mlflow.llm.provider"
#: Characters of the columns that a span's model is shown in.
_LONGEST_MODEL = 500
#: Ids in one statement.
_AT_ONCE = 500


def write_trace(transaction: Transaction, delivery: Delivery, stored: Stored) -> Ref:
    """Insert a trace, or what the one that stands lacks, with its mark."""
    item, header = delivery.item, delivery.item.header
    assert isinstance(header, Trace)
    id = stored.id
    tables = transaction.tables
    limits = {
        column.name: getattr(column.type, "length", None)
        for column in tables["trace_info"].columns
    }
    attributes = {span.id: attributes_of(span) for span in item.spans}
    tags, named = promoted.split(_tags(delivery, stored, id), limits)
    metadata, columns = promoted.split(_metadata(item, header, attributes), limits)
    values = {
        "experiment_id": int(header.experiment.id),
        "timestamp_ms": header.request_time,
        "execution_time_ms": header.execution_duration,
        "status": header.state,
        "client_request_id": header.client_request_id,
        "request_preview": header.request_preview,
        "response_preview": header.response_preview,
        **named,
        **columns,
    }
    if delivery.into is None:
        blank = dict.fromkeys(name for name in promoted.COLUMNS if name in limits)
        transaction.add("trace_info", {"request_id": id, **blank, **values})
    else:
        _clear(transaction, id, item, tags, metadata)
        table = tables["trace_info"]
        if item.spans and "db_payload_generation" in table.c:
            values["db_payload_generation"] = table.c.db_payload_generation + 1
        transaction.connection.execute(
            sa.update(table).where(table.c.request_id == id).values(**values)
        )
    for name, pairs in (("trace_tags", tags), ("trace_request_metadata", metadata)):
        for key, value in pairs:
            transaction.add(name, {"request_id": id, "key": key, "value": value})
    for span in item.spans:
        _add_span(transaction, id, header, span, attributes[span.id])
    for assessment in item.assessments:
        _add_assessment(transaction, id, header, assessment)
    if "input_tokens" not in limits and "trace_metrics" in tables:
        _add_metrics(transaction, id, metadata)
    for link in item.trace_links:
        other = run_id(link.id) if link.kind == "run" else link.id
        row = {
            "association_id": uuid.uuid4().hex,
            "source_type": "trace",
            "source_id": id,
            "destination_type": link.kind,
            "destination_id": other,
            "created_time": link.created,
        }
        transaction.add("entity_associations", row)
    return Ref("trace", id)


def _tags(delivery: Delivery, stored: Stored, id: str) -> list[tuple[str, str]]:
    item = delivery.item
    mark = replace(delivery.mark, checksums=stored.checksums)
    tags = [*item.tags]
    if item.origin != id:
        tags.append(Tag(marks.ORIGIN, item.origin))
    if stored.uri is not None:
        tags.append(Tag(ARTIFACT_LOCATION, stored.uri))
    said = any(tag.key == SPANS_LOCATION for tag in item.tags)
    if item.spans and not said:
        tags.append(Tag(SPANS_LOCATION, "TRACKING_STORE"))
    tags.append(Tag(marks.MARK, marks.dump(mark)))
    return [(tag.key, tag.value) for tag in tags]


def _metadata(
    item: Item, header: Trace, attributes: Mapping[str, Mapping[str, Any]]
) -> list[tuple[str, str]]:
    """Return the metadata, with what MLflow adds up where spans arrive without it."""
    pairs = [(pair.key, pair.value) for pair in item.metadata]
    if header.source_run is not None:
        pairs.append((SOURCE_RUN, run_id(header.source_run.id)))
    known = {key for key, _ in pairs}
    for key, attribute, names in (
        (trace_sums.TOKENS, _USAGE, trace_sums.TOKEN_KEYS),
        (trace_sums.COST, _COST, trace_sums.COST_KEYS),
    ):
        total = summed(item.spans, attribute, attributes)
        if key not in known and total:
            own = {name: total[name] for name in names if name in total}
            pairs.append((key, json.dumps(own)))
    return pairs


def _clear(
    transaction: Transaction,
    id: str,
    item: Item,
    tags: Sequence[tuple[str, str]],
    metadata: Sequence[tuple[str, str]],
) -> None:
    """Delete the rows of a copy that others take the place of."""
    spans = [span.id for span in item.spans]
    doomed = (
        ("trace_tags", "request_id", "key", [key for key, _ in tags]),
        ("trace_request_metadata", "request_id", "key", [key for key, _ in metadata]),
        ("span_metrics", "trace_id", "span_id", spans),
        ("spans", "trace_id", "span_id", spans),
        ("assessments", "trace_id", "assessment_id", [a.id for a in item.assessments]),
        ("trace_metrics", "request_id", "key", list(trace_sums.TOKEN_KEYS)),
    )
    for name, owner, column, keys in doomed:
        if name not in transaction.tables:
            continue
        table = transaction.tables[name]
        for at in range(0, len(keys), _AT_ONCE):
            part = keys[at : at + _AT_ONCE]
            transaction.connection.execute(
                sa.delete(table).where(table.c[owner] == id, table.c[column].in_(part))
            )


def _add_span(
    transaction: Transaction,
    id: str,
    header: Trace,
    span: Span,
    attributes: Mapping[str, Any],
) -> None:
    said = decoded(attributes.get(_COST))
    said = said if isinstance(said, dict) else {}
    costs = {name: trace_sums.real(said.get(name)) for name in trace_sums.COST_KEYS}
    model, provider = (
        value[:_LONGEST_MODEL] if isinstance(value, str) else None
        for value in (decoded(attributes.get(key)) for key in (_MODEL, _PROVIDER))
    )
    row: dict[str, Any] = {
        "trace_id": id,
        "experiment_id": int(header.experiment.id),
        "span_id": span.id,
        "parent_span_id": span.parent,
        "name": span.name,
        "type": span.type,
        "status": span.status,
        "start_time_unix_nano": span.start_time,
        "end_time_unix_nano": span.end_time,
        "content": span.content,
        **costs,
        "model_name": model,
        "model_provider": provider,
    }
    table = transaction.tables["spans"]
    if "dimension_attributes" in table.c:  # before there were columns
        named = {_MODEL: model, _PROVIDER: provider}
        row["dimension_attributes"] = {k: v for k, v in named.items() if v} or None
    transaction.add("spans", {key: row[key] for key in row if key in table.c})
    if "input_cost" not in table.c and "span_metrics" in transaction.tables:
        for key, value in costs.items():
            if value is not None:
                own = {"trace_id": id, "span_id": span.id, "key": key, "value": value}
                transaction.add("span_metrics", own)


def _add_metrics(
    transaction: Transaction, id: str, metadata: Sequence[tuple[str, str]]
) -> None:
    """Add what MLflow < 3.15 shows of tokens."""
    said = decoded(dict(metadata).get(trace_sums.TOKENS))
    for key in trace_sums.TOKEN_KEYS if isinstance(said, dict) else ():
        value = trace_sums.count(said.get(key))
        if value is not None:
            row = {"request_id": id, "key": key, "value": float(value)}
            transaction.add("trace_metrics", row)


def _add_assessment(
    transaction: Transaction, id: str, header: Trace, assessment: Assessment
) -> None:
    number, is_number = _aggregate(assessment.value)
    created = assessment.created
    if created is None:  # a store that says no time was damaged
        created = header.request_time or 0
    updated = assessment.updated if assessment.updated is not None else created
    row = {
        "assessment_id": assessment.id,
        "trace_id": id,
        "name": assessment.name,
        "assessment_type": assessment.kind,
        "value": assessment.value,
        "error": assessment.error,
        "created_timestamp": created,
        "last_updated_timestamp": updated,
        "experiment_id": int(header.experiment.id),
        "trace_timestamp_ms": header.request_time,
        "aggregate_value": number,
        "is_numeric_value": is_number,
        "source_type": assessment.source_type,
        "source_id": assessment.source_id,
        "run_id": run_id(assessment.run.id) if assessment.run else None,
        "span_id": assessment.span,
        "rationale": assessment.rationale,
        "overrides": assessment.overrides,
        "valid": assessment.valid,
        "assessment_metadata": assessment.metadata,
    }
    table = transaction.tables["assessments"]
    transaction.add("assessments", {key: row[key] for key in row if key in table.c})


def _aggregate(text: str) -> tuple[float | None, bool]:
    """Return the number that MLflow takes a value for in its sums, and whether it is
    one.
    """
    value = decoded(text)
    if isinstance(value, bool):
        return float(value), False
    if isinstance(value, int | float):
        number = trace_sums.real(value)
        return number, number is not None and math.isfinite(number)
    if isinstance(value, str) and value.strip().lower() in ("yes", "no"):
        return float(value.strip().lower() == "yes"), False
    return None, False
