"""A mix of kinds and sources → how many samples of each."""

from __future__ import annotations

from collections.abc import Mapping

from trainer.data.shards import KINDS, DataError


def counts(mix: Mapping[str, float], samples: int) -> dict[str, int]:
    """Samples per entry, in the order of the names; they sum to `samples` (largest remainders take what rounding leaves).

    An entry is a kind ("image") or a source of a kind ("image/crowded"). Raises DataError for an unknown kind and for a kind
    that stands beside one of its own sources.
    """
    names = sorted(mix)
    for name in names:
        kind, _, source = name.partition("/")
        if kind not in KINDS:
            raise DataError(
                f"data.mix: {name!r} is no kind; kinds: {', '.join(KINDS)}, or a source of one as in 'image/cauldron'"
            )
        if source and kind in mix:
            raise DataError(f"data.mix: {name!r} is a part of {kind!r}, which is in the mix too; keep one of them")
    exact = [mix[name] * samples for name in names]
    whole = [int(share) for share in exact]
    by_remainder = sorted(range(len(names)), key=lambda i: (whole[i] - exact[i], names[i]))
    for i in by_remainder[: samples - sum(whole)]:
        whole[i] += 1
    return dict(zip(names, whole, strict=True))
