"""What `ablate lock` answers: the final config with where each key came from, and how far it is confirmed."""

from __future__ import annotations

from collections.abc import Mapping

from ablate.answers.decide import decisions_of, otherwise_today
from ablate.answers.document import Answer, command, count, head, plain
from ablate.answers.next_step import overruling
from ablate.clock import utc_now
from ablate.desk import Desk
from ablate.launching import collect
from ablate.planning.freeze import changes, content_hash, frozen_content
from ablate.planning.search import is_search
from ablate.planning.states import STARTABLE
from ablate.study import ENDED, IMPORTED, UserError
from db.records import DecisionRecord, LockRecord


def lock(desk: Desk) -> Answer:
    """The final config; locks it when all is decided."""
    from ablate import evidence
    from ablate.deciding.lock import NotYet

    made = evidence.lock(desk, utc_now())
    if isinstance(made, NotYet):
        planned = desk.plan()
        return plain(
            {
                **head(desk),
                "locked": False,
                "reasons": made.reasons,
                "decisions": decisions_of(desk, planned),
                "today": otherwise_today(desk),
                "next": command(desk, *(overruling(desk.study, planned) or ("launch",))),
            }
        )
    evidence.confirm(desk, utc_now())
    return plain({**lock_document(desk, desk.store.lock() or made), "today": otherwise_today(desk)})


def lift(desk: Desk, because: str) -> Answer:
    """Unlock, with a reason. UserError without one, or when nothing is locked."""
    held = desk.store.lock()
    if held is None:
        raise UserError(f"nothing is locked (profile {desk.study.profile})")
    if not because.strip():
        raise UserError('lifting a lock needs a reason that can be read later: ablate lock --lift --because "…"')
    collect.lift_lock(desk.store, desk.folders, utc_now(), because.strip())
    return plain(
        {
            **lock_document(desk, held),
            "locked": False,
            "lifted_because": because.strip(),
            "reasons": [],
            "notes": [],
            "today": [],
            "next": command(desk, "plan"),
        }
    )


def lock_document(desk: Desk, held: LockRecord) -> Answer:
    changed = [name for name, source in held.sources.items() if source != "baseline"]
    return {
        **head(desk),
        "locked": not held.lifted_at,
        "hash": held.hash,
        "at": held.at,
        "settings": held.settings,
        "sources": held.sources,
        "changed": changed,
        "conflicts": held.conflicts,
        "trained_as": held.trained_as,
        "provisional": held.provisional,
        "confirmation": confirmation(desk, held),
        "decisions": held.decisions,
        "searches": {record.name: record.because for record in _searches_of(desk, held)},
        "lifted_at": held.lifted_at,
        "lifted_because": held.lifted_because,
        "notes": moved_notes(desk, held),
        "next": _next_after_lock(desk, held),
    }


def moved_notes(desk: Desk, held: LockRecord | None) -> list[str]:
    """What the file says otherwise than when the lock was made, of what is frozen. The seeds that confirm the lock may change."""
    frozen = desk.store.frozen()
    if held is None or held.lifted_at or frozen is None:
        return []
    content = frozen_content(desk.study)
    accepted = [each for each in desk.store.deviations() if each.at <= held.at]
    if content_hash(content) in {frozen.hash, *(each.hash for each in accepted)}:
        return []
    then = accepted[-1].changes if accepted else ()
    now = [edit for edit in changes(frozen.content, content) if not edit.startswith("confirm")]
    moved = [edit for edit in now if edit not in then] or [f"taken back: {edit}" for edit in then if edit not in now]
    if not moved:
        return []
    return [
        f"{desk.study.path.name} has moved from what the lock was made with: {'; '.join(moved)}. "
        f"Only `{command(desk, 'lock', '--lift', '--because', '…')}` takes it up"
    ]


def _searches_of(desk: Desk, held: LockRecord) -> list[DecisionRecord]:
    """The records of the searches that the lock rests on."""
    numbers = set(held.decisions.values())
    return [record for record in desk.store.all_decisions() if is_search(record) and record.number in numbers]


def _next_after_lock(desk: Desk, held: LockRecord) -> str:
    if not held.lifted_at and any(job.confirms and job.state in STARTABLE for job in desk.plan().jobs):
        return command(desk, "launch")
    return command(desk, "show", held.trained_as) if held.trained_as else ""


def confirmation(desk: Desk, held: LockRecord) -> Answer:
    """How far a lock is confirmed; `says` in words, for wherever the lock is shown."""
    from ablate.deciding.lock import CONFIRMATION, standing

    decisions, confirm = desk.store.decisions(), desk.study.confirm
    status, record = standing(desk.study, held, decisions), decisions.get(CONFIRMATION)
    judged = record if record is not None and status in ("confirmed", "failed") else None
    jobs = [job for job in desk.plan().jobs if job.confirms]
    left = [job for job in jobs if job.state not in ENDED]
    words = {
        "not declared": "provisional until it is confirmed on fresh seeds (none are declared: [lock] confirm)",
        "nothing to confirm": "the baseline itself: nothing to confirm",
        "pending": f"provisional until it is confirmed on fresh seeds ({len(left)} of {count(len(jobs), 'job')} to go)",
        "confirmed": f"confirmed on {count(len(confirm.seeds) if confirm else 0, 'fresh seed')}",
        "failed": "provisional: it was NOT confirmed on fresh seeds",
    }
    imported, exploratory = _resting_on_imported(desk, decisions, held), _resting_on_undeclared(decisions, held)
    says = words[status] + (f"; rests on imported results: {', '.join(imported)}" if imported else "")
    return {
        "status": status,
        "says": says + (f"; rests on looks nobody declared: {', '.join(exploratory)}" if exploratory else ""),
        "against": confirm.against if confirm else "",
        "seeds": confirm.seeds if confirm else (),
        "left": [job.id for job in left],
        "because": judged.because if judged else "",
        "comparisons": list(judged.comparisons) if judged else [],
    }


def _resting_on_imported(desk: Desk, decisions: Mapping[str, DecisionRecord], held: LockRecord) -> list[str]:
    """The decisions of a lock that rest on results which were not made here."""
    attempts = desk.store.attempts()
    brought = {key for key, tried in attempts.items() if IMPORTED in tried[-1].facts}
    return [name for name, one in decisions.items() if name in held.decisions and brought & one.jobs.keys()]


def _resting_on_undeclared(decisions: Mapping[str, DecisionRecord], held: LockRecord) -> list[str]:
    """The decisions of a lock that are exploratory."""
    return [name for name in held.decisions if name in decisions and decisions[name].because.startswith("exploratory: ")]
