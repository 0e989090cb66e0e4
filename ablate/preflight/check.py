"""What to know before anything is launched: do rows take effect, can trees answer, can seeds show it, is everything here.

Each question has its own file: effects.py (short_runs.py does the looking), trees.py, power.py, resources.py; here they are asked
in turn and put into one document. What is an error, and ends with exit code 1: a trainer that is not there, a row that nobody
reads or that does not train, a line that can never fire. These are mistakes in the file or in the trainer, wherever it is
launched. A line in the shadow of others, a row that changes something else too, a question out of the budget's reach and a thing
this machine lacks are flags.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any, Literal, get_args

from ablate.answers.books import is_maybe
from ablate.answers.document import Answer, command, plain
from ablate.answers.plan import trainer_is_here
from ablate.conditions import near, quoted
from ablate.deciding.noise import noise_pool
from ablate.desk import Desk, measured_hours
from ablate.evidence import job_results
from ablate.launching.provenance import code_hash, seed_note
from ablate.planning.cost import hours_of
from ablate.planning.plan import Plan
from ablate.planning.search import with_examples
from ablate.planning.starts import start_settings
from ablate.planning.states import COMING
from ablate.preflight import effects, power, resources, short_runs, trees
from ablate.preflight.fingerprints import Failed
from ablate.rehearsal.worlds import alike
from ablate.study import Study, UserError

Part = Literal["effects", "trees", "power", "resources"]
PARTS: tuple[Part, ...] = get_args(Part)


def check(desk: Desk, only: Collection[Part] = ()) -> Answer:
    """The document of `ablate check`; `only` these parts, or all. Levels are "", "note", "flag" and "error"."""
    asked = [part for part in PARTS if part in (only or PARTS)]
    plan = desk.plan()
    found: Answer = {"study": desk.study.name, "profile": desk.study.profile, "asked": asked, "effects_note": ""}
    found |= {"seeds_note": "", "effects": [], "trees": [], "power": [], "resources": []}
    if "effects" in asked:
        found |= _effects(desk)
    if "trees" in asked:
        found["trees"] = _trees(desk.study, plan)
    if "power" in asked:
        found |= _power(desk, plan)
    if "resources" in asked:
        to_come = sum(job.state in COMING and not is_maybe(job) for job in plan.jobs)
        found["resources"] = [asdict(one) for one in resources.resources(desk.study, desk.folders, to_come)]
    levels = list(_levels(found))
    found["counts"] = {level: levels.count(level) for level in ("error", "flag", "note")}
    found["next"] = "" if found["counts"]["error"] else command(desk, "launch")
    return plain(found)


def parts(names: Collection[str]) -> tuple[Part, ...]:
    """Those named; UserError for one that there is not."""
    for name in names:
        if name not in PARTS:
            guesses = near(name, PARTS)
            hint = f". Did you mean {quoted(guesses)}?" if guesses else f"; parts: {', '.join(PARTS)}"
            raise UserError(f"--only {name}: `ablate check` has no part {name!r}{hint}")
    return tuple(part for part in PARTS if part in names)


def exit_code(answer: Answer) -> int:
    return 1 if answer["counts"]["error"] else 0


def _effects(desk: Desk) -> Answer:
    try:
        code_hash(desk.study)
    except UserError as error:  # a trainer that is not there
        return {"effects": [asdict(effects.Effect(desk.study.baseline, "not_seen", "error", "", (), (str(error),)))]}
    observe = short_runs.observer(desk.study, desk.folders.cache)
    if isinstance(observe, str):
        return {"effects_note": observe}
    study, decisions = with_examples(desk.study), desk.store.decisions()
    starts = {name: start_settings(study, run, decisions) for name, run in study.runs.items()}
    seen = effects.effects(study, starts, observe, study.late)
    if isinstance(seen, Failed):
        why = effects.Effect(desk.study.baseline, "not_seen", "error" if seen.looked else "flag", "", (), (seen.reason,))
        return {"effects": [asdict(why)]}
    return {"effects": [asdict(effect) for effect in seen]}


def _trees(study: Study, plan: Plan) -> list[Answer]:
    known = {row: run for row, run in plan.its_start.items() if row in study.runs and study.runs[row].start.kind != "winners"}
    reports = [
        report
        for sweep in study.sweeps.values()
        for report in (
            *(trees.analyse(study, sweep, tree, known) for tree in sweep.trees),
            *([trees.analyse_learn(study, sweep, known)] if sweep.learn else []),
        )
    ]
    return [_tree(report) for report in reports]


def _tree(report: trees.TreeReport) -> Answer:
    lines = [{**asdict(line), "level": _level_of_line(line)} for line in report.lines]
    return {**asdict(report), "lines": lines, "notes": [{"level": "note", "says": note} for note in report.notes]}


def _level_of_line(line: trees.LineReport) -> str:
    if line.text == "otherwise":
        return "" if line.verdict == "fires" else "note"
    return {"fires": "", "never": "error", "shadowed": "flag"}[line.verdict]


def _power(desk: Desk, plan: Plan) -> Answer:
    noise = _noise(desk, plan)
    measured = measured_hours(desk)
    sights = [
        line
        for sweep in desk.study.sweeps.values()
        for line in power.lines_of(
            desk.study,
            sweep,
            {name: one["sd"] for name, one in noise.items()},
            plan.its_start,
            lambda run: hours_of(desk.study, run, measured)[0],
        )
    ]
    return {
        "noise": noise,
        "seeds_note": seed_note(desk.study) if trainer_is_here(desk.study) else "",
        "power": [{**asdict(line), "answerable": line.answerable, "level": "" if line.answerable else "flag"} for line in sights],
    }


def _noise(desk: Desk, plan: Plan) -> dict[str, dict[str, Any]]:
    """Metric -> standard deviation between seeds: measured where runs with two seeds have ended, else declared, else None.

    Of runs like those that are compared on the metric, as deciding and rehearsing have it.
    """
    results = job_results(desk, plan)
    found: dict[str, dict[str, Any]] = {}
    for name, metric in desk.study.metrics.items():
        pool = noise_pool(metric, alike(desk.study, name, results))
        found[name] = {"sd": None if pool.source == "none" else pool.sd, "source": pool.source}
    return found


def _levels(document: Mapping[str, Any]) -> list[str]:
    """Every level said anywhere in the document."""
    found = [one["level"] for part in ("effects", "power", "resources") for one in document[part]]
    for report in document["trees"]:
        found += [one["level"] for one in (*report["lines"], *report["notes"])]
    return [*found, *(["flag"] if document["seeds_note"] else [])]
