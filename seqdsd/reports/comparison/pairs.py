"""One network against another on the same utterances or images: tests on what they said, seed by seed.

They say whether the difference would hold on another test set, not what another seed would give; that is
``contrasts``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from seqdsd.metrics.significance import (
    BootstrapTest,
    SegmentTest,
    bootstrap_bleu,
    bootstrap_wer,
    holm,
    mapsswe,
)
from seqdsd.records import RunFolderError
from seqdsd.reports.comparison.arms import Comparison
from seqdsd.reports.runs.hypotheses import Hypothesis
from seqdsd.reports.runs.reading import ArmName, Run, read_hypotheses

AFTER: tuple[ArmName, ...] = ("DSDSD", "DSD", "LLR")
"""Arms that are tested against the baseline."""


@dataclass(frozen=True)
class PairTest:
    """An arm against the baseline, both of one seed, by their last phases' hypotheses.

    Attributes:
        before: The arm compared with.
        after: The arm compared.
        seed: Of both runs.
        split: Where they are scored.
        bootstrap: Of WER (a fraction) or BLEU-4 (0 to 100), after minus before; None where it cannot be made.
        mapsswe: Of word errors, after minus before; None for captions.
        bootstrap_holm: The bootstrap's p-value, corrected for all pairs of the split.
        mapsswe_holm: That of MAPSSWE, corrected for all pairs of the split.
        problem: Why it cannot be made; empty where it can.
    """

    before: ArmName
    after: ArmName
    seed: int
    split: str
    bootstrap: BootstrapTest | None = None
    mapsswe: SegmentTest | None = None
    bootstrap_holm: float | None = None
    mapsswe_holm: float | None = None
    problem: str = ""


@lru_cache(
    maxsize=64
)  # of each comparison once, since it takes seconds: the page shows them, and JSON and LaTeX too
def pair_tests(comparison: Comparison, *, split: str, resamples: int = 10_000) -> tuple[PairTest, ...]:
    """Test every arm against the baseline on every seed that both have, by seed and then by arm.

    Corrected for their number (Holm), each of the two tests for itself.
    """
    baseline = comparison.arm("Baseline")
    arms = [arm for name in AFTER if (arm := comparison.arm(name))]
    tests = [
        _pair_test(baseline.runs[seed], arm.runs[seed], split, resamples)
        for seed in (baseline.runs if baseline else ())
        for arm in arms
        if baseline and seed in arm.runs
    ]
    bootstraps = _holm([test.bootstrap.p_value if test.bootstrap else None for test in tests])
    segments = _holm([test.mapsswe.p_value if test.mapsswe else None for test in tests])
    return tuple(
        replace(test, bootstrap_holm=one, mapsswe_holm=other)
        for test, one, other in zip(tests, bootstraps, segments, strict=True)
    )


def _pair_test(before: Run, after: Run, split: str, resamples: int) -> PairTest:
    empty = PairTest(before.arm, after.arm, before.seed, split)
    try:
        rows = [read_hypotheses(run, run.phases[-1]["name"], split) for run in (before, after)]
        refs, hyps = _aligned(before, after, *rows)
        if before.kind == "captions":
            return replace(empty, bootstrap=bootstrap_bleu(refs, *hyps, resamples=resamples))
        said = [ref[0] for ref in refs]
        bootstrap = bootstrap_wer(said, *hyps, resamples=resamples)
        return replace(empty, bootstrap=bootstrap, mapsswe=mapsswe(said, *hyps))
    except (
        ValueError
    ) as error:  # hypotheses that were not kept, or of other items: the scores stand all the same
        return replace(empty, problem=str(error))


def _aligned(
    before: Run, after: Run, rows_before: Sequence[Hypothesis], rows_after: Sequence[Hypothesis]
) -> tuple[list[tuple[str, ...]], tuple[list[str], list[str]]]:
    """References of each item, and what both say of it.

    Raises:
        RunFolderError: If the items or their references differ, or there are no references.
    """
    others: Mapping[str, Hypothesis] = {row.id: row for row in rows_after}
    if others.keys() != {row.id for row in rows_before}:
        raise RunFolderError(f"{before.name} and {after.name} were scored on different items")
    for row in rows_before:
        if not row.refs or not others[row.id].refs:
            raise RunFolderError(f"no references beside the hypotheses of {before.name} and {after.name}")
        if row.refs != others[row.id].refs:
            raise RunFolderError(f"{before.name} and {after.name} have different references of {row.id!r}")
    refs = [row.refs for row in rows_before]
    return refs, ([row.hyp for row in rows_before], [others[row.id].hyp for row in rows_before])


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    corrected = iter(holm([p_value for p_value in p_values if p_value is not None]))
    return [None if p_value is None else next(corrected) for p_value in p_values]
