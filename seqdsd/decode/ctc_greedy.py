"""Greedy CTC decoding ("max decoding" in the DSD paper). Leaves out beams and language models."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

_DROPPED = -1


def greedy_decode(
    log_probs: Float[Tensor, "batch frames vocab"], num_frames: Int[Tensor, "batch"], *, blank_id: int = 0
) -> list[list[int]]:
    """Best-path CTC decoding: take the best token of each frame, merge repeats, drop blanks.

    Works on the device of ``log_probs`` and waits for it once, at the end.

    Args:
        log_probs: Natural-log probabilities; frames past ``num_frames`` are ignored.
        num_frames: Valid frames of each item, each in [1, frames].
        blank_id: Index of CTC's blank in the vocabulary.

    Raises:
        ValueError: If a length is outside that range or ``blank_id`` is not in the vocabulary.

    Reference: Graves et al. 2006 (CTC), best path decoding. No departure.
    """
    _, frames, vocab = log_probs.shape
    if not 0 <= blank_id < vocab:
        raise ValueError(f"blank_id is {blank_id}, outside the vocabulary of {vocab} tokens")
    num_frames = num_frames.to(log_probs.device, torch.int64, non_blocking=True)
    tokens = _collapse(log_probs.argmax(dim=-1), num_frames, blank_id)
    # The lengths travel with the tokens: checking them on the device would mean waiting for it twice.
    tokens, lengths = torch.cat([tokens, num_frames[:, None]], dim=1).cpu().split([frames, 1], dim=1)
    if ((lengths < 1) | (lengths > frames)).any():
        raise ValueError(f"num_frames must lie in [1, {frames}], got {lengths.flatten().tolist()}")
    return [row[row != _DROPPED].tolist() for row in tokens]


def _collapse(
    path: Int[Tensor, "batch frames"], num_frames: Int[Tensor, "batch"], blank_id: int
) -> Int[Tensor, "batch frames"]:
    """Mark repeats, blanks and frames past the end as dropped; tokens that stay keep their place."""
    dropped = torch.arange(path.shape[1], device=path.device) >= num_frames[:, None]
    dropped |= path == blank_id
    dropped[:, 1:] |= path[:, 1:] == path[:, :-1]
    return path.masked_fill(dropped, _DROPPED)
