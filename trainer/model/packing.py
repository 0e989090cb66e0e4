"""A batch of samples as packed sequences: [visual tokens, text], one after another without padding.

B samples, T frames, S text tokens, U distinct frames, M frames shown (all samples together), K visual tokens per frame,
W text tokens (all samples), P supervised tokens (all samples), C tokens of the longest sequence.

All indices are computed on the CPU, before the batch moves, so that no step waits for the device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.batches import Batch
from trainer.model.language import Places


@dataclass(frozen=True)
class Packed:
    frames: Tensor
    """[U, 3, H, W] float32, normalised: the distinct frames."""
    frame: Tensor
    """[M] which distinct frame is shown, sample by sample, in time."""
    slot: Tensor
    """[M] how many times that frame was shown before in this batch: queries of one frame lie side by side as [U, slots, Q]."""
    slots: int
    """The most times any frame of the batch is shown."""
    once: bool
    """Every distinct frame is shown once, in its place: frame counts 0, 1, 2 …"""
    sample: Tensor
    """[M] the sample it is shown in."""
    clip: Tensor
    """[M] the sample, counted among the samples that have frames."""
    time: Tensor
    """[M] the frame's place in its clip."""
    reading: Places
    """Where the frames shown stand when they are read alone, one token each: [clips, frames of the longest clip]."""
    text: Tensor
    """[W] token ids."""
    order: Tensor
    """[M*K+W] for every token of the packed sequences, its place in (visual tokens, text tokens)."""
    places: Places
    """Where the tokens stand, in that order: [B, C]."""
    targets: Tensor
    """[P] token ids to predict."""
    target_from: Tensor
    """[P] the packed token each target is predicted from: the one left of it."""
    target_row: Tensor
    """[P] the sample of each target."""
    seen: Tensor
    """Those of the targets, by their place in 0..P-1, whose sample has frames."""

    @property
    def samples(self) -> int:
        return self.places.shape[0]

    @property
    def clips(self) -> int:
        """Samples that have frames."""
        return self.reading.shape[0]

    @property
    def tokens(self) -> int:
        """Visual and text tokens, without padding."""
        return self.order.numel()

    @property
    def supervised(self) -> int:
        return self.targets.numel()

    def without_targets(self) -> Packed:
        """The same samples, teaching nothing: what a rank without samples computes, so that all ranks meet."""
        none = self.targets[:0]
        return _replace(self, targets=none, target_from=none, target_row=none, seen=self.seen[:0])

    def to(self, device: torch.device) -> Packed:
        """The same on `device`. A GPU copies from page-locked memory, so that nobody waits."""

        def move(tensor: Tensor) -> Tensor:
            here = tensor.device.type == "cpu" and device.type != "cpu" and not tensor.is_pinned()
            ready = tensor.pin_memory() if here else tensor
            return ready.to(device, non_blocking=True)

        return self._each(move)

    def used_on(self, stream: torch.cuda.Stream) -> None:
        """Made on another stream, read on this one: the memory is not given away before this one is done with it."""

        def note(tensor: Tensor) -> Tensor:
            tensor.record_stream(stream)
            return tensor

        self._each(note)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Packed:
        def changed(value: object) -> object:
            if isinstance(value, Places):
                return Places(change(value.column), change(value.flat), value.shape)
            return change(value) if isinstance(value, Tensor) else value

        return _replace(self, **{name: changed(value) for name, value in vars(self).items()})


def _replace(packed: Packed, **changes: object) -> Packed:
    return Packed(**{**vars(packed), **changes})


def pack(batch: Batch, tokens_per_frame: int, device: torch.device) -> Packed:
    """Lay out `batch`, whose frames and text are padded right. A first token with nothing left of it is never a target.

    Frames travel as they are and are normalised on the device.
    """
    shown = batch.frame_of >= 0  # [B, T]
    is_text = batch.is_text  # [B, S]
    visual_count = shown.sum(1) * tokens_per_frame  # [B]
    row, time = shown.nonzero(as_tuple=True)  # [M] each
    frame = batch.frame_of[row, time]  # [M]
    clip_of_row = torch.cumsum(shown.any(1), 0) - 1  # [B]
    slot, slots = _slots(frame, batch.frames.shape[0])
    length = int(shown.sum(1).max()) if shown.numel() else 0
    column = (time * tokens_per_frame)[:, None] + torch.arange(tokens_per_frame)  # [M, K]
    text_row, text_place = is_text.nonzero(as_tuple=True)  # [W] each
    supervised = batch.supervised & is_text  # [B, S]
    supervised[:, 0] &= visual_count > 0
    target_row, target_place = supervised.nonzero(as_tuple=True)  # [P] each
    tokens = visual_count + is_text.sum(1)  # [B]
    starts, width = torch.cumsum(tokens, 0) - tokens, int(tokens.max())
    visual_at = (row * width)[:, None] + column  # [M, K]
    text_at = text_row * width + visual_count[text_row] + text_place  # [W]
    flat, order = torch.cat([visual_at.flatten(), text_at]).sort()  # [M*K+W] each
    packed = Packed(
        frames=batch.frames,
        frame=frame,
        slot=slot,
        slots=slots,
        once=torch.equal(frame, torch.arange(batch.frames.shape[0])),
        sample=row,
        clip=clip_of_row[row],
        time=time,
        reading=Places(time, clip_of_row[row] * length + time, (int(shown.any(1).sum()), length)),
        text=batch.ids[text_row, text_place],
        order=order,
        places=Places(flat % width, flat, (len(tokens), width)),
        targets=batch.ids[target_row, target_place],
        target_from=starts[target_row] + visual_count[target_row] + target_place - 1,
        target_row=target_row,
        seen=(visual_count[target_row] > 0).nonzero()[:, 0],
    ).to(device)
    return packed if batch.look is None else _replace(packed, frames=batch.look.normalised(packed.frames))


def _slots(frame: Tensor, distinct: int) -> tuple[Tensor, int]:
    """For each shown frame [M]: how often it was shown before; and the most any of `distinct` frames is shown."""
    if frame.numel() == 0:
        return frame, 1
    order = torch.argsort(frame, stable=True)  # [M]
    counts = torch.bincount(frame, minlength=distinct)  # [U]
    first = torch.cumsum(counts, 0) - counts  # [U] where each frame's group starts
    slot = torch.empty_like(frame)
    slot[order] = torch.arange(frame.numel()) - first[frame[order]]
    return slot, int(counts.max())
