"""Draw manifests ahead of a study, so that its jobs start at once.

    python -m trainer.data.manifests validation val_10k --root data/full --mix video=0.40,image=0.46,text=0.14
    python -m trainer.data.manifests training --cache outputs/.cache < settings.json

A validation set is drawn once and stays: every number is measured on it. A training manifest follows from the settings; here it
is drawn and its texts are tokenised before GPUs are booked. settings.json: {"F3": {"data": {"mix": {…}}, …}, …}, nested, by run.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from trainer.config import ConfigError, DataConfig, ModelConfig, TrainConfig
from trainer.data.inventory import configs
from trainer.data.manifest import SCHEMA, Manifest, draw, validation, write_table
from trainer.data.open import pool_of, texts_of, training
from trainer.data.shards import KINDS, DataError
from trainer.data.tokenizer import load_tokenizer

DRAWN = b"drawn"


def draw_validation(
    root: Path, name: str, mix: Mapping[str, float], samples: int, seed: int, language: str, cache: Path, most_tokens: int
) -> dict[str, Any]:
    """Draw ROOT/manifests/NAME.parquet: videos, then images, then texts; the same arguments give the same samples.

    Raises DataError when a set of this name holds other samples: it is never overwritten.
    """
    pool = pool_of(root, cache, load_tokenizer(language, cache), most_tokens)
    rows = draw(pool, SCHEMA.empty_table(), mix, samples, seed)
    rows = pa.concat_tables([rows.filter(pc.equal(rows["kind"], kind)) for kind in KINDS]).combine_chunks()
    manifest, path = Manifest(rows), root / "manifests" / f"{name}.parquet"
    if path.exists() and validation(root, name).hash != manifest.hash:
        raise DataError(
            f"{path} holds other samples than this draw (hash {validation(root, name).hash} against {manifest.hash}); results "
            "measured on it would mean something else. Give the new set another name, or remove the file yourself"
        )
    if not path.exists():
        said = {"seed": seed, "mix": dict(mix), "samples": samples}
        write_table(path, rows.replace_schema_metadata({DRAWN: json.dumps(said).encode()}))
    return {"name": name, "path": str(path), **contents(manifest)}


def draw_training(runs: Mapping[str, TrainConfig], cache: Path) -> list[dict[str, Any]]:
    """Draw and tokenise the manifests of these runs, each once; tells which runs share one."""
    found: dict[str, dict[str, Any]] = {}
    for run, config in runs.items():
        tokenizer = load_tokenizer(config.model.language, cache)
        held_out = validation(Path(config.data.root), config.eval.set)
        texts_of(held_out, config, tokenizer, cache)
        manifest, _ = training(config, tokenizer, cache)
        told = found.setdefault(
            manifest.hash, {"runs": [], "eval": config.eval.set, "eval_hash": held_out.hash, **contents(manifest)}
        )
        told["runs"].append(run)
    return list(found.values())


def contents(manifest: Manifest) -> dict[str, Any]:
    """What a manifest holds: hash, samples, how many of them stand there again, frames, tokens, and samples per kind/source."""
    pairs = manifest.table.group_by(["kind", "source"]).aggregate([("frames", "count")])
    columns = (pairs[name].to_pylist() for name in ("kind", "source", "frames_count"))
    named = manifest.table.group_by(["source", "key"]).aggregate([]).num_rows
    tokens = {} if manifest.tokens is None else {"tokens": int(manifest.tokens.sum())}
    return {
        "hash": manifest.hash,
        "samples": len(manifest),
        "again": len(manifest) - named,
        "frames": int(manifest.frames.sum()),
        **tokens,
        "kinds": {kind: manifest.kinds.count(kind) for kind in KINDS if kind in manifest.kinds},
        "sources": dict(sorted((f"{kind}/{source}", count) for kind, source, count in zip(*columns, strict=True))),
    }


def read_mix(said: str) -> dict[str, float]:
    """ "video=0.40,image/cauldron=0.60" → shares. Raises ConfigError unless they sum to 1."""
    shares: dict[str, float] = {}
    for piece in said.split(","):
        name, _, share = piece.partition("=")
        try:
            shares[name.strip()] = float(share)
        except ValueError as error:
            raise ConfigError(f"--mix {said!r}: {piece!r} is not NAME=SHARE, as in video=0.40,image=0.46,text=0.14") from error
    if any(share <= 0 for share in shares.values()) or abs(sum(shares.values()) - 1) > 1e-6:
        raise ConfigError(f"--mix {said!r}: shares must be above 0 and sum to 1 (they sum to {sum(shares.values()):g})")
    return shares


def told(manifest: Mapping[str, Any]) -> str:
    """A manifest in one line."""
    kinds = ", ".join(f"{count} {kind}" for kind, count in manifest["kinds"].items())
    again = f"; {manifest['again']} of them again" if manifest["again"] else "; none twice"
    return f"{manifest['samples']} samples ({kinds}{again}), {manifest['frames']} frames, hash {manifest['hash']}"


def _read_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m trainer.data.manifests")
    parser.add_argument("--cache", type=Path, default=Path("outputs/.cache"), help="folder shared by all jobs of a checkout")
    parser.add_argument("--json", action="store_true", help="print a document")
    which = parser.add_subparsers(dest="which", required=True)
    which.add_parser("training", help="the manifests of the runs whose settings stand on stdin")
    held = which.add_parser("validation", help="a validation set, drawn once")
    held.add_argument("name", help="as eval.set names it")
    held.add_argument("--root", type=Path, default=Path(DataConfig.root), help="the data folder")
    held.add_argument("--samples", type=int, default=10_000)
    held.add_argument("--seed", type=int, default=0, help="of the draw")
    held.add_argument("--mix", default="video=0.40,image=0.46,text=0.14", help="share per kind, or per source as image/cauldron")
    held.add_argument("--tokenizer", default=ModelConfig.language, help="model.language of the study")
    held.add_argument("--max-text-tokens", type=int, default=DataConfig.max_text_tokens, help="data.max_text_tokens of the study")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    asked = _read_arguments(arguments)
    try:
        if asked.which == "training":
            manifests = draw_training(configs(json.load(sys.stdin)), asked.cache)
            lines = [f"{', '.join(one['runs'])}: {told(one)}; {one['eval']} {one['eval_hash']}" for one in manifests]
            answer: Any = {"manifests": manifests}
        else:
            mix = read_mix(asked.mix)
            answer = draw_validation(
                asked.root, asked.name, mix, asked.samples, asked.seed, asked.tokenizer, asked.cache, asked.max_text_tokens
            )
            lines = [f"{answer['path']}: {told(answer)}"]
    except (DataError, ConfigError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    print(json.dumps(answer, indent=1, ensure_ascii=False) if asked.json else "\n".join(lines))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
