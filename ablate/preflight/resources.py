"""What this machine has of what a study needs: GPUs, disk, weights, data, wandb. Reads, downloads nothing, imports no framework.

Nothing here is an error: a study may be planned on one machine and launched on another.
"""

from __future__ import annotations

import ctypes
import netrc
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ablate.answers.document import count
from ablate.folders import Folders
from ablate.study import Study

What = Literal["gpus", "disk", "weights", "data", "wandb"]
Level = Literal["", "note", "flag"]

WEIGHTS = ("model.vision", "model.language")
"""Settings that name weights: a folder, weights/NAME, tiny/NAME (made on first use), or NAME on the Hugging Face hub."""
DATA = "data.root"
VALIDATION = "eval.set"
STATE_PER_WEIGHT = 3
"""A checkpoint holds the weights and two moments of Adam."""
SPARE = 1.2
"""Free disk should exceed the estimate by this factor."""


@dataclass(frozen=True)
class Resource:
    what: What
    name: str
    level: Level
    says: str


def resources(study: Study, folders: Folders, jobs_to_come: int) -> tuple[Resource, ...]:
    """In the order a launch would miss them."""
    cache = folders.cache
    found = [
        _gpus(study),
        *_weights(study, cache),
        *_data(study, cache),
        _disk(study, folders, jobs_to_come),
        _wandb(study, os.environ),
    ]
    return tuple(one for one in found if one)


# ---------------------------------------------------------------- GPUs


def _gpus(study: Study) -> Resource:
    wanted = f"a job takes {study.gpus_per_run}"
    memory = nvidia_gpus()
    if memory is None:
        says = f"{wanted}; NVML is not here, so no NVIDIA GPU is: jobs train on the CPU, on logical GPUs (--gpus N)"
        return Resource("gpus", "", "note", says)
    sizes = ", ".join(f"{gib:.0f} GiB" for gib in memory)
    says = f"{wanted}, this machine has {len(memory)}{f' ({sizes})' if sizes else ''}"
    return Resource("gpus", "", "flag" if len(memory) < study.gpus_per_run else "", says)


def nvidia_gpus(library: str = "libnvidia-ml.so.1") -> tuple[float, ...] | None:
    """Memory in GiB of every NVIDIA GPU here, from NVML; None where that is not installed or does not answer."""
    try:
        nvml = ctypes.CDLL(library)
    except OSError:
        return None
    if nvml.nvmlInit_v2():
        return None
    try:
        count = ctypes.c_uint()
        if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)):
            return None
        return tuple(_memory_gib(nvml, number) for number in range(count.value))
    finally:
        nvml.nvmlShutdown()


class _Memory(ctypes.Structure):
    """nvmlMemory_t, in bytes."""

    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def _memory_gib(nvml: ctypes.CDLL, number: int) -> float:
    """0 when the GPU does not tell."""
    handle, memory = ctypes.c_void_p(), _Memory()
    if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(number), ctypes.byref(handle)):
        return 0.0
    if nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory)):
        return 0.0
    return int(memory.total) / 2**30


# ---------------------------------------------------------------- weights, data


def _weights(study: Study, cache: Path) -> Iterator[Resource]:
    for setting in WEIGHTS:
        name = study.settings.get(setting)
        if isinstance(name, str) and name:
            found = weights_folder(study, name, cache)
            if found is not None and not any(found.glob("*.safetensors")):
                says = f"{setting}: {found} has no *.safetensors (weights in other files are not read); a download broken off?"
                yield Resource("weights", name, "flag", f"{says} Again: hf download {name} --local-dir weights/{name}")
            elif found is not None:
                yield Resource("weights", name, "", f"{setting}: in {found} ({_size(_bytes_below(found))})")
            elif name.startswith("tiny/"):
                yield Resource(
                    "weights",
                    name,
                    "note",
                    f"{setting}: not made yet; `python -m trainer.data.prepare` makes it, or the first job",
                )
            else:
                says = f"{setting}: not here; where there is a network: hf download {name} --local-dir weights/{name}"
                yield Resource("weights", name, "flag", says)


def weights_folder(study: Study, name: str, cache: Path) -> Path | None:
    """Where weights of this name lie, looked for as a trainer would: made here, a folder, weights/NAME, the hub's cache."""
    if name.startswith("tiny/"):
        made = [
            path for path in sorted((cache / "tiny").glob(f"{name.removeprefix('tiny/')}-*")) if (path / "config.json").is_file()
        ]
        kinds = [path for path in made if "-" not in path.name.removeprefix(f"{name.removeprefix('tiny/')}-")]
        return kinds[-1] if kinds else None
    root = study.path.parent
    for folder in (root / name, root / "weights" / name):
        if (folder / "config.json").is_file():
            return folder
    snapshots = hub_cache(os.environ) / f"models--{name.replace('/', '--')}" / "snapshots"
    return next((path for path in sorted(snapshots.glob("*")) if (path / "config.json").is_file()), None)


def hub_cache(environ: Mapping[str, str]) -> Path:
    """The Hugging Face hub's local cache (its variables HF_HUB_CACHE, HF_HOME, XDG_CACHE_HOME)."""
    if environ.get("HF_HUB_CACHE"):
        return Path(environ["HF_HUB_CACHE"])
    home = environ.get("HF_HOME") or str(Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "huggingface")
    return Path(home) / "hub"


def _data(study: Study, cache: Path) -> Iterator[Resource]:
    said = study.settings.get(DATA)
    if not isinstance(said, str):
        return
    root = study.path.parent / said
    if not (root / "shards").is_dir():
        yield Resource("data", said, "flag", f"{DATA}: there is no {root / 'shards'}")
        return
    shards = sum(1 for _ in (root / "shards").glob("*.tar"))
    yield Resource("data", said, "", f"{DATA}: {count(shards, 'shard')} ({_size(_bytes_below(root / 'shards'))})")
    changes = [*(start.changes for start in study.starts.values()), *(run.changes for run in study.runs.values())]
    for name in dict.fromkeys(settings.get(VALIDATION) for settings in (study.settings, *changes)):
        if isinstance(name, str):
            yield _held_out(root, name, cache)


def _held_out(root: Path, name: str, cache: Path) -> Resource:
    """Whether the validation set is there, and whether what was drawn for training from this folder leaves it out."""
    path = root / "manifests" / f"{name}.parquet"
    if not path.is_file():
        known = sorted(one.stem for one in path.parent.glob("*.parquet"))
        return Resource("data", name, "flag", f"{VALIDATION}: there is no {path}; sets there: {', '.join(known) or 'none'}")
    import pyarrow.parquet as pq  # the other checks need not wait for it

    held_out = set(pq.read_table(path, columns=["content"])["content"].to_pylist())
    from_here = os.path.relpath(root.resolve(), cache.resolve()).encode()
    files = sorted((cache / "manifests").glob("*.parquet"))
    drawn = [file for file in files if (pq.read_schema(file).metadata or {}).get(b"root") == from_here]
    for manifest in drawn:
        if shared := len(held_out & set(pq.read_table(manifest, columns=["content"])["content"].to_pylist())):
            says = (
                f"{shared} of {len(held_out):,} held-out contents are in {manifest} too, drawn before this set was: a job that "
                "trained on it and is judged by this set has seen the answers"
            )
            return Resource("data", name, "flag", f"{VALIDATION}: {says}")
    seen = f"none is in the {len(drawn)} training manifests drawn so far" if drawn else "no training manifest is drawn yet"
    return Resource("data", name, "", f"{VALIDATION}: {len(held_out):,} contents held out; {seen}")


# ---------------------------------------------------------------- disk, wandb


def _disk(study: Study, folders: Folders, jobs: int) -> Resource:
    place = next(path for path in (folders.root, *folders.root.parents) if path.exists())
    free = shutil.disk_usage(place).free
    each, source = _bytes_of_a_job(study, folders)
    if each is None:
        return Resource(
            "disk", str(folders.root), "note", f"{_size(free)} free; what a job needs is not known before one has ended"
        )
    need = "needs" if jobs == 1 else "need"
    says = f"{_size(free)} free; {count(jobs, 'job')} to come {need} about {_size(jobs * each)} ({source})"
    return Resource("disk", str(folders.root), "flag" if free < SPARE * jobs * each else "", says)


def _bytes_of_a_job(study: Study, folders: Folders) -> tuple[int | None, str]:
    """What a job leaves behind: measured, else guessed from its checkpoints."""
    ended = [folders.job(key) for key in folders.job_keys()]
    ended = [folder for folder in ended if any(folder.glob("*/result.json"))]
    if ended:
        return sum(_bytes_below(folder) for folder in ended) // len(ended), f"as the {len(ended)} that ended"
    names = [name for setting in WEIGHTS if isinstance(name := study.settings.get(setting), str)]
    places = [weights_folder(study, name, folders.cache) for name in names]
    if not places or None in places:
        return None, ""
    weights = sum(_bytes_below(place) for place in places if place is not None)
    kept = study.settings.get("train.keep_checkpoints", 1)
    kept = kept if isinstance(kept, int) else 1
    return weights * STATE_PER_WEIGHT * kept, f"{kept} checkpoints of {STATE_PER_WEIGHT} × the weights each"


def _wandb(study: Study, environ: Mapping[str, str]) -> Resource | None:
    if not study.wandb:
        return None
    mode = environ.get("WANDB_MODE", "")
    if mode == "disabled":
        return Resource("wandb", "", "note", "switched off by WANDB_MODE")
    if mode == "offline":
        return Resource("wandb", "", "", "offline, as WANDB_MODE says: runs are written here, `wandb sync` sends them")
    if _wandb_key(environ):
        return Resource("wandb", "", "", "a key is here: runs are mirrored while they train")
    return Resource("wandb", "", "note", "no key: runs are written offline, `wandb sync` sends them; `wandb login` sets one")


def _wandb_key(environ: Mapping[str, str]) -> bool:
    """Whether there is one; never what it is."""
    if environ.get("WANDB_API_KEY") or environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    path = Path(environ.get("NETRC") or Path.home() / ".netrc")
    try:
        return path.is_file() and netrc.netrc(path).authenticators("api.wandb.ai") is not None
    except (netrc.NetrcParseError, OSError):
        return False


def _bytes_below(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
