"""[study]: its keys, and the trainer."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ablate.folders import is_kept_for_us
from ablate.measured import Pattern
from ablate.runs_toml.file import File, by_name
from ablate.runs_toml.positions import Node
from ablate.settings import Setting, as_toml
from ablate.study import Trainer

KEYS = by_name(
    Setting("name", str),
    Setting("asks", str, ""),
    Setting("baseline", str),
    Setting("config", str, ""),
    Setting("stateless", list[str], []),
    Setting("gpus_per_run", int, least=1, most=4096),
    Setting("ranks_per_run", int, 0, least=1, most=4096),
    Setting("hours_per_run", float, above=0.0, most=100_000.0),
    Setting("usd_per_gpu_hour", float, 0.0, least=0.0, most=1_000_000.0),
    Setting("max_attempts", int, 3, least=1, most=100),
    Setting("wandb", bool, True),
    Setting("on_event", str, ""),
)
_FOR_A_SHELL = ("|", "||", "&", "&&", ";", ">", ">>", "<", "2>&1", "&>")
_PLACEHOLDERS = ("seed", "folder", "python", "resume_from")


def read_keys(file: File) -> dict[str, Any]:
    """All but `trainer`, whose command may name settings."""
    node = file.section("study")
    keys = file.filled(node, KEYS, "study", besides=("trainer",))
    file.name(node.keys["name"], keys["name"], "study")
    if "trainer" not in node.keys:
        raise file.wrong(node, "[study] must say `trainer`")
    ranks, gpus = keys["ranks_per_run"], keys["gpus_per_run"]
    if ranks > gpus:
        raise file.wrong(
            node.keys["ranks_per_run"],
            f"study.ranks_per_run = {ranks} is more than gpus_per_run = {gpus}: each rank takes a GPU of its own",
        )
    return keys | {"ranks_per_run": ranks or gpus}


def read_trainer(file: File, config: str, settings: Collection[str]) -> Trainer:
    node = file.section("study").keys["trainer"]
    if node.table is None:
        module = file.string(node, "study.trainer")
        if not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", module):
            forms = '"trainer.train", or { command = ... }'
            raise file.wrong(node, f"study.trainer must be a module such as {forms}, not {as_toml(module)}")
        return Trainer(module=module, config=config)
    keys = file.only(node, ("command", "metrics"), "study.trainer")
    if len(keys) < 2:
        raise file.wrong(node, "study.trainer must say `command` and `metrics = { stdout = ... }` or `{ file = ... }`")
    command = file.string(keys["command"], "study.trainer.command")
    _check_words(file, keys["command"], command)
    for name in re.findall(r"\{([A-Za-z_][\w.-]*)\}", command):
        file.known(keys["command"], name, (*settings, *_PLACEHOLDERS), "setting")
    file.table(keys["metrics"], "study.trainer.metrics")
    metrics = file.only(keys["metrics"], ("stdout", "file"), "study.trainer.metrics")
    if len(metrics) != 1:
        raise file.wrong(keys["metrics"], "study.trainer.metrics must say one of `stdout` and `file`")
    ((key, child),) = metrics.items()
    said = file.string(child, f"study.trainer.metrics.{key}")
    if key == "file":
        _check_metrics_file(file, child, said)
        return Trainer(command=command, metrics_file=said, config=config)
    _check_pattern(file, child, said)
    return Trainer(command=command, stdout=said, config=config)


def _check_words(file: File, node: Node, command: str) -> None:
    """It can be split into words as a shell would, and needs nothing else that a shell does."""
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise file.wrong(node, f"study.trainer.command cannot be split into words: {error}") from None
    if not words:
        raise file.wrong(
            node, 'study.trainer.command is empty; write for example "{python} train.py {--key=value} --seed={seed}"'
        )
    for word in words:
        if word in _FOR_A_SHELL:
            raise file.wrong(
                node, f"study.trainer.command says {word}, and no shell reads it: write a script that does this, and call that"
            )


def _check_metrics_file(file: File, node: Node, said: str) -> None:
    if Path(said).is_absolute() or ".." in Path(said).parts or not said:
        raise file.wrong(node, f"study.trainer.metrics.file must stay in the attempt's folder, not {as_toml(said)}")
    if is_kept_for_us(said):
        ours = f"{as_toml(said)}, which is a file of ours there; name another, such as log.jsonl"
        raise file.wrong(node, f"study.trainer.metrics.file must be a file of the script's own, not {ours}")


def _check_pattern(file: File, node: Node, said: str) -> None:
    try:
        pattern = Pattern(said)
    except re.error as error:
        raise file.wrong(node, f"study.trainer.metrics.stdout is no regular expression: {error}") from None
    if not pattern.metrics:
        raise file.wrong(node, "study.trainer.metrics.stdout has no named group for a metric, such as (?P<val_loss>...)")
    if pattern.too_narrow:
        raise file.wrong(node, f"study.trainer.metrics.stdout: {pattern.too_narrow}")
