"""Where a model called by name lies on this machine. Nothing is downloaded."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import try_to_load_from_cache

from trainer.config import ConfigError

WEIGHTS = Path("weights")


def local_folder(name: str, file: str = "config.json") -> Path | None:
    """The folder of `name` that has `file`: NAME itself, weights/NAME, or in the Hugging Face cache; None when none has it."""
    for folder in (Path(name), WEIGHTS / name):
        if (folder / file).is_file():
            return folder
    cached = try_to_load_from_cache(name, file) if _of_the_hub(name) else None
    return Path(cached).parent if isinstance(cached, str) else None


def found_folder(named: str, name: str, *files: str) -> Path:
    """The folder of `name` that holds all `files` (patterns, but the first).

    named: begins the message. Raises ConfigError saying what is missing, what to download and where to put it.
    """
    folder = local_folder(name, files[0])
    if folder is None:
        places = f"{name}/, in weights/{name}/ and in the Hugging Face cache" if _of_the_hub(name) else f"{name}/"
        raise ConfigError(f"{named}: no such model; looked for {files[0]} in {places}. {_remedy(name, 'Download it')}")
    missing = [file for file in files if not any(folder.glob(file))]
    if missing:
        raise ConfigError(
            f"{named}: {folder} has no {', '.join(missing)} (weights in other files are not read); a download broken off? "
            f"{_remedy(name, 'Download it again')}"
        )
    return folder


def _remedy(name: str, do: str) -> str:
    if _of_the_hub(name):
        return f"{do} where there is a network: hf download {name} --local-dir weights/{name}"
    return "Give a folder in `from_pretrained` layout, or a name on the Hugging Face hub"


def _of_the_hub(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/"))
