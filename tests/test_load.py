"""A short version of benchmarks/load.py: 64 jobs at 100 points a second each, for a few seconds."""

from __future__ import annotations

from pathlib import Path

from benchmarks.load import measure


def test_sixty_four_jobs_lose_no_point_and_are_seen_within_two_seconds(tmp_path: Path) -> None:
    found = measure(jobs=64, per_s=100, seconds=6, root=tmp_path)
    assert found["points"] > 6 * 64 * 50, "the trainers could write"
    assert found["lost"] == 0
    assert found["visible_after_median_s"] < 2.0
