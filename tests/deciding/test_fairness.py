"""The ledger of fairness: what must be equal, what a row may declare, and what only is shown."""

from dataclasses import replace

import pytest

from ablate.deciding.compare import compare
from ablate.deciding.fairness import ledger, unfair
from tests.studies import KNOWN, LOSS, jobs, scores_of, settings_of


def checks(a, b, declared=(), **reasons):
    found = ledger(a, b, declared, frozenset(settings_of("F3")) - {"log.every"}, "val_loss", **reasons)
    return {check.name: check for check in found}


FACTS = {"manifest_hash": "m1", "eval_hash": "e1", "samples": 9600, "device": "cpu", "versions": {"torch": "2.11"}}


def test_only_declared_differences_of_settings_are_fair():
    a, b = jobs("F1", [0.1], facts=FACTS), jobs("F3", [0.1], facts=FACTS)
    assert not any(check.unfair for check in checks(a, b, {"model.freeze_dino", "model.freeze_llm"}).values())
    check = checks(a, b, {"model.freeze_dino"})["settings"]
    assert check.unfair
    assert (check.a, check.b) == ("model.freeze_llm = True", "model.freeze_llm = False")


def test_settings_that_cannot_change_a_result_may_differ():
    a, b = jobs("F3", [0.1]), jobs("F3", [0.1], settings={**settings_of("F3"), "log.every": 99})
    assert checks(a, b)["settings"].ok


@pytest.mark.parametrize(
    ("fact", "value", "check", "excuse"),
    [
        ("manifest_hash", "m2", "manifest", "data.mix"),
        ("manifest_hash", "m2", "manifest", "train.flops"),
        ("samples", 4800, "samples", "train.samples"),
        ("eval_hash", "e2", "evaluation", "eval.set"),
    ],
)
def test_a_differing_fact_blocks_unless_it_is_declared(fact, value, check, excuse):
    a, b = jobs("A", [0.1], facts=FACTS), jobs("B", [0.2], facts={**FACTS, fact: value})
    assert checks(a, b)[check].unfair
    found = checks(a, b, {excuse})[check]
    assert (found.ok, found.unfair, found.declared) == (False, False, True)
    blocked = compare(LOSS, scores_of("A", [0.1]), scores_of("B", [0.9]), KNOWN, 0.05, checks=tuple(checks(a, b).values()))
    assert blocked.holds == ()
    assert blocked.reason.startswith(f"not fair: {check} differs: ")


def test_other_code_blocks_and_other_hardware_is_only_shown():
    a = jobs("A", [0.1], facts=FACTS)
    b = jobs("B", [0.1], facts={**FACTS, "device": "H200", "versions": {"torch": "2.12"}}, code_hash="other")
    found = checks(a, b)
    assert found["trainer's code"].unfair
    assert (found["device"].ok, found["versions"].ok) == (False, False)
    assert not found["device"].unfair
    assert not found["versions"].unfair
    assert (found["versions"].a, found["versions"].b) == ("torch 2.11", "torch 2.12")


def test_what_a_trainer_does_not_report_blocks_nothing():
    found = checks(jobs("A", [0.1]), jobs("B", [0.1], facts=FACTS))
    assert {found[name].ok for name in ("manifest", "samples", "evaluation", "device", "versions")} == {None}
    assert not any(check.unfair for check in found.values())


def test_manifests_are_compared_seed_by_seed():
    def per_seed(run, hashes):
        return [replace(job, facts={"manifest_hash": h}) for job, h in zip(jobs(run, [0.1] * len(hashes)), hashes, strict=True)]

    assert checks(per_seed("A", ["m42", "m43"]), per_seed("B", ["m42", "m43"]))["manifest"].ok
    assert checks(per_seed("A", ["m42"]), per_seed("B", ["m42", "m43"]))["manifest"].ok
    found = checks(per_seed("A", ["m42", "m43"]), per_seed("B", ["m42", "x"]))["manifest"]
    assert (found.ok, found.a, found.b) == (False, "m43", "x")


@pytest.mark.parametrize(("flops", "ok"), [(1.00e12, True), (1.01e12, True), (1.10e12, False)])
def test_compute_is_equal_within_what_a_last_step_can_make(flops, ok):
    left, right = jobs("F3", [0.1], facts={"flops": 1.00e12}), jobs("B1", [0.1], facts={"flops": flops})
    (check,) = [one for one in ledger(left, right, {"train.flops"}, set()) if one.name == "FLOPs"]
    assert (check.ok, check.declared, check.unfair) == (ok, True, False)
    assert check.a == "1e+12"


def stepped(run, *steps):
    return [replace(job, steps={"val_loss": step}) for job, step in zip(jobs(run, [0.1, 0.2, 0.3]), steps, strict=True)]


@pytest.mark.parametrize(
    ("a", "b", "ok", "told"),
    [
        ((300, 300, 300), (300, 300, 300), True, ("300", "300")),
        ((300, 300, 300), (1000, 1000, 1000), False, ("300", "1,000")),
        ((300, 100, 300), (300, 300, 300), False, ("100, 300", "300")),
    ],
)
def test_values_taken_at_different_steps_block_the_verdict(a, b, ok, told):
    check = checks(stepped("A", *a), stepped("B", *b))["last step"]
    assert (check.ok, check.unfair, (check.a, check.b)) == (ok, not ok, told)
    if not ok:
        assert unfair([check]) == f"not fair: last step differs: {told[0]} / {told[1]}"


@pytest.mark.parametrize("setting", ["train.samples", "train.flops", "train.batch_samples"])
def test_a_declared_budget_or_batch_declares_other_steps(setting):
    a, b = stepped("A", 300, 300, 300), stepped("B", 150, 150, 150)
    assert not checks(a, b, {setting})["last step"].unfair
    assert checks(a, b, {"optim.lr"})["last step"].unfair
    assert not checks(a, b, {"optim.lr"}, mix_steps="runs stop when they converge")["last step"].unfair


def test_where_no_steps_are_known_nothing_is_said_of_them():
    assert checks(jobs("A", [0.1]), jobs("B", [0.2]))["last step"].ok is None


def test_a_run_that_is_the_same_whatever_its_seed_blocks_the_verdict():
    a, b = jobs("A", [0.5, 0.5, 0.5]), jobs("B", [0.4, 0.41, 0.42])
    check = checks(a, b)["seeds"]
    assert (check.ok, check.a, check.b) == (False, "all 3 gave 0.5", "they differ")
    assert unfair([check]) == "not fair: the trainer does not use its seed: all 3 gave 0.5"
    assert checks(b, b)["seeds"].ok
    assert "seeds" not in checks(a[:1], b[:1])


def test_another_metric_or_fact_tells_seeds_apart_where_a_coarse_one_does_not():
    coarse = [replace(job, values={"val_loss": 0.5, "image_vqa": 0.1 * job.seed}) for job in jobs("A", [0.5, 0.5])]
    weighed = [replace(job, facts={"initial_weights_hash": f"w{job.seed}"}) for job in jobs("A", [0.5, 0.5])]
    assert checks(coarse, weighed)["seeds"].ok
