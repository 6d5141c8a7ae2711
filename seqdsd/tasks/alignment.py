"""When each recognised word was said: the likeliest CTC path that spells the text, by torchaudio's forced alignment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torchaudio.functional import forced_align, merge_tokens

from seqdsd.text import Tokenizer


@dataclass(frozen=True)
class TimedWord:
    """A word, from its first token's first frame to its last token's last.

    CTC networks emit a token in one or two frames somewhere in the sound, so that a word's true edges lie a little
    outside of these times.
    """

    word: str
    start_seconds: float
    end_seconds: float
    confidence: float
    """Geometric mean of the network's probabilities of the word's tokens in their frames, in [0, 1]."""


@torch.inference_mode()
def align_words(
    log_probs: Float[Tensor, "frames vocab"],
    tokens: Sequence[int],
    tokenizer: Tokenizer,
    *,
    frame_seconds: float,
) -> list[TimedWord]:
    """Find when each word that some tokens spell is said.

    Args:
        log_probs: Natural-log probabilities of the utterance's valid frames.
        tokens: What is said, without blanks; it need not be what the network finds likeliest. They are not made from
            the text again: a network that writes sub-words may have spelt it in another way.
        tokenizer: That of the network.
        frame_seconds: From one frame to the next.

    Raises:
        ValueError: If the tokens need more frames than there are.
    """
    ids = list(tokens)
    if not ids:
        return []
    text = tokenizer.decode(ids)
    needed = len(ids) + sum(one == other for one, other in zip(ids, ids[1:], strict=False))
    if needed > len(log_probs):
        raise ValueError(f"{text!r} needs {needed} frames, of which there are {len(log_probs)}")
    log_probs = log_probs.cpu()  # at once: what follows reads token by token
    path, scores = forced_align(log_probs[None].float(), torch.tensor([ids]), blank=tokenizer.blank_id)
    spans = merge_tokens(path[0], scores[0], blank=tokenizer.blank_id)
    timed = []
    for word, members in zip(text.split(), _tokens_of_words(ids, tokenizer), strict=True):
        of_word = [spans[index] for index in members]
        confidence = torch.tensor([float(span.score) for span in of_word]).mean().exp()
        start, end = of_word[0].start, of_word[-1].end
        timed.append(TimedWord(word, start * frame_seconds, end * frame_seconds, float(confidence)))
    return timed


def _tokens_of_words(ids: Sequence[int], tokenizer: Tokenizer) -> list[list[int]]:
    """For each word, which of the tokens spell it; a token that is nothing but the space between belongs to none."""
    words: list[list[int]] = []
    before = ""
    for index in range(len(ids)):
        now = tokenizer.decode(list(ids[: index + 1]))
        if now.strip() != before.strip():
            count = len(now.split())
            words += [[] for _ in range(count - len(words))]
            words[-1].append(index)
        before = now
    return words
