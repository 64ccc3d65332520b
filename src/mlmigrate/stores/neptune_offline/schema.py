"""The fields of the 3.x client's operations, as data.

They are those of ``neptune.ingest.v1`` in neptune-api 0.26 and later.
"""

from __future__ import annotations

from mlmigrate.protobuf import Messages

MESSAGES: Messages = {
    "Run": {
        1: ("run_id", "text"), 2: ("fork_point", "ForkPoint"),
        3: ("creation_time", "Timestamp"), 4: ("family", "text"),
        5: ("experiment_id", "text"), 6: ("owner", "Owner"),
        7: ("request_id", "text"), 8: ("tracker", "text"),
        9: ("inherit_configs", "bool"), 11: ("start_processing_time", "Timestamp"),
        12: ("offset_metadata", "Offset"),
    },
    "ForkPoint": {
        1: ("parent_project", "text"), 2: ("parent_run_id", "text"),
        4: ("step", "Step"), 15: ("requested_parent_id", "text"),
    },
    "Owner": {1: ("user_id", "text"), 2: ("service_account_id", "text")},
    "Offset": {1: ("broker_version", "uint"), 2: ("message_offset", "uint")},
    "Timestamp": {1: ("seconds", "int"), 2: ("nanos", "int")},
    "Step": {1: ("whole", "uint"), 2: ("micro", "uint")},
    "UpdateRunSnapshot": {
        1: ("step", "Step"), 2: ("timestamp", "Timestamp"),
        4: ("assign", "Entry*"), 5: ("modify_sets", "SetEntry*"),
        8: ("append", "Entry*"), 9: ("request_id", "text"),
        10: ("preview", "Preview"), 11: ("start_processing_time", "Timestamp"),
        12: ("offset_metadata", "Offset"),
    },
    "Preview": {1: ("is_preview", "bool"), 2: ("completion_ratio", "float")},
    "Entry": {1: ("key", "text"), 2: ("value", "Value")},
    "Value": {
        1: ("float64", "double"), 3: ("int64", "int"), 5: ("bool", "bool"),
        6: ("string", "text"), 8: ("timestamp", "Timestamp"),
        12: ("string_set", "StringSet"), 13: ("file_ref", "FileRef"),
        14: ("histogram", "Histogram"),
    },
    "StringSet": {1: ("values", "text*")},
    "FileRef": {1: ("path", "text"), 2: ("size_bytes", "int"),
                3: ("mime_type", "text")},
    "Histogram": {1: ("bin_edges", "double*"), 4: ("counts", "Counts"),
                  5: ("densities", "Densities")},
    "Counts": {1: ("values", "uint*")},
    "Densities": {1: ("values", "double*")},
    "SetEntry": {1: ("key", "text"), 2: ("value", "ModifySet")},
    "ModifySet": {1: ("string", "ModifyStrings")},
    "ModifyStrings": {1: ("values", "Change*")},
    "Change": {1: ("key", "text"), 2: ("value", "int")},
}  # fmt: skip
