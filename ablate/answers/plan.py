"""What `ablate plan` answers: the graph as it stands; with --diff, what an edit of the file does to its jobs."""

from __future__ import annotations

from dataclasses import replace

from ablate.answers.books import Books, is_maybe
from ablate.answers.decide import stale_things
from ablate.answers.document import Answer, command, head, plain, some, were
from ablate.answers.lock import confirmation, moved_notes
from ablate.answers.next_step import after_plan, person_notes
from ablate.desk import Desk
from ablate.launching.provenance import code_hash, seed_note, settings_note
from ablate.launching.snapshot import snapshots
from ablate.planning.plan import Plan
from ablate.planning.plan_diff import plan_diff
from ablate.study import ENDED, Study, UserError, run_of


def plan(desk: Desk, block: str = "", gpus: int | None = None) -> Answer:
    """The graph as it stands.

    `totals` adds up the jobs listed: what ended at what it took, what is to come at measured hours, else declared ones; what was
    skipped or failed for good costs no more. `wall_hours` and `critical_path_hours` are of what is to come, on `gpus` GPUs.
    """
    planned = desk.plan()
    books = Books(desk)
    shown = [job for job in planned.jobs if not block or job.block == block]
    held = desk.store.lock()
    return plain(
        {
            **head(desk),
            "block": block,
            "jobs": [books.row(job) for job in shown],
            "totals": books.totals(planned, shown, gpus),
            "skipped_sweeps": planned.skipped_sweeps,
            "orphans": planned.orphans,
            "stale": stale_things(desk, planned, held),
            "locked": held is not None and not held.lifted_at,
            "confirmation": confirmation(desk, held) if held else None,
            "notes": [*moved_notes(desk, held), *person_notes(desk, planned), *_notes(desk, planned, books)],
            "next": after_plan(desk, planned, shown, block, held) if trainer_is_here(desk.study) else command(desk, "check"),
        }
    )


def changes(desk: Desk, old: Study) -> Answer:
    """What going from the study `old` to the desk's does to the jobs, and what that costs. Both see the same results."""
    before, after, books = replace(desk, study=old).plan(), desk.plan(), Books(desk)
    found = plan_diff(old, before, desk.study, after, desk.store.attempts().keys())
    lost = [*(was for was, _ in found.stale), *found.orphaned]
    price = desk.study.usd_per_gpu_hour
    coming = [job for job in after.jobs if not is_maybe(job)]
    coming_before = [job for job in before.jobs if not is_maybe(job)]
    left = sum(job.gpus * books.left(job) for job in coming)
    books_before = Books(replace(desk, study=old))
    left_before = sum(job.gpus * books_before.left(job) for job in coming_before)
    sunk = sum(books.booked(job) for job in lost)
    return plain(
        {
            **head(desk),
            "old": str(old.path),
            "kept": [books.row(job) for job in found.kept],
            "new": [books.row(job) for job in found.new],
            "stale": [{**books.row(now), "old_key": was.key, "lost_gpu_hours": books.booked(was)} for was, now in found.stale],
            "reopened": [{**books.row(now), "old_key": was.key} for was, now in found.reopened],
            "orphaned": [books.row(job) for job in found.orphaned],
            "dropped": [books.row(job) for job in found.dropped],
            "edits": found.edits,
            "deviates": bool(found.edits) and desk.store.frozen() is not None,
            "locked": desk.store.lock() is not None,
            "left_gpu_hours": left,
            "left_cost": left * price,
            "left_gpu_hours_before": left_before,
            "left_cost_before": left_before * old.usd_per_gpu_hour,
            "lost_gpu_hours": sunk,
            "lost_cost": sunk * price,
            "next": command(desk, "plan"),
        }
    )


def trainer_is_here(study: Study) -> bool:
    try:
        code_hash(study)
    except UserError:
        return False
    return True


def _notes(desk: Desk, planned: Plan, books: Books) -> list[str]:
    """What a person should know before going on."""
    notes = []
    try:
        today = code_hash(desk.study)
    except UserError as error:  # a study may be planned where its trainer is not
        return [str(error)]
    taken = snapshots(desk)
    holds = taken[-1].hash if taken else today
    if holds != today:
        notes.append(
            f"the trainer has changed since {taken[-1].at}: coming jobs run the code of then ({holds}); for that of today: "
            f"{command(desk, 'launch', '--new-code', '--because', '…')}"
        )
    ended = [job for job in planned.jobs if job.state in ENDED]
    other = [job.id for job in ended if books.tried(job)[-1].code_hash not in ("", holds)]
    if other:
        whose = "that of coming jobs" if taken else "today's"
        notes.append(
            f"{some(other)} {were(other)} trained with other trainer code than {whose}: "
            "comparisons of old with new jobs will be refused as unfair"
        )
    same = {(run_of(id), run_of(owner)): None for id, owner in planned.same.items() if run_of(id) in desk.study.runs}
    notes += [f"{run} is the same config as {owner}, and trained once for both" for run, owner in same]
    if planned.orphans:
        notes.append(
            f"{some(planned.orphans)}: results that the file and the decisions of today no longer ask for; kept, not used"
        )
    return [*notes, *filter(None, [settings_note(desk.study), seed_note(desk.study)])]
