"""Profiles: the same study at another scale. What one says, and those it is `like`, lies over the sections of the file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ablate.runs_toml.file import EMPTY, File, meant
from ablate.runs_toml.positions import Node
from ablate.study import UserError

FULL = "full"
"""The profile that changes nothing."""
IN_PROFILE = ("study", "settings", "runs", "start", "search", "seeds", "evidence", "metrics", "lock")
_LAID_OVER = ("study", "search", "seeds", "evidence", "metrics", "lock")
"""The others are settings: laid over where their types are known."""
_FIXED = ("name", "baseline", "config")
"""Keys of [study] that are the same in every profile."""


def in_profile(file: File, profile: str) -> File:
    """The file as one profile has it; every profile is checked."""
    for name, node in file.profiles.items():
        _check_profile(file, name, node)
    known = (FULL, *file.profiles)
    if profile not in known:
        hint = meant(profile, known, f"; profiles: {', '.join(known)}")
        raise UserError(f'{file.text.path}: there is no profile "{profile}"{hint}')
    layers = tuple(file.profiles[name] for name in reversed(_likes(profile, file.profiles)))
    root = Node(0)
    root.table = dict(file.root.keys)
    for layer in layers:
        root.table |= {
            name: _laid_over(root.keys.get(name, EMPTY), layer.keys[name]) for name in _LAID_OVER if name in layer.keys
        }
    return replace(file, root=root, layers=layers)


def _laid_over(base: Node, over: Node) -> Node:
    """`base` with what `over` says, key by key; what stands right of an `=` replaces, never merges."""
    place = over if base is EMPTY else base
    node = Node(place.at, place.value_at, place.whole)
    node.value, node.table = place.value, dict(base.keys)
    for key, child in over.keys.items():
        below = base.keys.get(key, EMPTY)
        node.table[key] = child if child.whole or below.table is None else _laid_over(below, child)
    return node


def _check_profile(file: File, name: str, node: Node) -> None:
    file.name(node, name, "profile")
    if name == FULL:
        raise file.wrong(node, f"[profile.{FULL}] cannot be: `{FULL}` is the file as it stands")
    for key, child in file.table(node, f"[profile.{name}]").items():
        file.key(child, key, ("like", *IN_PROFILE), f"profile.{name}")
        if key == "like":
            file.known_string(child, f"profile.{name}.like", (FULL, *file.profiles), "profile")
            chain = _likes(name, file.profiles)
            if len(set(chain)) < len(chain):
                raise file.wrong(child, f"a cycle of profiles: {' is like '.join(chain)}")
        else:
            file.table(child, f"profile.{name}.{key}")
    for key, child in node.keys.get("study", EMPTY).keys.items():
        if key in _FIXED:
            raise file.wrong(child, f"study.{key} is the same in every profile; take it out of [profile.{name}]")
    for key, child in node.keys.get("metrics", EMPTY).keys.items():
        file.known(child, key, file.section("metrics").keys, "metric")


def _likes(name: str, profiles: Mapping[str, Node]) -> list[str]:
    """A profile and those it is like, up to `full` or the first that comes again."""
    chain: list[str] = []
    while name in profiles and name not in chain:
        chain.append(name)
        like = profiles[name].keys.get("like")
        name = like.value if like is not None and isinstance(like.value, str) else ""
    return [*chain, name] if name in chain else chain
