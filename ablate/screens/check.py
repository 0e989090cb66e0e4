"""How `ablate check` is drawn: effects, trees, power, resources; then how many errors and flags."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from ablate.answers.document import Answer
from ablate.deciding.compare import POWER
from ablate.screens import drawing

STYLES = {"error": "bold red", "flag": "yellow", "note": "dim", "": ""}
MOST_LEFT = 3
"""Outcomes left to `otherwise` shown of a tree."""


def check(answer: Answer) -> None:
    """Effects, trees, power, resources; then how many errors and flags."""
    console = drawing.open_console()
    drawing.title(console, answer, "check")
    for part, draw in (("effects", _effects), ("trees", _trees), ("power", _power), ("resources", _resources)):
        if part in answer["asked"]:
            draw(console, answer)
            console.print()
    counts = answer["counts"]
    said = [drawing.count(counts[level], level) for level in ("error", "flag", "note") if counts[level]]
    console.print(Text(" · ".join(said) or "nothing to say against it", style=STYLES["error" if counts["error"] else ""]))
    drawing.next_step(console, answer)


def _head(console: Console, name: str, says: str) -> None:
    console.print(Text.assemble((f"{name:<10}", "bold"), says))


def _marked(level: str, text: str) -> Text:
    return Text.assemble((f"{level:<5} ", STYLES[level]), text)


def _effects(console: Console, answer: Answer) -> None:
    rows = answer["effects"]
    if not rows:
        _head(console, "effects", answer["effects_note"])
        return
    verdicts = Counter(row["verdict"].replace("_", " ") for row in rows)
    _head(console, "effects", f"each row against its start: {', '.join(f'{count} {name}' for name, count in verdicts.items())}")
    table = drawing.table("", "row", "", "first seen")
    for row in rows:
        seen = (row["differences"] or [""])[0]
        more = f"; {len(row['differences']) - 1} more" if len(row["differences"]) > 1 else ""
        verdict = row["verdict"].replace("_", " ")
        against = f" of {row['against']}" if row["verdict"] == "baseline" and row["against"] != row["run"] else ""
        marked = Text(row["level"], style=STYLES[row["level"]])
        table.add_row(marked, row["run"], f"{verdict}{against}", Text(drawing.short(seen, 52) + more, style="dim"))
    console.print(drawing.indented(table, 2))
    for row in rows:
        for note in row["notes"]:
            console.print(drawing.indented(Text(f"{row['run']}: {note}", style="dim" if not row["level"] else ""), 2))


def _trees(console: Console, answer: Answer) -> None:
    reports = answer["trees"]
    lines = [line for report in reports for line in report["lines"]]
    fires = sum(line["verdict"] == "fires" for line in lines)
    _head(console, "trees", f"{fires} of {drawing.count(len(lines), 'line')} can be taken, each in some outcome")
    for report in reports:
        told = [*_line_texts(report), *(_marked(note["level"], note["says"]) for note in report["notes"]), *_left(report)]
        if told:
            console.print(drawing.indented(Text(f"{report['sweep']} {report['tree'] or 'learn lines'}", style="bold"), 2))
        for text in told:
            console.print(drawing.indented(text, 4))


def _line_texts(report: Answer) -> Iterator[Text]:
    for line in report["lines"]:
        if line["level"]:
            verdict = "can never fire" if line["verdict"] == "never" else "is never reached"
            yield _marked(line["level"], f"“{line['text']}” {verdict}: {line['because']}")
            if line["example"]:
                yield Text(f"      e.g. {_example(line['example'])}", style="dim")


def _left(report: Answer) -> Iterator[Text]:
    """Outcomes that only `otherwise` covers."""
    cases = report["only_otherwise"]
    for case in cases[:MOST_LEFT]:
        yield Text.assemble("only otherwise: ", (case["outcome"], "dim"))
    more = len(cases) - MOST_LEFT + report["not_told"]
    if more > 0:
        yield Text(f"and {more} more outcomes", style="dim")


def _example(case: Answer) -> str:
    return f"{case['outcome']} ({case['example']})" if case["example"] else str(case["outcome"])


def _power(console: Console, answer: Answer) -> None:
    lines = answer["power"]
    blind = [line for line in lines if not line["answerable"]]
    _head(
        console,
        "power",
        f"{len(lines) - len(blind)} of {drawing.count(len(lines), 'line')} can see a margin with the planned seeds, 4 times of 5",
    )
    if not lines:
        return
    table = drawing.table("compared", "on", ">n", ">margin", ">sees", ">chance", "to know")
    for line in lines:
        for sight in line["sights"]:
            table.add_row(
                drawing.short(f"{sight['a']} {sight['verdict']} {sight['b']}", 26),
                drawing.short(sight["metric"], 16),
                " → ".join(f"{at['n_a']}/{at['n_b']}" if at["n_b"] else str(at["n_a"]) for at in sight["looks"] or [sight]),
                f"{sight['margin']:g}",
                " → ".join("?" if at["visible"] is None else f"{at['visible']:.3g}" for at in sight["looks"] or [sight]),
                " → ".join(f"{at['power']:.0%}" for at in sight["looks"] or [sight]),
                Text(_price(sight), style=STYLES["flag"]),
            )
    console.print(drawing.indented(table, 2))
    console.print(drawing.indented(Text(_legend(answer), style="dim"), 2))
    for sight in (sight for line in lines for sight in line["sights"] if sight["chance"] is not None):
        console.print(drawing.indented(_marked("" if sight["chance"] >= POWER else "flag", _expected(sight)), 2))
    for line in blind:
        console.print(drawing.indented(_marked(line["level"], _unanswered(line)), 2))
    if answer["seeds_note"]:
        console.print(drawing.indented(_marked("flag", answer["seeds_note"]), 2))


def _unanswered(line: Answer) -> str:
    """A question that this budget cannot answer, and what would."""
    prices = [sight["price"] for sight in line["sights"] if not sight["answerable"]]
    if any(price is None for price in prices):
        known = "nothing is known of the noise: declare it, or give two runs seeds"
    elif any(price["seeds"] is None for price in prices):
        known = "no number of seeds in reach answers it: a margin this small is lost in the noise"
    else:
        dearest = max(prices, key=lambda price: price["gpu_hours"])
        known = (
            f"{drawing.count(dearest['seeds'], 'seed')} per run would: {drawing.count(dearest['jobs'], 'job')} more, "
            f"{drawing.number(dearest['gpu_hours'])} GPU-hours, ${dearest['usd']:.2f}"
        )
    return f"this budget does not answer “{line['text']}” ({line['sweep']}); {known}"


def _expected(sight: Answer) -> str:
    """What the rows' authors expect, and the chance to show the verdict if they are right."""
    of = f"{sight['a']} − {sight['b']} on {sight['metric']} is expected to be {sight['expected']:+.3g}"
    return f"{of}: “{sight['verdict']}” would be shown with probability {sight['chance']:.0%}"


def _price(sight: Answer) -> str:
    price = sight["price"]
    if price is None:
        return "" if sight["answerable"] else "noise?"
    if price["seeds"] is None:
        return "out of reach"
    return f"{drawing.count(price['seeds'], 'seed')}: {drawing.number(price['gpu_hours'])} GPU-h ${price['usd']:.2f}"


def _legend(answer: Answer) -> str:
    sds = [f"{name} {one['sd']:.2g} ({one['source']})" for name, one in answer["noise"].items() if one["sd"] is not None]
    return (
        "sees: better, worse: the smallest true difference shown 4 times of 5; no worse, same: the smallest margin within which "
        "equal runs are shown equal. chance: of telling one margin from 0; of showing equal runs equal. "
        f"{'a → b: at the first look, at the next, each by itself. ' if _looks(answer) else ''}"
        f"Noise between seeds: {', '.join(sds) or 'unknown'}"
    )


def _looks(answer: Answer) -> bool:
    return any(sight["looks"] for line in answer["power"] for sight in line["sights"])


def _resources(console: Console, answer: Answer) -> None:
    _head(console, "resources", "of this machine")
    for one in answer["resources"]:
        name = f"{one['name']}: " if one["what"] in ("weights", "data") else ""
        console.print(drawing.indented(_marked(one["level"], f"{one['what']:<8} {name}{one['says']}"), 2))
