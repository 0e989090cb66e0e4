"""Ablation studies as programs: runs.toml → plan → launch → decide → lock.

runs_toml/ reads the file, planning/ says what may run, launching/ trains it, deciding/ judges and locks; planning and deciding
are pure. Start at cli/, whose commands ask answers/ and draw with screens/, a file per command each.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # types only: `import ablate` must stay light
    from ablate.deciding.comparison import Comparison

__all__ = ["compare_runs"]


def compare_runs(
    a: str, b: str, metrics: Sequence[str] = (), *, study: str | Path = "runs.toml", profile: str = ""
) -> tuple[Comparison, ...]:
    """Compare two runs of one start with the jobs that have ended; one comparison per metric, none while a run has no result.

    b may be "its start". Without metrics: every declared one that both have measured. See pairs.compare_two, which this calls.
    """
    from ablate.desk import existing_desk
    from ablate.pairs import compare_two
    from ablate.runs_toml import read_study

    return compare_two(existing_desk(read_study(Path(study), profile)), a, b, metrics).comparisons
