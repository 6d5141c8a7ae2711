"""MAPSSWE, NIST's test of two recognisers on the same speech."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import ndtr

from seqdsd.metrics.significance.word_errors import check_utterances, errors_by_place

_BOUNDARY_WORDS = 2


@dataclass(frozen=True)
class SegmentTest:
    """What MAPSSWE counted, and how likely chance alone does that.

    Attributes:
        num_segments: Stretches of text in which at least one system erred.
        mean: Word errors a segment after minus before, its mean over the segments.
        sd: Standard deviation of that difference; 0 for fewer than two segments.
        z: The mean over its standard error; 0 where the standard deviation is 0.
        p_value: Two-sided, from the normal distribution.
        errors_before: Word errors of the one system; all of them lie in a segment.
        errors_after: Word errors of the other.
    """

    num_segments: int
    mean: float
    sd: float
    z: float
    p_value: float
    errors_before: int
    errors_after: int


def mapsswe(refs: Sequence[str], hyps_before: Sequence[str], hyps_after: Sequence[str]) -> SegmentTest:
    """Matched-pairs sentence-segment word error test: do two recognisers err equally often on the same speech?

    Errors in a row depend on each other, so words are no sample. A segment holds the errors of both systems up to
    the next two neighbouring words that both got right, or to the utterance's end; stretches without error are no
    segments. The difference of the two error counts is averaged over the segments and divided by its standard error.
    The normal distribution is right for many segments (the textbook below says more than 50): look at
    ``num_segments``. Where the difference does not vary, or there is one segment, nothing is known of its spread;
    z is 0 and p is 1 then, as NIST's program has it.

    Args:
        refs: What was said; words are what white space separates.
        hyps_before: What the one system heard.
        hyps_after: What the other system heard.

    Raises:
        ValueError: If the lists differ in length, or the references hold no word at all.

    Reference: Gillick & Cox 1989 (matched-pairs test), in the words of Jurafsky & Martin, Speech and Language
        Processing, 3rd ed. draft, section "Statistical significance for ASR"; segments as NIST's ``sc_stats``
        (SCTK 2.4.10, ``mtchprs.c``) bounds them, with which it was compared. Departures: the mean is after minus
        before (``sc_stats``: first minus second system), and words are aligned by jiwer, with equal costs; sclite's
        costs of 4 (substitution), 3 and 3 sometimes choose another alignment.
    """
    check_utterances(refs, hyps_before, hyps_after)
    edits = zip(errors_by_place(refs, hyps_before), errors_by_place(refs, hyps_after), strict=True)
    segments = [segment for before, after in edits for segment in _segments(before, after)]
    differences = np.array([of_after - of_before for of_before, of_after in segments])
    count = len(segments)
    mean = float(differences.mean()) if count else 0.0
    sd = float(differences.std(ddof=1)) if count > 1 else 0.0
    z = mean / (sd / math.sqrt(count)) if sd else 0.0
    return SegmentTest(
        num_segments=count,
        mean=mean,
        sd=sd,
        z=z,
        p_value=float(2 * ndtr(-abs(z))),
        errors_before=sum(of_before for of_before, _ in segments),
        errors_after=sum(of_after for _, of_after in segments),
    )


def _segments(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Word errors of both systems in each segment of an utterance, from where ``errors_by_place`` finds the errors."""
    of_before = of_after = num_right = 0
    for place, errors in enumerate(zip(before, after, strict=True)):
        if any(errors):
            of_before, of_after = of_before + errors[0], of_after + errors[1]
            num_right = 0
        elif place % 2:
            num_right += 1
        if num_right == _BOUNDARY_WORDS and (of_before or of_after):
            yield of_before, of_after
            of_before = of_after = 0
    if of_before or of_after:
        yield of_before, of_after
