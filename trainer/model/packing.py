"""A batch of samples as packed sequences: [visual tokens, text], packed left and padded right.

B samples, T frames, S text tokens, U distinct frames, M frames shown (all samples together), K visual tokens per frame,
W text tokens (all samples), P supervised tokens (all samples), C columns of the packed sequence.

Causal attention makes right padding harmless: nothing before it sees it. All indices are computed on the CPU, before the batch
moves, so that no step waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.data.batches import Batch


@dataclass(frozen=True)
class Packed:
    frames: Tensor
    """[U, 3, H, W] float32, the distinct frames."""
    frame: Tensor
    """[M] which distinct frame is shown, sample by sample, in time."""
    slot: Tensor
    """[M] how many times that frame was shown before in this batch: queries of one frame lie side by side as [U, slots, Q]."""
    slots: int
    """The most times any frame of the batch is shown."""
    visual_row: Tensor
    """[M] the sample, counted among the samples that have frames."""
    visual_time: Tensor
    """[M] the frame's place in its clip."""
    clips: int
    """Samples that have frames."""
    length: int
    """Frames of the longest clip."""
    visual_at: tuple[Tensor, Tensor]
    """([M*K], [M*K]) sample and column of every visual token."""
    text: Tensor
    """[W] token ids."""
    text_at: tuple[Tensor, Tensor]
    """([W], [W]) sample and column of every text token."""
    targets: Tensor
    """[P] token ids to predict."""
    target_from: tuple[Tensor, Tensor]
    """([P], [P]) sample and column each target is predicted from: the token left of it."""
    seen: Tensor
    """Those of the targets, by their place in 0..P-1, whose sample has frames."""
    shape: tuple[int, int]
    """(B, C)."""

    @property
    def samples(self) -> int:
        return self.shape[0]

    @property
    def tokens(self) -> int:
        """Visual and text tokens, without padding."""
        return self.visual_at[0].numel() + self.text.numel()

    @property
    def supervised(self) -> int:
        return self.targets.numel()

    def without_targets(self) -> Packed:
        """The same samples, teaching nothing: what a rank without samples computes, so that all ranks meet."""
        none = self.targets[:0]
        return _replace(self, targets=none, target_from=(none, none), seen=self.seen[:0])

    def to(self, device: torch.device) -> Packed:
        def move(value: object) -> object:
            if isinstance(value, Tensor):
                return value.to(device, non_blocking=True)
            return tuple(move(v) for v in value) if isinstance(value, tuple) else value

        return _replace(self, **{name: move(value) for name, value in vars(self).items()})


def _replace(packed: Packed, **changes: object) -> Packed:
    return Packed(**{**vars(packed), **changes})


def pack(batch: Batch, tokens_per_frame: int, device: torch.device) -> Packed:
    """Lay out `batch`, whose frames and text are padded right. A first token with nothing left of it is never a target."""
    shown = batch.frame_of >= 0  # [B, T]
    is_text = batch.is_text  # [B, S]
    visual_count = shown.sum(1) * tokens_per_frame  # [B]
    row, time = shown.nonzero(as_tuple=True)  # [M] each
    frame = batch.frame_of[row, time]  # [M]
    clip_of_row = torch.cumsum(shown.any(1), 0) - 1  # [B]
    slot, slots = _slots(frame, batch.frames.shape[0])
    column = (time * tokens_per_frame)[:, None] + torch.arange(tokens_per_frame)  # [M, K]
    text_row, text_place = is_text.nonzero(as_tuple=True)  # [W] each
    supervised = batch.supervised & is_text  # [B, S]
    supervised[:, 0] &= visual_count > 0
    target_row, target_place = supervised.nonzero(as_tuple=True)  # [P] each
    return Packed(
        frames=batch.frames,
        frame=frame,
        slot=slot,
        slots=slots,
        visual_row=clip_of_row[row],
        visual_time=time,
        clips=int(shown.any(1).sum()),
        length=int(shown.sum(1).max()) if shown.numel() else 0,
        visual_at=(row.repeat_interleave(tokens_per_frame), column.flatten()),
        text=batch.ids[text_row, text_place],
        text_at=(text_row, visual_count[text_row] + text_place),
        targets=batch.ids[target_row, target_place],
        target_from=(target_row, visual_count[target_row] + target_place - 1),
        seen=(visual_count[target_row] > 0).nonzero()[:, 0],
        shape=(batch.ids.shape[0], int((visual_count + is_text.sum(1)).max())),
    ).to(device)


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
