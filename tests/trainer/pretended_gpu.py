"""A training step on a GPU that computes nothing (`pretended_gpu.cpp`), for every case that the benchmark has.

    python -m tests.trainer.pretended_gpu LIBRARY

Fake tensors raise where a step mixes devices, and where it needs a number that only the device has: where it would wait. Prints
what each case needed: {case: {"waits in": the function that wants a number, "products in": dtypes of the matrix products}}.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

TORCH = importlib.util.find_spec("torch")
assert TORCH is not None
assert TORCH.origin is not None
for name in ("libc10.so", "libtorch_cpu.so"):
    ctypes.CDLL(str(Path(TORCH.origin).parent / "lib" / name), mode=ctypes.RTLD_GLOBAL)
ctypes.CDLL(sys.argv[1])

import torch  # noqa: E402  # the library first
from torch import Tensor, nn  # noqa: E402
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import trainer.feed as feed  # noqa: E402
from benchmarks.cases import Case, cases, model_of, random_batch, shapes_called  # noqa: E402
from trainer.config import OptimConfig, TrainConfig, TrainingConfig  # noqa: E402
from trainer.model.packing import Packed, pack  # noqa: E402
from trainer.optim import build_optimizer  # noqa: E402
from trainer.ranks import Ranks  # noqa: E402
from trainer.step import Clock, StepPlan, accumulate, update  # noqa: E402

TRAINER = Path(feed.__file__).parent
GPU = torch.device("cuda", 0)
SHAPES = shapes_called("tiny")
LINEAR = {torch.ops.aten.mm, torch.ops.aten.addmm}
CASES = {
    "F3, mixture": {"activation_checkpointing": True},
    "F1, mixture": {},
    "B1, mixture": {},
    "A8b, images": {},
}
"""And the settings that each is tried with."""


class Watched(TorchDispatchMode):
    """Which numbers the linear maps of a step are computed in; nothing may be copied to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.products: set[str] = set()

    def __torch_dispatch__(
        self, operation: Any, types: Any, given: Sequence[Any] = (), named: Mapping[str, Any] | None = None
    ) -> Any:
        if operation is torch.ops.aten._foreach_mul_.Tensor and given[0][0].dtype != given[1].dtype:
            raise RuntimeError("gradients are multiplied by a number of another type: one after the other, on a GPU")
        made = operation(*given, **(named or {}))
        if operation.overloadpacket in LINEAR:
            self.products.add(str(made.dtype).removeprefix("torch."))
        if (
            isinstance(made, Tensor)
            and made.device.type == "cpu"
            and any(isinstance(x, Tensor) and x.device == GPU for x in given)
        ):
            raise RuntimeError(f"{operation} brings a tensor of {tuple(made.shape)} to the host")
        return made


class PackedAlready:
    """A `Feed` of the same micro-batch again and again."""

    def __init__(self, packed: Packed) -> None:
        self._packed = packed

    def take(self) -> Packed:
        return self._packed

    def prepare(self) -> None:
        """Nothing to do ahead."""


def step(case: Case, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Two steps, so that the optimiser has its moments."""
    model, batch = model_of(case, SHAPES), random_batch(case, SHAPES)
    fake = FakeTensorMode()

    def moved(tensor: Tensor) -> Tensor:
        with fake:
            return fake.from_tensor(tensor).to(GPU)

    _move(model, moved)
    assert batch.look is not None
    packed = pack(replace(batch, look=None), model.connector.tokens_per_frame, torch.device("cpu"))._each(moved)
    config = TrainConfig(train=TrainingConfig(precision="bfloat16", **settings))
    ranks, trained = Ranks(0, 1, GPU), [p for p in model.parameters() if p.requires_grad]
    watched, waits = Watched(), []
    with fake, watched:
        packed = replace(packed, frames=batch.look.normalised(packed.frames))
        optimizer = build_optimizer(model.parts(), model, OptimConfig())
        for _ in range(2):
            again = cast(feed.Feed, PackedAlready(packed))
            sums = accumulate(model, model, again, StepPlan((batch.rows,), 0, False), config, ranks, Clock())
            try:
                update(sums.over(ranks), optimizer, trained, config, ranks)
            except DataDependentOutputException as error:
                ours = [f.name for f in traceback.extract_tb(error.__traceback__) if Path(f.filename).is_relative_to(TRAINER)]
                waits.append(ours[-1])
    assert all(p.grad is None for p in trained), "the gradients are forgotten before anybody waits"
    assert all(optimizer.state[p]["exp_avg"].device == GPU for p in trained)
    return {"waits in": waits, "products in": sorted(watched.products)}


def _move(model: nn.Module, moved: Any) -> None:
    """Parameters and buffers, those that two modules share as one."""
    parameters: dict[nn.Parameter, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if parameter not in parameters:
                parameters[parameter] = nn.Parameter(moved(parameter.detach()), requires_grad=parameter.requires_grad)
            setattr(module, name, parameters[parameter])
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, moved(buffer))


def main() -> None:
    torch.cuda.amp.common.amp_definitely_not_available = lambda: False  # else autocast is off where torch has no GPU
    torch.cuda.is_bf16_supported = lambda *_: True  # type: ignore[method-assign, assignment]
    Tensor.pin_memory = lambda tensor: tensor  # type: ignore[method-assign, assignment]
    print(json.dumps({case.name: step(case, CASES[case.name]) for case in cases(SHAPES, 6) if case.name in CASES}))


if __name__ == "__main__":
    main()
