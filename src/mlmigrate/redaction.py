"""Credentials that lie in tags and params, found by their form."""

from __future__ import annotations

import re
from dataclasses import replace

from mlmigrate.model import Item, Note

_PATTERNS = (
    re.compile(r"(?<=://)[^/\s@:]+:[^/\s@]+(?=@)"),  # user:password@ in a URL
    re.compile(r"(?<=://)[A-Za-z0-9_-]{20,}(?=@)"),  # token@ in a URL
    re.compile(r"\bgh[pousr]_[A-Za-z0-9]{30,}\b"),  # GitHub
    re.compile(r"\bglpat-[A-Za-z0-9_-]{20,}\b"),  # GitLab
    re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b"),  # AWS
    re.compile(r"\bsk-[A-Za-z0-9_-]{20,}\b"),  # OpenAI and others
    re.compile(r"\bhf_[A-Za-z0-9]{30,}\b"),  # Hugging Face
    re.compile(r"\bxox[abprs]-[A-Za-z0-9-]{10,}\b"),  # Slack
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]+?-----END [A-Z ]*KEY-----"),
)
MASK = "***"


def mask(text: str) -> str:
    """Return *text* with every credential masked."""
    for pattern in _PATTERNS:
        text = pattern.sub(MASK, text)
    return text


def bears_credential(text: str) -> bool:
    """Tell whether *text* holds something of a credential's form."""
    return any(pattern.search(text) for pattern in _PATTERNS)


def redacted(item: Item) -> Item:
    """Return *item* with the credentials in its tags and params masked, and a note
    for each.
    """
    notes = [
        Note(str(item.ref), f"a credential in {word} {record.key} was masked")
        for word, records in (("tag", item.tags), ("param", item.params))
        for record in records
        if bears_credential(record.value)
    ]
    if not notes:
        return item
    return replace(
        item,
        tags=tuple(replace(tag, value=mask(tag.value)) for tag in item.tags),
        params=tuple(replace(param, value=mask(param.value)) for param in item.params),
        findings=(*item.findings, *notes),
    )
