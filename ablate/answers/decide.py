"""What `ablate decide` answers: sweeps judged by what is measured, a person's own decision, what rests on what turned."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from ablate.answers.document import Answer, at, command, head, plain
from ablate.answers.next_step import after_plan
from ablate.clock import utc_now
from ablate.conditions import listed
from ablate.desk import Desk, writing_desk
from ablate.planning.plan import Plan
from ablate.planning.search import is_search
from ablate.planning.stale import find_stale
from ablate.study import UserError
from db.records import DecisionRecord, LockRecord

if TYPE_CHECKING:  # types only: decide imports scipy
    from ablate.deciding.decide import SweepAnswer


def decide(desk: Desk, names: Collection[str], because: str = "", anew: bool = False) -> Answer:
    """Evaluate the trees of these sweeps (none named: all), store what is new, and say what follows.

    One sweep asked for is the document; several stand under "sweeps". Under a lock nothing is recorded. UserError when the file
    was edited since it was frozen and neither it nor `because` gives a reason.
    anew: also decisions whose own numbers are as they were, and only the noise is known otherwise. Launching lets them stand.
    """
    from ablate import evidence

    locked = desk.store.lock()
    if desk.store.frozen() is not None and locked is None:
        evidence.freeze(desk, utc_now(), because)
    before = desk.store.decisions()
    judged = evidence.decide(desk, utc_now(), tuple(names), keep_standing=not anew, keep_record=locked is None)
    after = desk.store.decisions()
    sweeps = [_sweep_answer(desk, answer, before, after) for answer in judged.values()]
    whole = sweeps[0] if len(sweeps) == 1 == len(names) else {"sweeps": sweeps}
    note = f"the study is locked since {locked.at}: nothing was recorded" if locked else ""
    turned = [one["name"] for sweep in sweeps for one in sweep["decisions"] if one["was"]]
    stale = stale_things(desk, desk.plan(), locked) if turned else []
    redo = any(one["kind"] == "job" for one in stale)
    following = command(desk, "launch", "--redo-stale", "--dry-run") if redo else _next_after_decide(desk, sweeps)
    return plain({**head(desk), **whole, "note": note, "turned": turned, "stale": stale, "next": following})


def sweeps_in(answer: Answer) -> list[Answer]:
    """The sweeps of a document that `decide` made."""
    sweeps: list[Answer] = answer.get("sweeps", [answer])
    return sweeps


def _sweep_answer(
    desk: Desk, judged: SweepAnswer, before: Mapping[str, DecisionRecord], after: Mapping[str, DecisionRecord]
) -> Answer:
    """before, after: the decisions that stood before it was judged, and stand now."""
    sweep = desk.study.sweeps[judged.sweep]
    return {
        "sweep": judged.sweep,
        "asks": sweep.asks,
        "skipped_because": judged.skipped_because,
        "decisions": [_judged(desk, made, before.get(made.name), after.get(made.name)) for made in judged.decisions],
        "learned": [asdict(learned) for learned in judged.learned],
        "learn_lines": len(sweep.learn),
        "open": judged.open,
    }


def _judged(desk: Desk, made: DecisionRecord, before: DecisionRecord | None, after: DecisionRecord | None) -> Answer:
    """A decision as it stands: what it `was`, if it turned now; what it would be `today`, if that is not what is recorded."""
    from ablate.deciding.turned import turned_because

    old = before if before is not None and before.status != "overruled" else made
    turned = (old.status, old.took) != (made.status, made.took)
    missing, stands = made.status == "waiting", after == before
    kept = made if missing or after is None else after
    if after is None and not missing:  # under a lock
        kept = replace(made, status="waiting", took="", line="", sets={}, because="nothing is recorded under a lock")
    why = turned_because(made, old) if turned else ""
    said = {"took": made.took or made.status, "line": made.line, "because": made.because, "why": why}
    unsaid = not missing and (after is None or (turned and stands))
    of_today = {_pair(one): one["labels"] for one in made.comparisons}
    labelled = [{**one, "labels": _merged(one.get("labels", ()), of_today.get(_pair(one), ()))} for one in kept.comparisons]
    return {
        **decision(kept),
        "comparisons": labelled,
        "was": (old.took or old.status) if turned and not unsaid else "",
        "why": why if turned and not unsaid else "",
        "today": {**said, "record": command(desk, "decide", made.sweep, "--anew")} if unsaid else None,
    }


def to_turn(desk: Desk, sweep: str) -> str:
    """What a person types to have a sweep's decisions taken anew; under a lock that is lifted first."""
    anew, locked = f"`{command(desk, 'decide', sweep, '--anew')}`", desk.store.lock() is not None
    return f"`{command(desk, 'lock', '--lift', '--because', '…')}`, then {anew}" if locked else anew


def otherwise_today(desk: Desk) -> list[str]:
    """A line per decision that stands and would say something else with all that is known today; nothing is recorded."""
    from ablate import evidence
    from ablate.deciding.turned import turned_because

    standing = desk.store.decisions()
    judged = evidence.decide(desk, utc_now(), keep_standing=True, keep_record=False)
    lines = []
    for today in (made for answer in judged.values() for made in answer.decisions if made.status != "waiting"):
        made = standing.get(today.name)
        if made is None or made.status == "overruled" or (made.status, made.took) == (today.status, today.took):
            continue
        lines.append(
            f"{made.name} took {_took(made)}, at {made.at}; with all that is known today it would take {_took(today)}, because "
            f"{turned_because(today, made)}. It stands until a person has it taken anew: {to_turn(desk, made.sweep)}"
        )
    return lines


def _took(made: DecisionRecord) -> str:
    return f"{made.took or made.status} ({made.line})" if made.line else made.took or made.status


def _pair(one: Mapping[str, Any]) -> tuple[str, str, str]:
    return one["a"], one["b"], one["metric"]


def _merged(*labels: Iterable[str]) -> list[str]:
    """Each once: a deviation since it was recorded stands beside a verdict too."""
    return list(dict.fromkeys(label for some in labels for label in some))


def decision(made: DecisionRecord) -> Answer:
    """A decision with its evidence."""
    return {
        "name": made.name,
        "sweep": made.sweep,
        "status": made.status,
        "took": made.took,
        "line": made.line,
        "because": made.because,
        "by": made.by,
        "at": made.at,
        "sets": made.sets,
        "price": made.price,
        "comparisons": [] if is_search(made) else list(made.comparisons),
        "jobs": sorted(made.jobs),
        "number": made.number,
    }


def decisions_of(desk: Desk, planned: Plan) -> list[Answer]:
    """Every tree of the study, decided or not, without its evidence."""
    out = []
    for name, tree in desk.study.trees.items():
        made = planned.decisions.get(name)
        out.append(
            {
                "name": name,
                "sweep": tree.sweep,
                "status": made.status if made else "open",
                "took": made.took if made else "",
                "because": made.because if made else planned.fallen.get(name, ""),
                "by": made.by if made else "",
            }
        )
    return out


def stale_things(desk: Desk, planned: Plan, held: LockRecord | None) -> list[Answer]:
    """What rests on decisions that say something else now: see stale.py."""
    return [asdict(one) for one in find_stale(desk.study, planned, desk.store.all_decisions(), held)]


def _next_after_decide(desk: Desk, sweeps: Sequence[Answer]) -> str:
    waits = any(made["status"] == "waiting" for sweep in sweeps for made in sweep["decisions"]) or any(
        sweep["open"] for sweep in sweeps
    )
    planned, held = desk.plan(), desk.store.lock()
    of_sweeps = {sweep["sweep"] for sweep in sweeps}
    failed = next((job for job in planned.jobs if job.state == "failed" and of_sweeps & {*job.sweeps}), None)
    if waits and failed:
        return command(desk, "retry", at(failed))
    return after_plan(desk, planned, planned.jobs, "", held)


def overrule(desk: Desk, names: Sequence[str], tree: str, take: str, because: str) -> None:
    """Record a person's decision; it makes the database, if need be. UserError when it does not say which tree, what, or why."""
    from ablate import evidence
    from ablate.deciding.overrule import overrule as overruled

    study = desk.study
    if len(names) != 1:
        raise UserError(f"--take overrules one sweep's tree; name the sweep: ablate decide SWEEP --take {take} --because …")
    trees = [one.name for one in study.sweeps[names[0]].trees]
    if not trees:
        raise UserError(f"{names[0]} decides nothing, it only learns: there is nothing to overrule")
    if not tree and len(trees) > 1:
        raise UserError(f"{names[0]} has {len(trees)} trees: say which one with --tree {listed(trees, 'or')}")
    if tree and tree not in trees:
        raise UserError(f"{names[0]} has no tree {tree!r}; its trees: {', '.join(trees)}")
    evidence.refuse_when_locked(desk)
    name = tree or trees[0]
    before = desk.store.decisions().get(name)
    made = overruled(study, name, take, because, utc_now(), desk.plan().its_start, before)
    evidence.record(writing_desk(desk), made)
