"""Greedy decoding of captions: the most probable word, then the most probable after it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from seqdsd.decode.caption import (
    Ends,
    NextWordModel,
    ScoredCaption,
    at_least_float32,
    select_rows,
    to_captions,
    word_log_probs,
)


@torch.inference_mode()
def greedy_captions(
    model: NextWordModel,
    image_features: Float[Tensor, "images feature_size"],
    *,
    start_id: int,
    end_id: int,
    max_words: int = 20,
) -> list[ScoredCaption]:
    """Take the best word at each step until it is END; the same as ``beam_captions`` with a width of 1.

    All images are decoded at once on the device of ``image_features``, which is where the model must be, in evaluation
    mode. A finished caption leaves the batch; the host waits for the device once a word. Memory grows by one row of
    the vocabulary an image.

    Args:
        model: Gives the next word; see ``NextWordModel``.
        image_features: One row an image; there may be none.
        start_id: Fed before the first word. Where END has another id, START is never emitted.
        end_id: Ends a caption. START and END may share an id, as NeuralTalk's do.
        max_words: Captions are cut off here.

    Raises:
        ValueError: If an id is outside the vocabulary or ``max_words`` is below 1.
        NonFiniteCaptions: If what the model gives is not finite.

    Reference: karpathy/neuraltalk, imagernn/lstm_generator.py, ``predict`` at a beam size of 1. Departure: the
    original adds 1e-20 to each probability before its log.
    """
    ends = Ends(start_id, end_id, max_words)
    ends.check(model.vocab_size)
    state = model.start(image_features)
    image = torch.arange(len(image_features), device=image_features.device)
    tokens = torch.full_like(image, start_id)
    words = torch.full((len(image), max_words), end_id, device=image.device)
    log_probs = at_least_float32(state[0].new_zeros(len(image)))
    for step in range(max_words):
        logits, state = model.step(tokens, state)
        best, tokens = word_log_probs(logits, ends.forbidden_id).max(dim=1)
        words[image, step] = tokens
        log_probs[image] += best
        unfinished = (tokens != end_id).nonzero().flatten()  # the step's one wait for the device
        if not len(unfinished):
            break
        image, tokens = image.index_select(0, unfinished), tokens.index_select(0, unfinished)
        state = select_rows(state, unfinished)
    return to_captions(words, log_probs, end_id)
