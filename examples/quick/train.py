"""A trainer that needs nothing but Python: the folder contract in full, on a network of a few dozen numbers.

    python -m examples.quick.train FOLDER

Start here to write your own. It reads FOLDER/config.json, appends a line to metrics.jsonl per step, saves checkpoints, says what
it knows about itself in facts.json, and ends with result.json. Ask it to stop (SIGTERM) and it saves first; start it with
`resume_from` and it goes on as if it had never stopped, to the last bit.

What is learnt: two kinds of surface over the square [-1, 1]², `waves` and `steps`, by a hidden layer and a readout. Rank 0 does
all of it; other ranks are there because a job may have several, and wait.

Letters: B samples of a batch, H hidden units, I = 3 inputs (x, y, kind).
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

INPUTS = 3
STOPPED = 143
"""Exit code after SIGTERM: a checkpoint is written, a result is not."""
DIVERGED_LOSS = 1e3
MANIFEST_SEED = 7
"""The samples are the study's, not the job's: a job's seed only orders them and draws the first weights."""


@dataclass(frozen=True)
class Model:
    units: int
    """H."""
    curved: bool
    """Hidden units bend (tanh); without it the network is a plane."""
    rounded_inputs: bool
    """See x and y rounded to halves."""
    freeze_hidden: bool
    """The hidden layer stays as drawn."""
    freeze_bias: bool
    """The hidden layer's biases stay as drawn."""


@dataclass(frozen=True)
class Optim:
    lr: float
    """Of the hidden layer."""
    readout_ratio: float
    """The readout learns this many times faster."""
    momentum: float


@dataclass(frozen=True)
class Training:
    samples: int
    batch: int
    flops: str
    """"own": stop at `samples`. "as F3": stop where run F3 has spent its compute."""
    save_every: int
    """Steps."""


@dataclass(frozen=True)
class Data:
    mix: Mapping[str, float]
    """Share of waves and steps."""
    repeat_steps: int
    """Every sample of kind steps is shown this often, in place of others."""


@dataclass(frozen=True)
class Faults:
    """To try out what happens when things go wrong."""

    crash_at_step: int
    """0: never."""
    crash_attempts: int
    """How many attempts crash before one gets through."""
    seconds: float
    """Take at least so long."""


@dataclass(frozen=True)
class Config:
    model: Model
    optim: Optim
    train: Training
    data: Data
    faults: Faults

    @classmethod
    def read(cls, settings: Mapping[str, Mapping[str, Any]]) -> Config:
        parts = {"model": Model, "optim": Optim, "train": Training, "data": Data, "faults": Faults}
        return cls(**{name: _typed(part, name, settings.get(name, {})) for name, part in parts.items()})


@dataclass
class Network:
    """The weights, or the momentum or gradient of each."""

    hidden: list[list[float]]
    """[H, I]."""
    bias: list[float]
    """[H]."""
    readout: list[float]
    """[H]."""
    offset: float


Sample = tuple[float, float, str, float]
"""x, y, kind, height."""


def train(folder: Path) -> int:
    """Train the job in `folder`; the exit code."""
    job = json.loads((folder / "config.json").read_text())
    config = Config.read(job["settings"])
    stop = _StopSign()
    order = random.Random(job["seed"])
    network = draw_network(config.model, order)
    speed = zeros(config.model.units)
    samples = budget(config, job["references"])
    batches = list(draw_batches(manifest(config.data, samples), config.train.batch, order))
    held_out = manifest(Data({"waves": 0.5, "steps": 0.5}, 1), 400, seed=MANIFEST_SEED + 1)
    write_json(folder / "facts.json", facts(config, network, batches, held_out, samples))

    step = 0
    if job["resume_from"]:
        state = json.loads((Path(job["resume_from"]) / "state.json").read_text())
        step, network, speed = state["step"], Network(**state["network"]), Network(**state["speed"])
    started = time.monotonic()
    first = step
    with (folder / "metrics.jsonl").open("a") as log:
        for batch in batches[step:]:
            share = step / len(batches)
            loss = learn(network, speed, batch, config, rate=0.5 * (1 + math.cos(math.pi * share)))
            step += 1
            metrics = {"loss": loss, "progress": step / len(batches), "samples": min(samples, step * config.train.batch)}
            diverged = not loss < DIVERGED_LOSS
            if step == len(batches) or step % max(1, len(batches) // 4) == 0:
                metrics |= evaluate(network, config.model, held_out)
            log.write(json.dumps({"attempt": job["attempt"], "step": step, "metrics": metrics}) + "\n")
            log.flush()
            if diverged:
                break
            stops = stop.seen and step < len(batches)  # told so after its last step, it has ended
            if stops or (step % config.train.save_every == 0 and step < len(batches)):
                save(folder, step, network, speed)
            if stops:
                return STOPPED
            if step == config.faults.crash_at_step and job["attempt"] <= config.faults.crash_attempts:
                raise RuntimeError(f"asked to crash at step {step} (faults.crash_at_step)")
            stop.sleep_until(started + config.faults.seconds * (step - first) / len(batches))
    outcome, reason = ("diverged", f"loss {loss:.3g} at step {step}") if diverged else ("done", "")
    spent = {"samples": min(samples, step * config.train.batch), "wall_s": time.monotonic() - started}
    spent["flops"] = spent["samples"] * flops_per_sample(config.model)
    write_json(folder / "result.json", {"outcome": outcome, "reason": reason, "facts": spent})
    return 0


def wait_for_rank_0(folder: Path) -> int:
    """What the other ranks do."""
    stop = _StopSign()
    while not (folder / "result.json").exists():
        stop.sleep_until(time.monotonic() + 0.05)
        if stop.seen:
            return STOPPED
    return 0


def learn(network: Network, speed: Network, batch: Sequence[Sample], config: Config, rate: float) -> float:
    """One step of gradient descent with momentum on a batch [B]; returns its mean squared error before the step."""
    model = config.model
    slope = zeros(model.units)
    total = 0.0
    for sample in batch:
        inputs, height = see(sample, model), sample[3]
        active = hidden(network, inputs, model)  # [H]
        error = height_of(network, active) - height
        total += error * error
        back = 2.0 * error / len(batch)
        slope.offset += back
        for unit in range(model.units):
            slope.readout[unit] += back * active[unit]
            inner = back * network.readout[unit] * ((1.0 - active[unit] ** 2) if model.curved else 1.0)
            slope.bias[unit] += inner
            for i in range(INPUTS):
                slope.hidden[unit][i] += inner * inputs[i]
    lr, momentum = config.optim.lr * rate, config.optim.momentum
    fast = lr * config.optim.readout_ratio
    descend(network.readout, speed.readout, slope.readout, fast, momentum)
    speed.offset = momentum * speed.offset - fast * slope.offset
    network.offset += speed.offset
    if not model.freeze_hidden:
        for weights, pace, grade in zip(network.hidden, speed.hidden, slope.hidden, strict=True):
            descend(weights, pace, grade, lr, momentum)
        if not model.freeze_bias:
            descend(network.bias, speed.bias, slope.bias, lr, momentum)
    return total / len(batch)


def descend(weights: list[float], speed: list[float], slope: Sequence[float], lr: float, momentum: float) -> None:
    for i, grade in enumerate(slope):
        speed[i] = momentum * speed[i] - lr * grade
        weights[i] += speed[i]


def see(sample: Sample, model: Model) -> tuple[float, float, float]:
    x, y, kind, _ = sample
    if model.rounded_inputs:
        x, y = round(2 * x) / 2, round(2 * y) / 2
    return x, y, 1.0 if kind == "waves" else -1.0


def hidden(network: Network, inputs: Sequence[float], model: Model) -> list[float]:
    """[I] -> [H]."""
    a, b, c = inputs
    sums = [w[0] * a + w[1] * b + w[2] * c + bias for w, bias in zip(network.hidden, network.bias, strict=True)]
    return [math.tanh(s) for s in sums] if model.curved else sums


def height_of(network: Network, active: Sequence[float]) -> float:
    return sum(w * a for w, a in zip(network.readout, active, strict=True)) + network.offset


def evaluate(network: Network, model: Model, held_out: Sequence[Sample]) -> dict[str, float]:
    """Mean squared errors on held-out samples, by kind too; how much seeing exactly is worth; hits on steps within 0.25."""
    rounding = Model(**{**asdict(model), "rounded_inputs": True})
    exact = {kind: errors(network, model, [s for s in held_out if s[2] == kind]) for kind in ("waves", "steps")}
    blurred = errors(network, rounding, held_out)
    total = sum(map(sum, exact.values()))
    return {
        "val_loss": total / len(held_out),
        "val_loss/waves": sum(exact["waves"]) / len(exact["waves"]),
        "val_loss/steps": sum(exact["steps"]) / len(exact["steps"]),
        "loss_ratio": total / sum(blurred),
        "hits": sum(error < 0.25**2 for error in exact["steps"]) / len(exact["steps"]),
    }


def errors(network: Network, model: Model, samples: Sequence[Sample]) -> list[float]:
    """Squared, per sample."""
    return [(height_of(network, hidden(network, see(sample, model), model)) - sample[3]) ** 2 for sample in samples]


def manifest(data: Data, samples: int, seed: int = MANIFEST_SEED) -> list[Sample]:
    """The samples a run sees, in no order yet. The same settings give the same samples, whatever the job's seed."""
    draw = random.Random(seed)
    seen: list[Sample] = []
    total = sum(data.mix.values())
    while len(seen) < samples:
        kind = "waves" if draw.random() * total < data.mix.get("waves", 0.0) else "steps"
        x, y = draw.uniform(-1, 1), draw.uniform(-1, 1)
        height = math.sin(4 * x) * y if kind == "waves" else math.tanh(6 * (x - y))
        sample = (x, y, kind, height + draw.gauss(0, 0.1))
        seen += [sample] * (data.repeat_steps if kind == "steps" else 1)
    return seen[:samples]


def draw_batches(samples: Sequence[Sample], batch: int, order: random.Random) -> Iterator[list[Sample]]:
    shuffled = order.sample(samples, len(samples))
    for start in range(0, len(shuffled), batch):
        yield shuffled[start : start + batch]


def draw_network(model: Model, draw: random.Random) -> Network:
    weights = [[draw.gauss(0, 0.5) for _ in range(INPUTS)] for _ in range(model.units)]
    bias = [draw.gauss(0, 0.5) for _ in range(model.units)]
    return Network(weights, bias, [draw.gauss(0, 0.3) for _ in range(model.units)], 0.0)


def zeros(units: int) -> Network:
    return Network([[0.0] * INPUTS for _ in range(units)], [0.0] * units, [0.0] * units, 0.0)


def flops_per_sample(model: Model) -> int:
    """Two per weight forward, four backward."""
    return 6 * model.units * (INPUTS + 2)


def budget(config: Config, references: Mapping[str, Mapping[str, Any]]) -> int:
    """Samples to see."""
    if not config.train.flops.startswith("as "):
        return config.train.samples
    other = Config.read(references[config.train.flops[3:]])
    return other.train.samples * flops_per_sample(other.model) // flops_per_sample(config.model)


def facts(
    config: Config, network: Network, batches: Sequence[Sequence[Sample]], held_out: Sequence[Sample], samples: int
) -> dict[str, Any]:
    """What comparisons check: that two runs saw the same samples, were measured on the same ones, and began alike."""
    heights = [sample[3] for sample in held_out]
    mean = sum(heights) / len(heights)
    return {
        "manifest_hash": hashed(sorted(sample for batch in batches for sample in batch)),
        "eval_hash": hashed(held_out),
        "first_batches_hash": hashed(batches[:8]),
        "initial_weights_hash": hashed(asdict(network)),
        "samples_planned": samples,
        "flops_per_sample": flops_per_sample(config.model),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "device": "cpu",
        "versions": {"python": sys.version.split()[0]},
        "uninformed": {"val_loss": sum((height - mean) ** 2 for height in heights) / len(heights)},
    }


def save(folder: Path, step: int, network: Network, speed: Network) -> None:
    """A checkpoint is complete as soon as it has its name; the one before it goes then."""
    place = folder / "checkpoints"
    older = list(place.glob("[0-9]*"))
    unfinished = place / f".{step:08d}"
    unfinished.mkdir(parents=True, exist_ok=True)
    write_json(unfinished / "state.json", {"step": step, "network": asdict(network), "speed": asdict(speed)})
    if not (place / f"{step:08d}").exists():
        unfinished.rename(place / f"{step:08d}")
    for checkpoint in older:
        if checkpoint.name != f"{step:08d}":
            shutil.rmtree(checkpoint)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(value))
    new.replace(path)


def hashed(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


class _StopSign:
    """Notes SIGTERM, so that the loop can end between two steps."""

    def __init__(self) -> None:
        self.seen = False
        signal.signal(signal.SIGTERM, self._note)

    def sleep_until(self, moment: float) -> None:
        """On the monotonic clock; less when the sign comes."""
        while not self.seen and (left := moment - time.monotonic()) > 0:
            time.sleep(min(left, 0.05))

    def _note(self, *_: object) -> None:
        self.seen = True


def _typed(part: type, name: str, values: Mapping[str, Any]) -> Any:
    known = {field.name for field in fields(part)}
    if set(values) != known:
        wrong = sorted(set(values) ^ known)
        raise SystemExit(f"config.json: settings of {name!r} are {sorted(known)}; missing or unknown: {wrong}")
    return part(**values)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m examples.quick.train FOLDER")
    attempt = Path(sys.argv[1])
    sys.exit(train(attempt) if os.environ.get("RANK", "0") == "0" else wait_for_rank_0(attempt))
