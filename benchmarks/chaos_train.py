"""The trainer of benchmarks/chaos.py: the example's; rows that set chaos.torch are two ranks of torch that need each other."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from examples.quick import train as quick

STEPS, SAVE_EVERY = 60, 10


def main() -> int:
    folder = Path(sys.argv[1])
    job = json.loads((folder / "config.json").read_text())
    if job["settings"]["chaos"]["torch"]:
        return train_with_torch(folder, job)
    return quick.train(folder) if os.environ.get("RANK", "0") == "0" else quick.wait_for_rank_0(folder)


def train_with_torch(folder: Path, job: dict[str, Any]) -> int:
    """Fit a line; every step all ranks agree on the gradient, on whether to stop, and wait for each other."""
    import torch  # only here: the other rows must start at once
    import torch.distributed as ranks

    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: told.append(1))
    torch.set_num_threads(1)
    ranks.init_process_group("gloo")
    rank = ranks.get_rank()
    weight, step = torch.zeros(2, dtype=torch.float64), 0
    if job["resume_from"]:
        state = json.loads((Path(job["resume_from"]) / "state.json").read_text())
        weight, step = torch.tensor(state["weight"], dtype=torch.float64), state["step"]
    with (folder / "metrics.jsonl").open("a") as log:
        while step < STEPS:
            draw = torch.Generator().manual_seed(1000 * job["seed"] + 10 * step + rank)
            x = torch.rand(32, generator=draw, dtype=torch.float64)
            error = weight[0] * x + weight[1] - (3 * x + 1)
            message = torch.stack(
                [(2 * error * x).mean(), 2 * error.mean(), error.square().mean(), torch.tensor(float(bool(told)))]
            )
            ranks.all_reduce(message)
            weight = weight - 0.1 * message[:2]
            step += 1
            metrics = {"loss": message[2].item() / 2, "progress": step / STEPS, "samples": 64 * step}
            if step == STEPS:
                metrics["val_loss"] = metrics["loss"]
            if rank == 0:
                log.write(json.dumps({"attempt": job["attempt"], "step": step, "metrics": metrics}) + "\n")
                log.flush()
            if rank == 0 and (message[3] > 0 or step % SAVE_EVERY == 0) and step < STEPS:
                save(folder, step, weight.tolist())
            if message[3] > 0 and step < STEPS:
                return quick.STOPPED
            time.sleep(0.02)
    if rank == 0:
        quick.write_json(folder / "result.json", {"outcome": "done", "reason": "", "facts": {"samples": 64 * STEPS}})
    return 0


def save(folder: Path, step: int, weight: list[float]) -> None:
    unfinished, complete = folder / "checkpoints" / f".{step:08d}", folder / "checkpoints" / f"{step:08d}"
    unfinished.mkdir(parents=True, exist_ok=True)
    quick.write_json(unfinished / "state.json", {"step": step, "weight": weight})
    if not complete.exists():
        unfinished.rename(complete)


if __name__ == "__main__":
    sys.exit(main())
