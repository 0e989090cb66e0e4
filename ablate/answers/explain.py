"""What `ablate explain` answers: each line of a sweep in plain words."""

from __future__ import annotations

from ablate.answers.document import Answer, plain
from ablate.conditions import in_words, listed
from ablate.planning.freeze import take_text
from ablate.study import Line, Study, Sweep, runs_of_sweep


def explain(study: Study, sweep: Sweep) -> Answer:
    """Each line of a sweep in plain words."""
    metrics = {
        name: metric for name, metric in study.metrics.items() if name == sweep.on or any(name in line for line in _texts(sweep))
    }
    skip = sweep.skip
    return plain(
        {
            "study": study.name,
            "profile": study.profile,
            "sweep": sweep.name,
            "asks": sweep.asks,
            "runs": list(runs_of_sweep(study, sweep)),
            "metrics": [
                {"name": name, "better": one.better, "margin": one.margin, "unit": one.unit, "noise": one.noise}
                for name, one in metrics.items()
            ],
            "skip": {"if": skip.text, "in_words": in_words(skip.condition, study.metrics), "because": skip.because}
            if skip
            else None,
            "trees": [{"name": tree.name, "lines": [_line(study, line) for line in tree.lines]} for tree in sweep.trees],
            "learn": [
                {"if": one.text, "in_words": in_words(one.condition, study.metrics), "say": one.say} for one in sweep.learn
            ],
        }
    )


def _texts(sweep: Sweep) -> list[str]:
    return [*(line.text for tree in sweep.trees for line in tree.lines), *(one.text for one in sweep.learn)]


def _line(study: Study, line: Line) -> Answer:
    return {
        "if": line.text,
        "in_words": in_words(line.condition, study.metrics),
        "take": take_text(line.take),
        "take_in_words": _take_in_words(study, line),
        "because": line.because,
    }


def _take_in_words(study: Study, line: Line) -> str:
    match line.take.kind:
        case "stop":
            return "take nothing and stop: what starts from this decision waits for a person"
        case "its start":
            return "keep what the row started from"
        case "best":
            return f"take the best of {listed(line.take.runs)}"
        case "run":
            run = study.run_named(line.take.runs[0])
            return f"take {line.take.runs[0]}" + (", the baseline" if run.name == study.baseline else "")
