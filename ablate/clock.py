"""The time as records write it."""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> str:
    """A moment in UTC, in whole seconds: 2026-02-14T09:30:00Z."""
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text.replace("Z", "+00:00"))
