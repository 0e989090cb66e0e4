"""How `ablate data …` is drawn."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from ablate.answers.document import count

WIDTH = 100


def status(folders: list[dict[str, Any]]) -> None:
    """Per data folder the inventory, then what the study needs of it."""
    for one in folders:
        console = _console()
        index = "indexed" if one["indexed"] else "without an index"
        console.print(f"[bold]{one['root']}[/bold]  {index}", highlight=False)
        table = _table("dataset", ">samples", "type", "stage", "status", ">twice", ">bad")
        for row in one["held"]:
            counts = [str(row[name]) if row[name] else "" for name in ("duplicates", "bad")]
            table.add_row(row["dataset"], f"{row['samples']:,}", row["type"], row["stage"], row["status"], *counts)
        table.add_row("total", f"{one['samples']:,}", style="bold")
        console.print(table)
        low, high = one["video_target"]
        share = one["video_share"]
        place = "on target" if low <= share <= high else "below it" if share < low else "above it"
        console.print(f"video {share:.1%} of all samples; target {low:.0%} to {high:.0%}: {place}", highlight=False)
        _needs(console, one["needs"])


def _needs(console: Console, needs: list[dict[str, Any]]) -> None:
    missing = sum(not need["met"] for need in needs)
    if not needs:
        return
    met = "the only need is met" if len(needs) == 1 else f"all {len(needs)} needs are met"
    console.print(f"\n{count(len(needs), 'need')}, {missing} not met" if missing else f"\n{met}", highlight=False)
    table = _table("", "need", "of", "there is")
    for need in needs:
        table.add_row("met" if need["met"] else "NOT MET", need["what"], ", ".join(need["runs"]), need["why"])
    console.print(table)


def index(reports: list[dict[str, Any]]) -> None:
    """What an indexing found: per source, then why samples were left out."""
    for one in reports:
        console = _console()
        table = _table("source", ">samples", ">video", ">image", ">text", ">frames", ">tokens", ">twice", ">bad")
        for source, of in one["sources"].items():
            kinds = [of["kinds"].get(kind, 0) for kind in ("video", "image", "text")]
            counts = [of["samples"], *kinds, *(of[name] for name in ("frames", "tokens", "duplicates", "bad"))]
            table.add_row(source, *(f"{number:,}" if number else "" for number in counts))
        console.print(table)
        console.print(
            f"{count(one['samples'], 'good sample')}, hash {one['hash']}; {one['bad']:,} bad, left out", highlight=False
        )
        for reason in one["reasons"]:
            place = f"{reason['shard']}: {reason['key'] or 'the rest of it'}"
            console.print(f"  {reason['samples']:,} x {reason['reason']}  ({place})", highlight=False, markup=False)


def manifests(answers: list[dict[str, Any]]) -> None:
    """Each manifest with its hash, what it holds, and whether anything stands in it twice."""
    table = _table("manifest", ">samples", ">video", ">image", ">text", ">again", ">frames", "hash")
    for one in (manifest for answer in answers for manifest in answer.get("manifests", [answer])):
        kinds = [f"{one['kinds'].get(kind, 0):,}" for kind in ("video", "image", "text")]
        name = one.get("name") or ", ".join(one["runs"])
        table.add_row(name, f"{one['samples']:,}", *kinds, f"{one['again']:,}" or "", f"{one['frames']:,}", one["hash"])
    _console().print(table)


def _console() -> Console:
    console = Console()
    return console if console.is_terminal else Console(width=WIDTH)


def _table(*names: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in names:
        table.add_column(name.lstrip(">"), justify="right" if name.startswith(">") else "left")
    return table
