"""CSV, Parquet and JSON tables → past runs. A row holds one value (long form), or one column per metric (wide form).

    long    run,seed,step,metric,value        wide    run,seed,step,val_loss,image_vqa
            F3,42,100,val_loss,1.31                   F3,42,100,1.31,0.52

The chart export of W&B ("Step", "NAME - val_loss", "NAME - val_loss__MIN", …) is read too. Columns are found by their names
(GUESSES), or told: `run=name,val_loss=eval/loss`. Rows count from 1, the header included, as a spreadsheet counts them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ablate.conditions import near, quoted
from ablate.past.runs import LONGEST_NAME, Mistakes, Past, PastRun, shown
from ablate.study import Study, UserError
from trainer.metrics import METRICS

GUESSES: Mapping[str, tuple[str, ...]] = {
    "run": ("run", "run_name", "run name", "name", "display_name"),
    "seed": ("seed", "random_seed", "config.seed", "config/seed"),
    "step": ("step", "_step", "global_step", "trainer/global_step"),
    "metric": ("metric",),
    "value": ("value",),
    "state": ("state", "status", "outcome"),
}
"""What a table must or may tell -> the columns looked for, letter case aside; the first that is there is meant."""
FINISHED = ("finished", "done", "diverged")
"""States of a run that ended; in any other it is no result."""
BETWEEN = " - "
"""Between run and metric in a column of W&B's chart export; the rest of its columns end in one of CHART_BOUNDS."""
CHART_BOUNDS = ("__MIN", "__MAX")
LONGEST_CELL, LONGEST_ROW = 100_000, 10_000_000
"""Characters; more of them are a mistake, whatever they hold."""

Rows = Iterator[tuple[int, Sequence[Any]]]
"""Number and cells of each row below the header; the cells of a CSV are text."""


@dataclass(frozen=True)
class Column:
    """A column that holds one metric."""

    at: int
    header: str
    metric: str
    run: str = ""
    """Whose, where the header says it; else the row does."""


@dataclass(frozen=True)
class Layout:
    """What stands where."""

    words: Mapping[str, int]
    """"run", "seed", … (GUESSES) -> the column's place."""
    metrics: tuple[Column, ...]
    """Of the wide form; () in the long one."""
    settings: Mapping[str, int]
    renamed: Mapping[str, str]
    """Long form: a metric as the table calls it -> its name in the study."""
    headers: tuple[str, ...]
    unread: tuple[str, ...]


def read_table(path: Path, study: Study, told: Mapping[str, str]) -> Past:
    """The runs of a table.

    told: word, metric or setting -> column. UserError with every mistake of the file, by row and column.
    """
    kind = {".parquet": "Parquet", ".json": "JSON", ".jsonl": "JSON"}.get(path.suffix.lower(), "CSV")
    opened: Callable[[Path, Mistakes], tuple[tuple[str, ...], Rows]]
    opened = {"Parquet": _parquet, "JSON": _json}.get(kind, _csv)
    mistakes = Mistakes(path)
    try:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        headers, rows = opened(path, mistakes)
        layout = laid_out(path, headers, study, told)
        runs = _runs(layout, rows, mistakes)
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error
    mistakes.refuse()
    if not runs:
        raise UserError(f"{path}: no row holds a value; there is nothing to import")
    return Past(path, kind, sha256, runs, layout.unread)


# ---------------------------------------------------------------- what stands where


def laid_out(path: Path, headers: tuple[str, ...], study: Study, told: Mapping[str, str]) -> Layout:
    """Which column holds what: as told, else by its name. UserError where a column is missing."""
    place = {header: at for at, header in reversed(list(enumerate(headers)))}
    doubled = sorted({header for header in headers if headers.count(header) > 1 and header})
    if doubled:
        raise UserError(f"{path}: row 1: {_several(doubled)} heads more than one column; each needs a name of its own")
    charts = _charts(headers, study, told)
    words = {word: found for word in GUESSES if (found := _word(path, word, headers, place, told)) is not None}
    if charts:
        step = {"step": words["step"]} if "step" in words else {}
        taken = {*step.values(), *(one.at for one in charts)}
        return Layout(step, charts, {}, {}, headers, tuple(name for name, at in place.items() if at not in taken))
    if "run" not in words:
        raise UserError(f"{path}: row 1: no column for run among {_several(headers)}; say which: --map run=COLUMN")
    long = {"metric", "value"} <= words.keys()
    if not long and (told.keys() & {"metric", "value"}):
        missing = "value" if "metric" in told else "metric"
        raise UserError(
            f"{path}: row 1: a column for {'metric' if missing == 'value' else 'value'} and none for {missing}; with a row per "
            f"value say --map {missing}=COLUMN, with a column per metric --map METRIC=COLUMN"
        )
    if not long:
        words = {word: at for word, at in words.items() if word not in ("metric", "value")}
    others = {name: column for name, column in told.items() if name not in GUESSES}
    settings, metrics, renamed = _others(path, study, place, others, long, set(words.values()))
    if not long and not metrics:
        raise UserError(
            f"{path}: row 1: no column of a metric the study declares ({', '.join(study.metrics)}) among {_several(headers)}; "
            "say which: --map METRIC=COLUMN"
        )
    read = {*words.values(), *settings.values(), *(column.at for column in metrics)}
    return Layout(words, metrics, settings, renamed, headers, tuple(name for name, at in place.items() if at not in read))


def _word(path: Path, word: str, headers: Sequence[str], place: Mapping[str, int], told: Mapping[str, str]) -> int | None:
    if word in told:
        return _place(path, word, told[word], place)
    lower = {header.lower(): header for header in reversed(headers)}
    return next((place[lower[guess]] for guess in GUESSES[word] if guess in lower), None)


def _place(path: Path, name: str, column: str, place: Mapping[str, int]) -> int:
    if column not in place:
        raise UserError(f"{path}: --map {name}={column}: there is no such column.{_hint(column, place)}")
    return place[column]


def _others(
    path: Path, study: Study, place: Mapping[str, int], told: Mapping[str, str], long: bool, taken: Collection[int]
) -> tuple[dict[str, int], tuple[Column, ...], dict[str, str]]:
    """Columns of settings, columns of metrics, and metrics of the long form that the study calls otherwise."""
    settings: dict[str, int] = {}
    metrics: list[Column] = []
    renamed: dict[str, str] = {}
    for name, column in told.items():
        if name in study.settings:
            settings[name] = _place(path, name, column, place)
        elif long:
            renamed[column] = name
        else:
            metrics.append(Column(_place(path, name, column, place), column, name))
    told_places = {*settings.values(), *(column.at for column in metrics)}
    for header, at in place.items():
        if at in taken or at in told_places or header in told:
            continue
        if header in study.settings:
            settings[header] = at
        elif not long and (header in study.metrics or header in METRICS):
            metrics.append(Column(at, header, header))
    return settings, tuple(metrics), renamed


def _charts(headers: Sequence[str], study: Study, told: Mapping[str, str]) -> tuple[Column, ...]:
    """Columns of a chart exported from W&B: "NAME - val_loss"."""
    named = {column: metric for metric, column in told.items() if metric not in GUESSES}
    found = []
    for at, header in enumerate(headers):
        run, between, metric = header.rpartition(BETWEEN)
        if between and not header.endswith(CHART_BOUNDS):
            metric = named.get(metric, metric)
            if metric in study.metrics or metric in METRICS:
                found.append(Column(at, header, metric, run))
    return tuple(found)


# ---------------------------------------------------------------- rows → runs


@dataclass
class _Building:
    """A run while its rows are read."""

    name: str
    seed: int | None
    place: str
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    state: str = ""
    says_nothing: int = 0
    """Its last row, if nothing was measured there; 0 if something was."""

    def finished(self) -> PastRun:
        state = self.state.strip().lower()
        outcome = {"diverged": "diverged"}.get(state, "")
        unfinished = f"its state is {shown(self.state)}" if state and state not in FINISHED else ""
        return PastRun(self.name, self.seed, self.curves, self.settings, self.place, outcome, unfinished)


def _runs(layout: Layout, rows: Rows, mistakes: Mistakes) -> tuple[PastRun, ...]:
    reader = _Reader(layout, mistakes)
    for number, cells in rows:
        reader.read(number, cells)
    for run in reader.runs.values():
        past = run.finished()
        if run.says_nothing and not past.unfinished and not (past.outcome and past.curves):
            mistakes.add(
                f"row {run.says_nothing}",
                f"the last one of {shown(run.name)} has no value. Where a training diverged write nan (pandas: "
                "to_csv(na_rep='nan')), or diverged in a column `state`; else leave the row out",
            )
    return tuple(each.finished() for each in reader.runs.values() if each.curves)


class _Reader:
    """Takes a table row by row; what is wrong is a mistake at its row and column, and the reading goes on."""

    def __init__(self, layout: Layout, mistakes: Mistakes) -> None:
        self.layout, self.mistakes = layout, mistakes
        self.runs: dict[tuple[str, int | None], _Building] = {}
        about = {*layout.words.values(), *layout.settings.values()}
        self._measured = [at for at in range(len(layout.headers)) if at not in about]
        """Columns that may hold something measured, also what the study does not ask for."""
        self._wholes: dict[str, int] = {}
        """Text -> the whole number it means: most cells of `seed` and `step` were seen before."""

    def read(self, number: int, cells: Sequence[Any]) -> None:
        words = self.layout.words
        seed, step = None, 0
        if "seed" in words and cells[words["seed"]] not in ("", None):
            seed = self._whole(number, cells, words["seed"])
            if seed is None:
                return
        if "step" in words:
            found = self._whole(number, cells, words["step"])
            if found is None:
                return
            step = found
        if "run" not in words:
            for column in self.layout.metrics:
                self._point(self._run(number, column.at, column.run, seed), number, column, step, cells, False)
            return
        run = self._run(number, words["run"], cells[words["run"]], seed)
        if run is not None:
            self._about(run, number, cells)
            self._values(run, number, step, cells)
            empty = self.layout.metrics and all(cells[at] in ("", None) for at in self._measured)
            run.says_nothing = number if empty else 0

    def _values(self, run: _Building, number: int, step: int, cells: Sequence[Any]) -> None:
        words = self.layout.words
        if "metric" in words:
            name = self._name(number, words["metric"], cells[words["metric"]])
            column = Column(words["value"], self.layout.headers[words["value"]], self.layout.renamed.get(name, name))
            self._point(run if name else None, number, column, step, cells, True)
        for column in self.layout.metrics:
            self._point(run, number, column, step, cells, False)

    def _about(self, run: _Building, number: int, cells: Sequence[Any]) -> None:
        """Its state and its settings."""
        state = self.layout.words.get("state")
        if state is not None and cells[state]:
            run.state = str(cells[state])
        for name, at in self.layout.settings.items():
            if cells[at] not in ("", None) and run.settings.setdefault(name, cells[at]) != cells[at]:
                before = shown(run.settings[name])
                self._refuse(number, at, cells[at], f"one value per run is expected, and {run.place} says {before}")

    def _run(self, number: int, at: int, cell: Any, seed: int | None) -> _Building | None:
        name = cell if isinstance(cell, str) else "" if cell is None else str(cell)
        found = self.runs.get((name, seed))
        if found is None and self._name(number, at, name):
            found = self.runs[name, seed] = _Building(name, seed, f"row {number}")
        return found

    def _name(self, number: int, at: int, cell: Any) -> str:
        """A cell that names a run or a metric; "" and a mistake where it cannot."""
        if isinstance(cell, str) and 0 < len(cell) <= LONGEST_NAME and cell.isprintable():
            return cell
        self._refuse(number, at, cell, f"a name of up to {LONGEST_NAME} printable characters is expected")
        return ""

    def _whole(self, number: int, cells: Sequence[Any], at: int) -> int | None:
        cell = cells[at]
        if isinstance(cell, str) and cell in self._wholes:
            return self._wholes[cell]
        found = _whole(cell)
        if found is None:
            self._refuse(number, at, cell, "a whole number from 0 on is expected")
        elif isinstance(cell, str):
            self._wholes[cell] = found
        return found

    def _point(self, run: _Building | None, number: int, column: Column, step: int, cells: Sequence[Any], required: bool) -> None:
        """Keep one value. An empty cell is "not measured" where a row holds several metrics, a mistake where it holds one."""
        if run is None:
            return
        cell = cells[column.at]
        value = _number(cell)
        if value is None:
            if required or cell not in ("", None):
                self._refuse(number, column.at, cell, "a number is expected")
            return
        known = run.curves.setdefault(column.metric, {}).setdefault(step, value)
        if known != value and not (math.isnan(known) and math.isnan(value)):
            whose = f"{shown(run.name)}{'' if run.seed is None else f' seed {run.seed}'}"
            self._refuse(number, column.at, cell, f"an earlier row says {known!r} for {column.metric} of {whose} at step {step}")

    def _refuse(self, number: int, at: int, cell: Any, what: str) -> None:
        self.mistakes.add(f"row {number}, column {shown(self.layout.headers[at])}", f"{shown(cell)}; {what}")


def _number(cell: Any) -> float | None:
    """None for what is none. "nan" and "inf" are numbers; "1_000" and true are not."""
    if isinstance(cell, bool) or not isinstance(cell, str | int | float) or (isinstance(cell, str) and "_" in cell):
        return None
    try:
        return float(cell)
    except (ValueError, OverflowError):
        return None


def _whole(cell: Any) -> int | None:
    number = _number(cell)
    if number is None or not number.is_integer() or not 0 <= number < 2**63:
        return None
    try:
        return int(cell)
    except ValueError:  # "100.0"
        return int(number)


# ---------------------------------------------------------------- files → rows


def _csv(path: Path, mistakes: Mistakes) -> tuple[tuple[str, ...], Rows]:
    """Comma, semicolon or tab between the cells, whichever the header has most of; UTF-8."""
    csv.field_size_limit(LONGEST_CELL)
    with path.open("rb") as file:
        first = file.readline(LONGEST_CELL)
    delimiter = max(b",;\t", key=lambda sign: first.count(sign))
    rows = _csv_rows(path, chr(delimiter), mistakes)
    header = next(rows, None)
    mistakes.refuse()
    if header is None or not any(cell.strip() for cell in header[1]):
        raise UserError(f"{path}: row 1: empty; the names of the columns are expected, such as run,seed,step,val_loss")
    names = tuple(cell.strip() for cell in header[1])

    def whole_rows() -> Rows:
        for number, cells in rows:
            if len(cells) == len(names):
                yield number, cells
            elif cells:  # an empty line is none
                mistakes.add(f"row {number}", f"{len(cells)} cells; {len(names)} are expected, as in the header")

    return names, whole_rows()


def _csv_rows(path: Path, delimiter: str, mistakes: Mistakes) -> Iterator[tuple[int, list[str]]]:
    number = 0
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(iter(partial(file.readline, LONGEST_ROW), ""), delimiter=delimiter, strict=True)
        try:
            for number, cells in enumerate(reader, 1):
                yield number, cells
        except (csv.Error, UnicodeDecodeError) as error:
            where = f"row {number + 1}"
            if isinstance(error, UnicodeDecodeError):
                where, error_text = f"after row {number}", f"not UTF-8 text ({error.reason}); save the table as UTF-8"
            else:
                error_text = f"{error}; is a quote missing, or is it no table?"
            mistakes.add(where, error_text)


def _parquet(path: Path, _: Mistakes) -> tuple[tuple[str, ...], Rows]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
        names = tuple(file.schema_arrow.names)
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from error

    def rows() -> Rows:
        number = 1
        for batch in file.iter_batches():
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                number += 1
                yield number, cells

    return names, rows()


def _json(path: Path, mistakes: Mistakes) -> tuple[tuple[str, ...], Rows]:
    """A list of flat objects, or one object per line; keys are the columns. The first object is row 1."""
    entries = _json_entries(path)
    names = tuple(dict.fromkeys(str(name) for entry in entries if isinstance(entry, dict) for name in entry))
    if not names:
        raise UserError(f'{path}: a list of objects such as {{"run": …, "seed": …, "step": …}} is expected')

    def rows() -> Rows:
        for number, entry in enumerate(entries, 1):
            if isinstance(entry, dict):
                yield number, [entry.get(name) for name in names]
            else:
                mistakes.add(f"row {number}", f"{shown(entry)}; an object is expected")

    return names, rows()


def _json_entries(path: Path) -> list[Any]:
    place, entries = "", list[Any]()
    try:
        text = path.read_text(encoding="utf-8-sig")
        if text.lstrip().startswith("["):
            whole: list[Any] = json.loads(text)
            return whole
        for number, line in enumerate(text.splitlines(), 1):
            place = f"row {number}: "
            if line.strip():
                entries.append(json.loads(line))
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: {place}not JSON ({error}); a list of objects, or one object per line, is expected") from error
    return entries


def _several(names: Sequence[str]) -> str:
    return ", ".join(shown(name) for name in names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _hint(name: str, known: Collection[str]) -> str:
    guesses = near(name, known)
    return f" Did you mean {quoted(guesses)}?" if guesses else f" Columns: {_several(list(known))}"
