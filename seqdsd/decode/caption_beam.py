"""Beam search for captions, all images at once, as NeuralTalk does it one image at a time.

Length normalisation, language models and the beams behind the best one are left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from seqdsd.decode.caption import (
    Ends,
    NextWordModel,
    ScoredCaption,
    State,
    at_least_float32,
    select_rows,
    to_captions,
    word_log_probs,
)

_BLOCK = 32
"""Words that are searched together; 16 to 64 were as fast."""


def beam_captions(
    model: NextWordModel,
    image_features: Float[Tensor, "images feature_size"],
    *,
    start_id: int,
    end_id: int,
    beam_width: int,
    max_words: int = 20,
    images_at_once: int = 50,
) -> list[ScoredCaption]:
    """Find each image's caption of the highest log-probability that a beam search meets.

    A step expands every unfinished beam by its best words; the best ``beam_width`` of these and of the finished beams
    survive, ranked by the plain sum of log-probabilities. After ``max_words`` steps the best beam is taken, finished or
    not. Works on the device of ``image_features``, which is where the model must be, in evaluation mode; the host waits
    for the device once a step. In float32 an image's caption may depend on ``images_at_once`` where two beams are equal
    but for rounding.

    Args:
        model: Gives the next word; see ``NextWordModel``.
        image_features: One row an image; there may be none.
        start_id: Fed before the first word. Where END has another id, START is never emitted.
        end_id: Ends a caption. START and END may share an id, as NeuralTalk's do.
        beam_width: Beams kept for each image; may exceed the vocabulary.
        max_words: Captions are cut off here.
        images_at_once: Bounds memory: about four times ``images_at_once * beam_width * vocab_size`` floats.

    Raises:
        ValueError: If an id is outside the vocabulary or a number is below 1.
        NonFiniteCaptions: If what the model gives is not finite.

    Reference: karpathy/neuraltalk, imagernn/lstm_generator.py, ``predict``. Departures: beams behind the best finished
    one are dropped, and with them images whose best beam is finished: log-probabilities only fall, so that such beams
    can neither win nor displace a beam that can. The original expands them to the last step, and adds 1e-20 to each
    probability before its log.
    """
    ends = Ends(start_id, end_id, max_words)
    ends.check(model.vocab_size)
    for name, value in (("beam_width", beam_width), ("images_at_once", images_at_once)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    found = [_search(model, part, ends, beam_width) for part in image_features.split(images_at_once)]
    words, log_probs = (torch.cat(parts) for parts in zip(*found, strict=True))
    return to_captions(words, log_probs, end_id)


@dataclass(frozen=True)
class _Beams:
    """Unfinished beams, one a row: by image, within an image the best first."""

    image: Int[Tensor, "rows"]
    rank: Int[Tensor, "rows"]
    log_probs: Float[Tensor, "rows"]
    words: Int[Tensor, "rows max_words"]
    tokens: Int[Tensor, "rows"]
    state: State


@dataclass(frozen=True)
class _Finished:
    """The best finished beam of each image: the only one that can win."""

    log_probs: Float[Tensor, "images"]
    """-inf where there is none."""
    words: Int[Tensor, "images max_words"]


@dataclass(frozen=True)
class _Ranked:
    """The best ``beam_width`` of an image's finished and expanded beams, the best first; -inf where there are fewer."""

    log_probs: Float[Tensor, "images width"]
    parent: Int[Tensor, "images width"]
    """Row of the beam that was expanded; -1 for the beam that was finished before."""
    word: Int[Tensor, "images width"]


@torch.inference_mode()
def _search(
    model: NextWordModel, image_features: Float[Tensor, "images feature_size"], ends: Ends, beam_width: int
) -> tuple[Int[Tensor, "images max_words"], Float[Tensor, "images"]]:
    """Words of each image's caption, END from its end on, and its log-probability."""
    beams = _start(model, image_features, ends)
    finished = _Finished(torch.full_like(beams.log_probs, -math.inf), beams.words)
    for step in range(ends.max_words):
        if not len(beams.image):
            break
        ranked, state = _expand(model, beams, finished, ends, beam_width)
        is_end = (ranked.word == ends.end_id) | (ranked.parent < 0)
        if step == ends.max_words - 1:
            is_end = torch.ones_like(is_end)  # the best beam is taken as it stands
        finished = _finish(ranked, is_end, beams, finished, step)
        can_win = (is_end.cumsum(dim=1) == 0) & (ranked.log_probs != -math.inf)
        beams = _survive(ranked, can_win, beams, state, step)
    return finished.words, finished.log_probs


def _start(model: NextWordModel, image_features: Float[Tensor, "images feature_size"], ends: Ends) -> _Beams:
    """One beam an image, without a word."""
    state = model.start(image_features)
    image = torch.arange(len(image_features), device=image_features.device)
    return _Beams(
        image=image,
        rank=torch.zeros_like(image),
        log_probs=at_least_float32(state[0].new_zeros(len(image))),
        words=torch.full((len(image), ends.max_words), ends.end_id, device=image.device),
        tokens=torch.full_like(image, ends.start_id),
        state=state,
    )


def _expand(
    model: NextWordModel, beams: _Beams, finished: _Finished, ends: Ends, beam_width: int
) -> tuple[_Ranked, State]:
    """Let an image's finished beam compete with its unfinished ones, each with every word; the states after these."""
    logits, state = model.step(beams.tokens, beams.state)
    scores = word_log_probs(logits, ends.forbidden_id).add_(beams.log_probs[:, None])
    row, first_word = _best_blocks(scores, beams, len(finished.log_probs), beam_width)
    words = first_word[:, :, None] + torch.arange(_BLOCK, device=scores.device)
    absent = (row[:, :, None] < 0) | (words >= scores.shape[1])
    rivals = scores[row[:, :, None].clamp(min=0), words.clamp(max=scores.shape[1] - 1)]
    rivals = rivals.masked_fill(absent, -math.inf).flatten(1)
    log_probs, chosen = torch.cat((rivals, finished.log_probs[:, None]), dim=1).topk(beam_width, dim=1)
    block = (chosen // _BLOCK).clamp(max=beam_width - 1)
    parent = row.gather(1, block).masked_fill(chosen == rivals.shape[1], -1)
    return _Ranked(log_probs, parent, first_word.gather(1, block) + chosen % _BLOCK), state


def _best_blocks(
    scores: Float[Tensor, "rows vocab"], beams: _Beams, images: int, beam_width: int
) -> tuple[Int[Tensor, "images width"], Int[Tensor, "images width"]]:
    """Row (-1 for none) and first word of blocks of words that hold each image's best ``beam_width`` scores.

    The best scores lie in the blocks of the best maxima, and maxima are found far faster than the best of all words.
    """
    maxima = F.max_pool1d(scores, _BLOCK, ceil_mode=True)
    blocks = maxima.shape[1]
    pool = maxima.new_full((images, beam_width, blocks), -math.inf)
    source = torch.full_like(pool, -1, dtype=torch.int64)  # where in ``maxima`` each of the pool comes from
    pool[beams.image, beams.rank] = maxima
    source[beams.image, beams.rank] = torch.arange(maxima.numel(), device=maxima.device).view_as(maxima)
    source = source.flatten(1).gather(1, pool.flatten(1).topk(beam_width, dim=1).indices)
    return source.div(blocks, rounding_mode="floor"), source % blocks * _BLOCK


def _finish(
    ranked: _Ranked, is_end: Bool[Tensor, "images width"], beams: _Beams, finished: _Finished, step: int
) -> _Finished:
    """The best beam of each image that ends now or has ended before; one that no longer ranks is lost."""
    first = is_end.int().argmax(dim=1, keepdim=True)
    log_probs, parent, word = (
        values.gather(1, first)[:, 0] for values in (ranked.log_probs, ranked.parent, ranked.word)
    )
    words = beams.words.index_select(0, parent.clamp(min=0))
    words[:, step] = word
    return _Finished(
        log_probs=log_probs.masked_fill(~is_end.any(dim=1), -math.inf),
        words=torch.where((parent < 0)[:, None], finished.words, words),
    )


def _survive(
    ranked: _Ranked, can_win: Bool[Tensor, "images width"], beams: _Beams, state: State, step: int
) -> _Beams:
    """Pack the beams that can still win: the batch of the next step."""
    places = can_win.flatten().nonzero().flatten()  # the step's one wait for the device
    parent, word, log_probs = (
        values.flatten().index_select(0, places) for values in (ranked.parent, ranked.word, ranked.log_probs)
    )
    words = beams.words.index_select(0, parent)
    words[:, step] = word
    return _Beams(
        image=places // can_win.shape[1],
        rank=places % can_win.shape[1],
        log_probs=log_probs,
        words=words,
        tokens=word,
        state=select_rows(state, parent),
    )
