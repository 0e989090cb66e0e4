"""What `ablate rebuild` answers: what was read back from the folders."""

from __future__ import annotations

from dataclasses import asdict

from ablate.answers.document import Answer, plain
from ablate.launching import collect
from ablate.study import Study


def rebuild(study: Study) -> Answer:
    """Make the database again from the folders; the old one stays beside it."""
    root = study.path.parent
    database = root / "db" / "ablate.sqlite"
    collected = collect.rebuild_file(database, root / "outputs")
    return plain({"database": str(database), **asdict(collected)})
