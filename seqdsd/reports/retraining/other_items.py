"""A study's best contrast on another test set: its two arms' retrainings, scored on utterances or images drawn again.

The test across parents says whether other parents would show it, on the test set that there is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from seqdsd.kinds import CAPTIONS, CLASSIFICATION, SPEECH, Kind
from seqdsd.metrics.significance import bootstrap_means, of_other_items
from seqdsd.metrics.significance.bootstrap import MeanScore
from seqdsd.reports.retraining.contrasts import StudyContrast, as_improvement, best_contrast
from seqdsd.reports.retraining.study import RetrainingStudy, StudyArm
from seqdsd.reports.runs.items import read_same_items
from seqdsd.reports.runs.reading import Run

_SCORES: Mapping[Kind, MeanScore] = {SPEECH: "wer", CAPTIONS: "bleu4", CLASSIFICATION: "error_rate"}


@dataclass(frozen=True)
class OnOtherItems:
    """How far an improvement would move on other test sets. Intervals are of 95 %, in the score's units.

    Attributes:
        contrast: Whose improvement it is.
        items: Its interval over test sets drawn again, of these retrainings; None where nothing can be said.
        both: Its interval over test sets and parents at once; likewise, and where no test across parents is possible.
        num_items: Utterances or images.
        num_speakers: Of speakers, who were drawn, each with all of theirs; None where the items were.
        problem: Why nothing can be said; empty where it can.
    """

    contrast: StudyContrast
    items: tuple[float, float] | None = None
    both: tuple[float, float] | None = None
    num_items: int = 0
    num_speakers: int | None = None
    problem: str = ""


@lru_cache(maxsize=16)  # reading takes seconds, and tables, the page and JSON all show it
def on_other_items(study: RetrainingStudy, *, split: str, resamples: int = 2_000) -> OnOtherItems | None:
    """Of the best contrast on this split; None where there is none, or no hypotheses were kept."""
    if (best := best_contrast(study, split=split)) is None:
        return None
    sides = [_weighted(study.arms[name], best) for name in (best.before, best.after)]
    if not any(_kept(run, split) for side in sides for run, _ in side):
        return None
    try:
        return _drawn(study.kind, best, sides, resamples)
    except ValueError as error:  # some are missing, or of other items: the scores stand all the same
        return OnOtherItems(best, problem=str(error))


def _weighted(arm: StudyArm, contrast: StudyContrast) -> list[tuple[Run, float]]:
    """The runs that the contrast is of, each parent counting once."""
    return [
        (run, 1 / len(arm.runs[one.parent]))
        for one in contrast.parents
        for run in arm.runs[one.parent].values()
    ]


def _last(run: Run) -> str:
    return str(run.phases[-1]["name"])


def _kept(run: Run, split: str) -> bool:
    return run.folder.hypotheses(_last(run), split).is_file()


def _drawn(
    kind: Kind, best: StudyContrast, sides: Sequence[Sequence[tuple[Run, float]]], resamples: int
) -> OnOtherItems:
    before, after = sides
    there = read_same_items([(run, _last(run)) for run, _ in (*before, *after)], best.split)
    drawn = bootstrap_means(
        _SCORES[kind],
        there.refs,
        there.hyps[: len(before)],
        there.hyps[len(before) :],
        weights_before=[weight for _, weight in before],
        weights_after=[weight for _, weight in after],
        groups=there.drawn_by,
        resamples=resamples,
    )
    both = of_other_items(best.test, drawn) if best.test else None
    return OnOtherItems(
        best,
        items=as_improvement((drawn.difference.low, drawn.difference.high), best.metric),
        both=as_improvement((both.low, both.high), best.metric) if both else None,
        num_items=len(there.refs),
        num_speakers=drawn.num_groups,
    )
