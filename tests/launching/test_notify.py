"""A program of the user's hears of failures, results, decisions and budgets; if it is broken, nothing else is."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from ablate.launching import notify
from ablate.launching.jobs import Cluster
from ablate.launching.notify import Notifier, call
from ablate.study import UserError
from tests.launching.test_launch import CRASH, Witness, desk_of, run
from tests.studies import study

LISTENER = "import sys; open('heard.jsonl', 'a').write(sys.stdin.read())\n"


def test_each_kind_of_event_is_told_once_with_what_a_program_needs(cluster: Cluster, tmp_path: Path) -> None:
    (tmp_path / "listen to it.py").write_text(LISTENER)
    desk = desk_of(tmp_path, CRASH.replace("wandb            = false", "wandb = false\non_event = \"python3 'listen to it.py'\""))
    run(desk, cluster, runs=("A6@42",))
    run(desk, cluster, runs=("A1",), max_cost=0.0)
    heard = [json.loads(line) for line in (tmp_path / "heard.jsonl").read_text().splitlines()]
    assert [told["event"] for told in heard] == ["failed", "done", "budget"]
    failed, done, budget = heard
    assert (failed["attempt"], failed["state"], failed["failure"]) == (1, "failed", "crash")
    assert failed["job"].startswith("A6-s42-")
    assert "asked to crash at step 120" in failed["reason"]
    assert (done["job"], done["attempt"], done["state"]) == (failed["job"], 2, "done")
    assert (budget["job"], budget["max_cost"]) == ("A1-s42", 0.0)
    assert {told["study"] for told in heard} == {"quick-surfaces"}


@pytest.mark.parametrize(
    ("words", "trouble"),
    [
        (("no-such-program",), "on_event 'no-such-program' on 'done': [Errno 2] No such file or directory: 'no-such-program'"),
        (("python3", "-S", "-c", "raise SystemExit('no mail today')"), "on_event 'python3' on 'done': exit code 1 no mail today"),
        (("python3", "-S", "-c", ""), ""),
        (
            ("python3", "-S", "-c", "import time; time.sleep(9)"),
            "on_event 'python3' on 'done': it took longer than 0.5 s and was ended",
        ),
    ],
)
def test_a_program_that_is_broken_or_slow_is_a_note(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], trouble: str
) -> None:
    monkeypatch.setattr(notify, "TIMEOUT_S", 0.5 if "sleep" in words[-1] else 20.0)
    assert call(words, {"event": "done"}, tmp_path) == trouble


def test_nothing_in_the_command_reaches_a_shell(tmp_path: Path) -> None:
    one = replace(study(), on_event="python3 -S -c 'import sys; open(\"args\", \"w\").write(sys.argv[1])' '$(id);`id`'")
    notes: list[str] = []
    notifier = Notifier(replace(one, path=tmp_path / "runs.toml"), notes.append)
    notifier.tell("done", "", "", {})
    notifier.close()
    assert notes == []
    assert (tmp_path / "args").read_text() == "$(id);`id`"


def test_a_command_that_is_not_quoted_right_is_refused() -> None:
    with pytest.raises(UserError, match=r"runs\.toml: \[study\] on_event .*No closing quotation; quote it as in a shell"):
        Notifier(replace(study(), on_event="mail 'me"), Witness().events.append)  # type: ignore[arg-type]  # never called
