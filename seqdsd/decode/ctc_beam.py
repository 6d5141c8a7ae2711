"""Prefix beam search for CTC without a language model, all utterances of a batch at once, on their device.

Where greedy decoding takes the best path, this adds up the paths that spell the same tokens. Language models and hot
words are ``ctc_lexicon.py``'s.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_NO_TOKEN = -1
_MULTIPLIER = -7046029254386353131  # odd: 2^64 divided by the golden ratio, as a signed number
_START = 5903247193452817731  # hash of the empty prefix
_NO_PARENT = 0
_DEAD = 2  # hash of the prefixes whose probability is 0


@dataclass(frozen=True)
class BeamHypothesis:
    """Tokens that a beam search found, without blanks."""

    tokens: list[int]
    log_prob: float
    """Natural log of the summed probability of the paths that the search followed to these tokens."""


@dataclass(frozen=True)
class _Beams:
    """The best prefixes of each item, best first; dead beams have probability 0.

    Prefixes are known by 64-bit hashes, so that equal ones can be told on the device: that two different ones among a
    million share a hash has a chance of one in ten million.
    """

    blank: Float[Tensor, "items width"]
    """Log-probability of the paths that end in a blank."""
    token: Float[Tensor, "items width"]
    """Log-probability of the paths that end in the prefix's last token."""
    last: Int[Tensor, "items width"]
    """Last token; the blank for the empty prefix."""
    prefix: Int[Tensor, "items width"]
    parent: Int[Tensor, "items width"]
    """Hash of the prefix without its last token."""

    @property
    def total(self) -> Float[Tensor, "items width"]:
        """Log-probability of each prefix."""
        return torch.logaddexp(self.blank, self.token)


@dataclass(frozen=True)
class _Step:
    """Where each beam after a frame comes from, and the token that the frame added to it, or none."""

    origin: Int[Tensor, "items width"]
    added: Int[Tensor, "items width"]


@torch.inference_mode()
def beam_decode(
    log_probs: Float[Tensor, "batch frames vocab"],
    num_frames: Int[Tensor, "batch"],
    *,
    beam_width: int,
    blank_id: int = 0,
) -> list[list[BeamHypothesis]]:
    """Find for each item the ``beam_width`` likeliest token sequences that a prefix beam search meets, best first.

    Works on the device of ``log_probs`` and waits for it once, at the end.

    Args:
        log_probs: Natural-log probabilities; frames past ``num_frames`` are ignored.
        num_frames: Valid frames of each item, each in [1, frames].
        beam_width: Prefixes kept after each frame; where fewer exist, fewer are returned.
        blank_id: Index of CTC's blank in the vocabulary.

    Raises:
        ValueError: If a length is outside that range, ``blank_id`` is not in the vocabulary, ``beam_width`` is below
            1, or the log-probabilities of an item are NaN or leave nothing possible.

    Reference: Hannun et al. 2014 (First-pass large vocabulary continuous speech recognition using bi-directional
    recurrent DNNs), algorithm 1, without its language model.
    """
    items, frames, vocab = log_probs.shape
    if not 0 <= blank_id < vocab:
        raise ValueError(f"blank_id is {blank_id}, outside the vocabulary of {vocab} tokens")
    if beam_width < 1:
        raise ValueError(f"beam_width must be at least 1, got {beam_width}")
    lengths = num_frames.to(log_probs.device, torch.int64, non_blocking=True)
    # Of lengths on the CPU it is known without waiting from which frame on items are over.
    first_over = int(num_frames.min()) if num_frames.device.type == "cpu" and items else 0
    beams = _start(log_probs, beam_width, blank_id)
    stay = torch.arange(beam_width, device=log_probs.device).expand(items, -1)
    steps = []
    for frame, scores in enumerate(log_probs.unbind(1)):
        after, step = _advance(beams, scores.float(), blank_id)
        if frame < first_over:
            beams = after
            steps.append(torch.stack((step.origin, step.added)))
            continue
        is_over = (frame >= lengths)[:, None]
        beams = _Beams(*(torch.where(is_over, getattr(beams, name), getattr(after, name)) for name in _NAMES))
        origin = torch.where(is_over, stay, step.origin)
        steps.append(torch.stack((origin, step.added.masked_fill(is_over, _NO_TOKEN))))
    # One copy: a wait for each of these would cost more than the search.
    found = torch.stack(steps).cpu() if steps else torch.empty(0, 2, items, beam_width, dtype=torch.int64)
    total, lengths = beams.total.cpu(), lengths.cpu()
    if not (total[:, 0] > -math.inf).all():  # false for NaN, too
        raise ValueError("the log-probabilities are not finite: nothing can be found in them")
    if ((lengths < 1) | (lengths > frames)).any():
        raise ValueError(f"num_frames must lie in [1, {frames}], got {lengths.tolist()}")
    return _hypotheses(found[:, 0], found[:, 1], total)


_NAMES = ("blank", "token", "last", "prefix", "parent")


def _start(log_probs: Tensor, beam_width: int, blank_id: int) -> _Beams:
    """The empty prefix, and dead beams beside it."""
    blank = log_probs.new_full((len(log_probs), beam_width), -math.inf, dtype=torch.float32)
    ids = torch.zeros_like(blank, dtype=torch.int64)
    token = blank.clone()
    blank[:, 0] = 0
    prefix = torch.full_like(ids, _DEAD)
    prefix[:, 0] = _START
    return _Beams(blank, token, last=ids + blank_id, prefix=prefix, parent=ids + _NO_PARENT)


def _advance(beams: _Beams, scores: Float[Tensor, "items vocab"], blank_id: int) -> tuple[_Beams, _Step]:
    """The beams after one more frame."""
    width, vocab = beams.last.shape[1], scores.shape[1]
    total = beams.total
    stay_blank = total + scores[:, blank_id, None]
    stay_token = beams.token + scores.gather(1, beams.last)

    # A prefix's last token again needs a blank between: only paths that end in one go on to it.
    extended = total[:, :, None] + scores[:, None, :]
    again = beams.blank + scores.gather(1, beams.last)
    extended.scatter_(2, beams.last[:, :, None], again[:, :, None])
    extended[:, :, blank_id] = -math.inf

    # An extension that is a beam already is added to that beam. Each has one parent at most: sums find it, and whether
    # there is one, faster than a search does.
    meets = (beams.prefix[:, :, None] == beams.parent[:, None, :]).float()
    numbers = torch.arange(width, device=scores.device, dtype=torch.float32)
    has_parent, parent = (torch.stack((torch.ones_like(numbers), numbers)) @ meets).unbind(1)
    place = parent.long() * vocab + torch.where(has_parent > 0, beams.last, blank_id)
    extended = extended.flatten(1)
    stay_token = torch.logaddexp(stay_token, extended.gather(1, place))
    extended.scatter_(1, place, -math.inf)

    rivals = torch.cat((torch.logaddexp(stay_blank, stay_token), extended), dim=1)
    best, chosen = rivals.topk(width, dim=1)
    stays = chosen < width
    origin = torch.where(stays, chosen, (chosen - width).div(vocab, rounding_mode="floor"))
    added = (chosen - width) % vocab
    is_dead = best == -math.inf
    before = beams.prefix.gather(1, origin)
    prefix = torch.where(stays, before, (before ^ (added + 1)) * _MULTIPLIER)
    parent_prefix = torch.where(stays, beams.parent.gather(1, origin), before)
    after = _Beams(
        blank=stay_blank.gather(1, origin).masked_fill(~stays, -math.inf),
        token=torch.where(stays, stay_token.gather(1, origin), best),
        last=torch.where(stays, beams.last.gather(1, origin), added),
        prefix=prefix.masked_fill(is_dead, _DEAD),  # met by nothing
        parent=parent_prefix.masked_fill(is_dead, _NO_PARENT),
    )
    return after, _Step(origin, added.masked_fill(stays, _NO_TOKEN))


def _hypotheses(
    origin: Int[Tensor, "frames items width"],
    added: Int[Tensor, "frames items width"],
    total: Float[Tensor, "items width"],
) -> list[list[BeamHypothesis]]:
    """Follow each last beam back to its start."""
    beam = torch.arange(total.shape[1]).expand_as(total)
    tokens = []
    for where_from, token in zip(origin.flip(0), added.flip(0), strict=True):
        tokens.append(token.gather(1, beam))
        beam = where_from.gather(1, beam)
    paths = torch.stack(tokens[::-1], dim=2)
    return [
        [
            BeamHypothesis(path[path != _NO_TOKEN].tolist(), float(log_prob))
            for path, log_prob in zip(item_paths, item_total, strict=True)
            if log_prob > -math.inf
        ]
        for item_paths, item_total in zip(paths, total, strict=True)
    ]
