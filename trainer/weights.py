"""Where a model called by name lies on this machine. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

WEIGHTS = Path("weights")


def local_folder(name: str) -> Path | None:
    """A folder in `from_pretrained` layout: NAME itself, weights/NAME, or the Hugging Face cache; None when it is in none."""
    for folder in (Path(name), WEIGHTS / name):
        if (folder / "config.json").is_file():
            return folder
    cached = try_to_load_from_cache(name, "config.json") if name.count("/") == 1 and not name.startswith((".", "/")) else None
    return Path(cached).parent if isinstance(cached, str) else None
