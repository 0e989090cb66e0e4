"""What ended an attempt is recognised from exit codes and log, and each class has its policy."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import pytest

from ablate.planning.failures import POLICIES, FailureClass, Policy, classify, in_words, named, tries_left

TRACEBACK = 'Traceback (most recent call last):\n  File "train.py", line 7, in <module>\n    step()\n'


@pytest.mark.parametrize(
    ("seen", "codes", "log", "kind"),
    [
        ("lost", (), "", "node lost"),
        ("rank failed", (-9, -15), "step 5", "killed"),
        ("rank failed", (137,), "", "killed"),
        ("rank failed", (1,), TRACEBACK + "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB", "out of memory"),
        ("rank failed", (1,), TRACEBACK + "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate", "out of memory"),
        ("rank failed", (1,), TRACEBACK + "MemoryError", "out of memory"),
        ("rank failed", (-7,), "", "out of memory"),
        ("rank failed", (1,), TRACEBACK + "json.decoder.JSONDecodeError: Expecting value: line 1", "data error"),
        ("rank failed", (1,), TRACEBACK + "OSError: image file is truncated (3 bytes not processed)", "data error"),
        ("rank failed", (1,), TRACEBACK + "tarfile.ReadError: unexpected end of data", "data error"),
        ("rank failed", (1,), TRACEBACK + "OSError: [Errno 28] No space left on device: 'metrics.jsonl'", "disk error"),
        ("rank failed", (-6,), "Watchdog caught collective operation timeout: WorkNCCL(OpType=ALLREDUCE)", "timeout"),
        ("rank failed", (1,), TRACEBACK + "RuntimeError: Timed out waiting 1800000ms for recv operation", "timeout"),
        ("rank failed", (1,), TRACEBACK + "TypeError: step() missing 1 required positional argument: 'x'", "code error"),
        ("rank failed", (1,), TRACEBACK + "trainer.config.ConfigError: optim.lr -1 must be above 0", "code error"),
        ("rank failed", (1,), "[rank0]: ModuleNotFoundError: No module named 'timm'", "code error"),
        ("rank failed", (127,), "cannot run 'trian.py': No such file or directory", "code error"),
        ("rank failed", (2,), "usage: train.py [-h]\ntrain.py: error: unrecognized arguments: --lr", "code error"),
        ("rank failed", (1,), TRACEBACK + "RuntimeError: no convergence", "crash"),
        ("rank failed", (-11,), "", "crash"),
        ("rank failed", (1, -9), "set a timeout of 60\n" * 5 + TRACEBACK + "RuntimeError: boom", "crash"),
        ("rank failed", (), "the ranks could not be started: [Errno 28] No space left on device", "disk error"),
    ],
)
def test_each_class_is_recognised(seen: str, codes: Sequence[int], log: str, kind: FailureClass) -> None:
    assert classify(seen, codes, log) == kind


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("import no_such_module", "code error"),
        ("undefined + 1", "code error"),
        ("open('/no/such/shard')", "data error"),
        ("bytearray(2**62)", "out of memory"),
        ("raise TimeoutError('peer')", "timeout"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "killed"),
        ("raise RuntimeError('boom')", "crash"),
    ],
)
def test_what_python_really_prints_is_recognised(code: str, kind: FailureClass) -> None:
    ended = subprocess.run([sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False)
    assert classify("rank failed", (ended.returncode,), ended.stderr) == kind


@pytest.mark.parametrize(
    ("log", "words"),
    [
        ("", "rank failed, without a result.json"),
        ("ValueError\n", "rank failed, without a result.json; its log ends:\nValueError"),
        ("ablate: the command exited with code 3", "the command exited with code 3"),
        ("ValueError\nablate: the command exited with code 3\n", "the command exited with code 3; its log ends:\nValueError"),
        (
            "ablate: loss: not read here, because …\nKilled\nablate: the command exited on SIGKILL",
            "the command exited on SIGKILL; its log ends:\nKilled",
        ),
        ("loss 1\nablate: the command ended well, but the last loss …", "the command ended well, but the last loss …"),
    ],
)
def test_a_command_that_failed_is_told_in_the_words_of_its_runner(log: str, words: str) -> None:
    assert in_words("rank failed", log) == words


def test_what_the_runner_of_a_command_says_hides_no_sign_in_its_log() -> None:
    log = "CUDA out of memory\n1\n2\nablate: loss: not read here, because …\nablate: the command exited with code 1"
    assert classify("rank failed", (1,), log) == "out of memory"


@pytest.mark.parametrize(
    ("failures", "left"),
    [
        ((), 3),
        (("crash",), 2),
        (("crash", "node lost", "killed"), 0),
        (("out of memory",), 1),
        (("out of memory", "out of memory"), 0),
        (("out of memory", "killed"), 1),
        (("data error", "crash", "data error"), 0),
        (("code error",), 0),
    ],
)
def test_each_policy_leaves_so_many_tries(failures: tuple[FailureClass, ...], left: int) -> None:
    assert tries_left(failures, max_attempts=3) == left


def test_there_are_three_policies_and_every_class_has_one() -> None:
    assert set(POLICIES.values()) == set(Policy.__args__)  # type: ignore[attr-defined]  # Literal's own way to be asked
    assert [named(kind) for kind in POLICIES] == list(POLICIES)
    assert named(None) == "crash"
