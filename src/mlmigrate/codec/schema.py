"""The tables of an archive's segment: docs/archive-format.md describes each column."""

from __future__ import annotations

import pyarrow as pa

_TYPES = {
    "text": pa.string(),
    "int": pa.int64(),
    "int32": pa.int32(),
    "bool": pa.bool_(),
    "real": pa.float64(),
}


def _schema(columns: str) -> pa.Schema:
    """Make a schema of ``NAME TYPE`` texts; a ``?`` after the type allows nulls."""
    fields = [
        pa.field("segment", pa.int32(), False),
        pa.field("item", pa.int32(), False),
    ]
    for column in columns.split(","):
        name, type_ = column.split()
        fields.append(pa.field(name, _TYPES[type_.rstrip("?")], type_.endswith("?")))
    return pa.schema(fields)


#: Every table of a segment.
TABLES: dict[str, pa.Schema] = {
    "items": _schema(
        "kind text, id text, origin text, name text?, experiment_id text?,"
        "lifecycle text?, digest text, mark text?, source text, params int, tags int,"
        "metrics int, points int, datasets int, artifacts int, versions int,"
        "aliases int, findings int, links int?, metadata int?, spans int?,"
        "assessments int?, trace_links int?, rows int?"
    ),
    "experiments": _schema(
        "experiment_id text, name text, artifact_location text?, lifecycle text,"
        "creation_time int?, last_update_time int?"
    ),
    "runs": _schema(
        "run_id text, experiment_id text, name text?, status text, start_time int?,"
        "end_time int?, user text?, lifecycle text, deleted_time int?,"
        "artifact_uri text?, parent_run_id text?, source_type text?,"
        "source_name text?, source_version text?, entry_point text?"
    ),
    "params": _schema("run_id text, key text, value text"),
    "tags": _schema("kind text, id text, key text, value text"),
    "metrics": _schema("run_id text, key text, step int, timestamp int, value real"),
    "datasets": _schema(
        "run_id text, dataset int32, name text, digest text, source_type text,"
        "source text, schema text?, profile text?"
    ),
    "dataset_tags": _schema("run_id text, dataset int32, key text, value text"),
    "logged_models": _schema(
        "model_id text, experiment_id text, name text, status text,"
        "status_message text?, model_type text?, source_run_id text?,"
        "creation_time int?, last_updated_time int?, lifecycle text,"
        "artifact_location text?"
    ),
    "model_metrics": _schema(
        "model_id text, run_id text, key text, dataset text?, dataset_digest text?,"
        "step int, timestamp int, value real"
    ),
    "model_links": _schema("run_id text, model_id text, role text, step int"),
    "artifacts": _schema("run_id text, path text, size int, sha256 text?"),
    "registered_models": _schema(
        "model text, name text, description text?, creation_time int?,"
        "last_updated_time int?"
    ),
    "model_versions": _schema(
        "model text, version int, origin text, creation_time int?,"
        "last_updated_time int?, description text?, user text?, stage text,"
        "source text?, source_run_id text?, source_path text?, storage_location text?,"
        "run_id text?, run_link text?, status text, status_message text?, mark text?,"
        "source_model_id text?, logged_model_id text?"
    ),
    "version_tags": _schema("model text, version int, key text, value text"),
    "aliases": _schema("model text, alias text, version int"),
    "traces": _schema(
        "trace_id text, experiment_id text, state text, request_time int?,"
        "execution_duration int?, client_request_id text?, request_preview text?,"
        "response_preview text?, source_run_id text?, artifact_location text?"
    ),
    "trace_metadata": _schema("trace_id text, key text, value text"),
    "spans": _schema(
        "trace_id text, span_id text, content text, parent_span_id text?, name text?,"
        "type text?, status text, start_time int, end_time int?"
    ),
    "assessments": _schema(
        "trace_id text, assessment_id text, name text, kind text, value text,"
        "source_type text, source_id text?, error text?, rationale text?,"
        "metadata text?, run_id text?, span_id text?, created int?, updated int?,"
        "overrides text?, valid bool"
    ),
    "trace_links": _schema("trace_id text, kind text, id text, created int?"),
    "entities": _schema("kind text, id text, name text, experiment_id text?"),
    "entity_rows": _schema("kind text, id text, table text, values text"),
    "findings": _schema(
        "item_kind text, item_id text, kind text, ref_kind text?, ref_id text?,"
        "where text, what text, carried bool?"
    ),
    "store_findings": _schema(
        "source text, kind text, ref_kind text?, ref_id text?,"
        "where text, what text, carried bool?"
    ),
}

#: Columns that archives lack which were written before there were logged models,
#: traces or entities.
ADDED = {
    ("items", "links"),
    ("items", "metadata"),
    ("items", "spans"),
    ("items", "assessments"),
    ("items", "trace_links"),
    ("items", "rows"),
    ("model_versions", "source_model_id"),
    ("model_versions", "logged_model_id"),
}
#: Tables of points: their texts are codes, of which each repeats many times.
POINTS = ("metrics", "model_metrics")

#: Which column of ``items`` counts an item's rows in a table, and decides whether the
#: item has any there.
COUNTED = {
    "params": "params",
    "tags": "tags",
    "metrics": "points",
    "model_metrics": "points",
    "datasets": "datasets",
    "dataset_tags": "datasets",
    "artifacts": "artifacts",
    "model_versions": "versions",
    "version_tags": "versions",
    "aliases": "aliases",
    "findings": "findings",
    "model_links": "links",
    "trace_metadata": "metadata",
    "spans": "spans",
    "assessments": "assessments",
    "trace_links": "trace_links",
    "entity_rows": "rows",
}
