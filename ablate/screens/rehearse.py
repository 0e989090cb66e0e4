"""How `ablate rehearse` is drawn: what each rule would do, the locks, the lines, promises kept or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from ablate.answers.document import Answer
from ablate.screens import drawing


def rehearse(answer: Answer) -> None:
    """What each rule would do; the locks; lines and how often they say something false; promises kept or not."""
    console = drawing.open_console()
    noise, studies = f"noise {answer['noise']}", "study" if answer["studies"] == 1 else "studies"
    drawing.title(console, answer, f"{answer['studies']:,} rehearsed {studies} · world: {answer['world']} · {noise}")
    sizes = (f"{name} {one['sd']:.3g} ({one['source']})" for name, one in answer["sd"].items())
    console.print(f"sd between seeds: {', '.join(sizes)}", style="dim")
    if answer["past_jobs"]:
        at = "" if answer["budget"] == 1 else f", read at {answer['budget']:.0%} of their length"
        console.print(f"noise: whole curves of {drawing.count(answer['past_jobs'], 'past job')}{at}", style="dim")
    if answer["looks"]:
        console.print(f"looks at {' and '.join(map(str, answer['looks']))} seeds per run; every tree is settled", style="dim")
    for one in answer["effects"]:
        console.print(f"true: {one['run']} shifts {one['metric']} by {one['effect']:+g}", style="dim")
    console.print()
    table = drawing.table("rule", ">wrong adoptions", ">misses", ">regret", ">net regret", ">GPU-hours")
    equal = [{**one, "rule": f"{one['rule']}, {one['seeds']:.1f} of every run"} for one in answer["equal_hours"]]
    for rule in (*answer["rules"], *equal):
        regrets = (f"{rule['regret']:.2f}", f"{rule['net_regret']:.2f}")
        table.add_row(rule["rule"], _percent(rule["wrong"]), _percent(rule["missed"]), *regrets, f"{rule['gpu_hours']:,.3g}")
    console.print(table)
    console.print("regret in margins; net: a change costs one. The last rows: the trees' GPU-hours, spread evenly", style="dim")
    console.print()
    table = drawing.table(">chance", "final config")
    locks = list(answer["rules"][0]["locks"].items())
    for name, chance in locks[: drawing.MOST_REASONS]:
        table.add_row(_percent(chance), drawing.short(name, 80))
    console.print(table)
    if len(locks) > drawing.MOST_REASONS:
        console.print(f"… and {len(locks) - drawing.MOST_REASONS} more: see --json", style="dim")
    console.print()
    _lines(console, answer["lines"])
    _targets(console, answer["targets"])
    if not all(target["passed"] for target in answer["targets"]):
        console.print("not kept: more seeds or looks (seeds.extra, evidence.looks) show more; check says what these can")
    drawing.next_step(console, answer)


def _lines(console: Console, lines: Sequence[Answer]) -> None:
    """A line that nobody asked (its runs were skipped in every study) has no share."""
    table = drawing.table("", "line", ">fires", ">says something false")
    for line in lines:
        share = _percent(line["fired"] / line["asked"]) if line["asked"] and line["fired"] else "never"
        false = _percent(line["false"] / line["asked"]) if line["false"] else ""
        table.add_row(line["where"].removesuffix(" (learn)"), drawing.short(line["text"], 56), share, false)
    console.print(table)
    console.print()


def _targets(console: Console, targets: Sequence[Answer]) -> None:
    """Promises in short: of several comparisons the worst; those that are not kept, each."""
    table = drawing.table("promise", "of", ">measured", ">limits", ">studies", "")
    for name in dict.fromkeys(target["name"] for target in targets):
        of_name = [target for target in targets if target["name"] == name]
        failed = [target for target in of_name if not target["passed"]]
        worst = min(of_name, key=lambda one: min((one["measured"] or 0) - one["low"], one["high"] - (one["measured"] or 0)))
        for target in failed or [worst]:
            others = f" (nearest of {len(of_name)})" if not failed and len(of_name) > 1 else ""
            measured = "–" if target["measured"] is None else f"{target['measured']:.3g}"
            word = Text("kept", style="green") if target["passed"] else Text("not kept", style="bold red")
            table.add_row(
                name,
                drawing.short(target["of"], 42 - len(others)) + others,
                measured,
                f"{target['low']:.3g}–{target['high']:.3g}",
                f"{target['studies']:,}",
                word,
            )
    console.print(table)


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal while studies are played; nothing where nobody sees it."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=quiet or not console.is_terminal) as bar:
        task = bar.add_task("rehearsing", total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
