"""Whether two runs were compared on equal terms: the ledger shown beside every difference. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from ablate.planning.search import TUNED
from ablate.study import BUDGET, ENDED, JobResult


@dataclass(frozen=True)
class Check:
    """One line of the ledger of fairness."""

    name: str
    ok: bool | None
    """None: not reported by the trainer."""
    a: str
    b: str
    declared: bool = False
    """The rows differ in this on purpose."""
    blocks: bool = True
    """Whether a difference that nobody declared blocks the verdict; else it is only shown."""

    @property
    def unfair(self) -> bool:
        return self.ok is False and self.blocks and not self.declared


NO_LEDGER = "imported: no fairness ledger"
"""Of a verdict on results that were brought in, and nobody knows how they were made."""
LEDGER_OF_SOURCE = "imported: the fairness ledger is that of its source"


def imported(jobs: Collection[JobResult], mix_imported: str = "") -> str:
    """What a reader must know of these jobs because of where they are from; "" if all were trained here."""
    brought = [job for job in jobs if job.imported]
    if not brought:
        return ""
    text = LEDGER_OF_SOURCE if all(job.has_ledger for job in brought) else NO_LEDGER
    mixed = len(brought) < len(jobs)
    return f"{text}; beside results trained here ({mix_imported or 'not declared'})" if mixed else text


SEEDS = "seeds"
"""Name of the check that seeds made a difference."""
ALIKE, ONE_SEED = "all ", "one seed"
LAST_STEP = "last step"
"""Name of the check that both values, and those of all seeds, were taken at one step."""
HINTS = {
    LAST_STEP: "last step: a run ended early or stopped logging this metric; where that is meant, say why: "
    '[evidence] mix_steps = "…"',
    SEEDS: "seeds: jobs that differ in nothing but their seed gave one value; where that is meant, declare one seed",
}
"""By the name of a check."""
BATCH = ("batch", "batch_size", "batch_samples")
"""Last words of settings that say how many samples a step is of."""


def ledger(
    a: Sequence[JobResult],
    b: Sequence[JobResult],
    declared: Collection[str],
    stateful: Collection[str],
    metric: str = "",
    mix_imported: str = "",
    mix_steps: str = "",
) -> tuple[Check, ...]:
    """The ledger: what must be equal between two runs, whether it is, and whether a difference was declared.

    declared: names of the settings in which the two rows differ from their common start.
    stateful: names of the settings that can change a result; others may differ freely.
    metric:   the one they are compared on; "": none, and nothing is said of its values.
    mix_imported: why imported results may be compared with those trained here; "" if they may not.
    mix_steps:    why values taken at different steps may be; "" if they may not.

    What a trainer does not report is "not reported" and blocks nothing; an imported run without a ledger reports nothing, and
    that its origin is another blocks. A manifest also differs when the budget does (it is the list of samples a run sees), so a
    declared budget declares it too, and the last step with it; so does another size of the batch for the last step.
    """
    data = any(name.startswith("data.") for name in declared)
    budget = _last_words(declared, BUDGET)
    model = any(name.startswith("model.") for name in declared)
    evaluation = any(name.startswith("eval.") for name in declared)
    steps = _steps_declared((*a, *b), declared, mix_imported, mix_steps)
    return (
        *_origin(a, b, declared=bool(mix_imported)),
        _settings_check(a, b, declared, stateful),
        _by_seed("manifest", "manifest_hash", a, b, declared=data or budget),
        _overall("samples", lambda job: _number(job.facts.get("samples")), a, b, declared=budget),
        _overall(LAST_STEP, lambda job: _step(job, metric), a, b, declared=steps),
        *_seeds(metric, a, b),
        _compute(a, b, declared=budget or model),
        _overall("evaluation", lambda job: str(job.facts.get("eval_hash", "")), a, b, declared=evaluation),
        _overall("trainer's code", lambda job: job.code_hash, a, b),
        *_tuning(a, b),
        _by_seed("initial weights", "initial_weights_hash", a, b, declared=model, blocks=False),
        _overall("device", lambda job: str(job.facts.get("device", "")), a, b, blocks=False),
        _overall("world size", lambda job: str(job.facts.get("world_size", "")), a, b, blocks=False),
        _overall("versions", _versions, a, b, blocks=False),
    )


def ledger_of_one(
    jobs: Sequence[JobResult], declared: Collection[str], metric: str, mix_imported: str = "", mix_steps: str = ""
) -> tuple[Check, ...]:
    """The ledger of a run that is held against a number: what must be equal among its own seeds. `b` of its checks is empty."""
    return (
        *_origin(jobs, declared=bool(mix_imported)),
        _overall("samples", lambda job: _number(job.facts.get("samples")), jobs, declared=_last_words(declared, BUDGET)),
        _overall(
            LAST_STEP,
            lambda job: _step(job, metric),
            jobs,
            declared=_steps_declared(jobs, declared, mix_imported, mix_steps),
        ),
        *_seeds(metric, jobs),
        _overall("evaluation", lambda job: str(job.facts.get("eval_hash", "")), jobs),
        _overall("trainer's code", lambda job: job.code_hash, jobs),
        _overall("device", lambda job: str(job.facts.get("device", "")), jobs, blocks=False),
        _overall("world size", lambda job: str(job.facts.get("world_size", "")), jobs, blocks=False),
        _overall("versions", _versions, jobs, blocks=False),
    )


def _steps_declared(jobs: Collection[JobResult], declared: Collection[str], mix_imported: str, mix_steps: str) -> bool:
    """Whether the values of these jobs may have been taken at different steps."""
    mixed = len({job.imported for job in jobs}) > 1 and bool(mix_imported)
    return mixed or bool(mix_steps) or _last_words(declared, (*BUDGET, *BATCH))


def unfair(checks: Sequence[Check]) -> str:
    """Why these checks block every verdict; "" if they do not."""
    found = [_difference(check) for check in checks if check.unfair]
    return f"not fair: {'; '.join(found)}" if found else ""


def hints(checks: Sequence[Check]) -> tuple[str, ...]:
    """What may be behind a difference that blocks, and what to do."""
    return tuple(HINTS[check.name] for check in checks if check.unfair and check.name in HINTS)


def _difference(check: Check) -> str:
    if check.name == SEEDS:
        return f"the trainer does not use its seed: {' / '.join(text for text in (check.a, check.b) if text.startswith(ALIKE))}"
    return f"{check.name} differs{f': {check.a} / {check.b}' if check.b else f' between its seeds: {check.a}'}"


def _origin(*sides: Sequence[JobResult], declared: bool) -> tuple[Check, ...]:
    """Where results are from: asked where any was imported."""
    if not any(job.imported for jobs in sides for job in jobs):
        return ()
    return (_overall("origin", lambda job: "imported" if job.imported else "trained here", *sides, declared=declared),)


def _last_words(settings: Collection[str], words: Collection[str]) -> bool:
    return any(name.rsplit(".", 1)[-1] in words for name in settings)


def _step(job: JobResult, metric: str) -> str:
    """At which step its value was taken. A past result of which no steps are known was given step 0."""
    step = job.steps.get(metric)
    return "" if step is None or (job.imported and step == 0) else f"{step:,}"


def _seeds(metric: str, *sides: Sequence[JobResult]) -> tuple[Check, ...]:
    """Whether seeds made a difference to each run: asked where one has two or more."""
    texts = [_of_seeds(jobs, metric) for jobs in sides]
    if set(texts) == {ONE_SEED}:
        return ()
    return (Check(SEEDS, not any(text.startswith(ALIKE) for text in texts), *_both(texts)),)


def seedless(jobs: Sequence[JobResult], metric: str) -> str:
    """ "all 3 gave 0.5" of a run that is the same whatever its seed; "" of any other."""
    text = _of_seeds(jobs, metric)
    return text if text.startswith(ALIKE) else ""


def _of_seeds(jobs: Sequence[JobResult], metric: str) -> str:
    """ "all 3 gave 0.5", "they differ", "one seed".

    A coarse metric may give one value by chance; then another metric, the samples or the initial weights tell seeds apart.
    """
    done = [job for job in jobs if job.state == "done" and metric in job.values]
    if len(done) < 2:
        return ONE_SEED
    told = [{**job.values, **{fact: job.facts.get(fact) for fact in OF_SEED}} for job in done]
    alike = all(of_job == told[0] for of_job in told)
    return f"{ALIKE}{len(done)} gave {done[0].values[metric]:.6g}" if alike else "they differ"


def _settings_check(
    a: Sequence[JobResult], b: Sequence[JobResult], declared: Collection[str], stateful: Collection[str]
) -> Check:
    if not a or not b or not all(job.has_ledger for job in (*a, *b)):
        return Check("settings", None, "", "")
    left, right = a[0].settings, b[0].settings
    changed = [name for name in dict.fromkeys((*left, *right)) if name in stateful and left.get(name) != right.get(name)]
    beyond = [name for name in changed if name not in declared]
    shown = beyond or changed
    return Check("settings", not beyond, _settings_text(left, shown), _settings_text(right, shown))


def _settings_text(settings: Mapping[str, Any], names: Sequence[str]) -> str:
    return ", ".join(f"{name} = {settings[name]!r}" if name in settings else f"{name} not set" for name in names)


def _overall(
    name: str,
    read: Callable[[JobResult], str],
    *sides: Sequence[JobResult],
    declared: bool = False,
    blocks: bool = True,
) -> Check:
    """Equal when all jobs of both runs (or of the one) that report it, and are done, say the same."""
    said = [{text for job in jobs if job.state == "done" and (text := read(job))} for jobs in sides]
    ok = len(set().union(*said)) == 1 if all(said) else None
    return Check(name, ok, *_both([", ".join(sorted(texts)) for texts in said]), declared, blocks)


def _both(texts: Sequence[str]) -> tuple[str, str]:
    """Of a and of b; "" where there is no b."""
    return texts[0], texts[1] if len(texts) > 1 else ""


def _tuning(a: Sequence[JobResult], b: Sequence[JobResult]) -> tuple[Check, ...]:
    """How much was spent on looking for each run's settings: shown where any was tuned, blocks nothing."""
    left, right = ({str(job.facts.get(TUNED, "")) for job in jobs if job.state in ENDED} for jobs in (a, b))
    if not left or not right or left | right == {""}:
        return ()

    def said(budgets: Collection[str]) -> str:
        return " or ".join(f"tuned with {budget}" if budget else "not tuned" for budget in sorted(budgets))

    return (Check("tuning", left == right, said(left), said(right), blocks=False),)


OF_SEED = ("manifest_hash", "initial_weights_hash")
"""Facts in which the jobs of a run differ because their seeds do."""
COMPUTE = 0.02
"""Share by which two budgets of compute may differ and still count as equal: a run can only stop between two steps."""


def _compute(a: Sequence[JobResult], b: Sequence[JobResult], declared: bool) -> Check:
    """Equal when the FLOPs that jobs of both runs spent are the same within COMPUTE, on average; shown, blocks nothing."""
    spent = [[float(job.facts["flops"]) for job in jobs if job.state == "done" and "flops" in job.facts] for jobs in (a, b)]
    if not all(spent):
        return Check("FLOPs", None, "", "", declared, blocks=False)
    left, right = (fmean(of_run) for of_run in spent)
    return Check("FLOPs", abs(left - right) <= COMPUTE * max(left, right), f"{left:.3g}", f"{right:.3g}", declared, blocks=False)


def _by_seed(
    name: str, fact: str, a: Sequence[JobResult], b: Sequence[JobResult], declared: bool = False, blocks: bool = True
) -> Check:
    """Equal when jobs of the same seed say the same; without a common seed, when all jobs do."""
    left, right = (
        {job.seed: str(job.facts[fact]) for job in jobs if job.state in ENDED and fact in job.facts} for jobs in (a, b)
    )
    common = sorted(left.keys() & right.keys())
    if not common:
        return _overall(name, lambda job: str(job.facts.get(fact, "")), a, b, declared=declared, blocks=blocks)
    differing = next((seed for seed in common if left[seed] != right[seed]), None)
    shown = common[0] if differing is None else differing
    return Check(name, differing is None, left[shown], right[shown], declared, blocks)


def _versions(job: JobResult) -> str:
    return " ".join(f"{name} {version}" for name, version in sorted(job.facts.get("versions", {}).items()))


def _number(value: Any) -> str:
    return f"{value:,.0f}" if isinstance(value, int | float) else ""
