"""One network against another on the same utterances or images: tests on what they said, seed by seed.

They say whether the difference would hold on another test set, not what another seed would give; that is
``contrasts``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from seqdsd.kinds import CAPTIONS, CLASSIFICATION, SPEECH, Kind
from seqdsd.metrics.significance import (
    BootstrapTest,
    McNemarTest,
    SegmentTest,
    bootstrap_bleu,
    bootstrap_error_rate,
    bootstrap_wer,
    holm,
    mapsswe,
    mcnemar,
)
from seqdsd.reports.comparison.arms import Arm, Comparison
from seqdsd.reports.comparison.contrasts import PAIRS, contrast_name
from seqdsd.reports.runs.items import read_same_items
from seqdsd.reports.runs.reading import ArmName, Record, Run


@dataclass(frozen=True)
class PairTest:
    """An arm against another, both of one seed, by the hypotheses of the phases set beside each other.

    Attributes:
        before: The arm compared with.
        after: The arm compared.
        before_phase: The phase compared with: the arm's last, or of LLR the one after as many phases.
        after_phase: The last phase of the arm compared.
        epochs: Trained until then, before and after.
        seed: Of both runs.
        split: Where they are scored.
        bootstrap: Of an error rate (a fraction) or BLEU-4 (0 to 100), after minus before; None where it cannot be made.
        mapsswe: Of word errors, after minus before; of recognisers alone.
        mcnemar: Of images that one of them got right; of classifiers alone.
        bootstrap_holm: The bootstrap's p-value, corrected for all pairs of the split.
        mapsswe_holm: That of MAPSSWE, corrected for all pairs of the split.
        mcnemar_holm: That of McNemar's test, corrected for all pairs of the split.
        problem: Why it cannot be made; empty where it can.
        num_items: Utterances or images that were compared.
        num_speakers: Who speak in the test set; None where that is not known of every utterance.
    """

    before: ArmName
    after: ArmName
    before_phase: str
    after_phase: str
    epochs: tuple[int, int]
    seed: int
    split: str
    bootstrap: BootstrapTest | None = None
    mapsswe: SegmentTest | None = None
    mcnemar: McNemarTest | None = None
    bootstrap_holm: float | None = None
    mapsswe_holm: float | None = None
    mcnemar_holm: float | None = None
    problem: str = ""
    num_items: int = 0
    num_speakers: int | None = None

    @property
    def name(self) -> str:
        """As that of a contrast, with the epochs where they are unlike."""
        before, after = self.epochs
        unlike = "" if before == after else f" ({before} : {after} epochs)"
        return contrast_name(self.after, self.before, self.before_phase) + unlike

    @property
    def is_by_speaker(self) -> bool:
        """Whether the bootstrap draws speakers, each with all that they say."""
        return self.bootstrap is not None and self.bootstrap.num_groups is not None

    def deciding_p(self, kind: Kind) -> float | None:
        """The corrected p-value of the test that decides for a kind of network; the bootstrap where speakers are drawn.

        MAPSSWE takes the segments of one speaker as independent.
        """
        if self.is_by_speaker:
            return self.bootstrap_holm
        found = {"mapsswe": self.mapsswe_holm, "mcnemar": self.mcnemar_holm, None: self.bootstrap_holm}
        return found[kind.pair_test]


@lru_cache(
    maxsize=64
)  # of each comparison once, since it takes seconds: the page shows them, and JSON and LaTeX too
def pair_tests(comparison: Comparison, *, split: str, resamples: int = 10_000) -> tuple[PairTest, ...]:
    """Test arms against each other on every seed that both have, by seed and then as the contrasts are ordered.

    Those that are planned for as many epochs: DSD stands beside a longer baseline only where there is no DSDSD.
    Corrected for their number (Holm), each kind of test for itself.
    """
    tests = [
        _pair_test(before.runs[seed], after.runs[seed], phase, split, resamples)
        for seed in comparison.seeds
        for before, after, phase in _pairs(comparison)
        if seed in before.runs and seed in after.runs
    ]
    corrected: dict[str, list[Any]] = {
        f"{name}_holm": _holm([found.p_value if (found := getattr(test, name)) else None for test in tests])
        for name in ("bootstrap", "mapsswe", "mcnemar")
    }
    return tuple(
        replace(test, **{name: p_values[number] for name, p_values in corrected.items()})
        for number, test in enumerate(tests)
    )


def _pairs(comparison: Comparison) -> Iterator[tuple[Arm, Arm, int]]:
    """Arms before and after, and the phase of the one before, where neither is planned to be trained longer."""
    unlike = {("DSDSD", "DSD"), *([("DSD", "Baseline")] if comparison.arm("DSDSD") else [])}
    for names in PAIRS:
        after, before = map(comparison.arm, names)
        if after and before and names not in unlike and (phase := before.phase_beside(after)) is not None:
            yield before, after, phase


def _pair_test(before: Run, after: Run, phase: int, split: str, resamples: int) -> PairTest:
    phases = before.phases[: phase + 1]
    empty = PairTest(
        before.arm,
        after.arm,
        phases[-1]["name"],
        after.phases[-1]["name"],
        (_epochs(phases), _epochs(after.phases)),
        before.seed,
        split,
    )
    try:
        there = read_same_items([(before, empty.before_phase), (after, empty.after_phase)], split)
        known = replace(empty, num_items=len(there.refs), num_speakers=there.num_speakers)
        tests = _TESTS[before.kind](there.refs, *there.hyps, groups=there.drawn_by, resamples=resamples)
        return replace(known, **tests)
    except (
        ValueError
    ) as error:  # hypotheses that were not kept, or of other items: the scores stand all the same
        return replace(empty, problem=str(error))


def _of_words(
    refs: Sequence[Sequence[str]], before: Sequence[str], after: Sequence[str], **drawing: Any
) -> dict[str, Any]:
    said = [ref[0] for ref in refs]
    bootstrap = bootstrap_wer(said, before, after, **drawing)
    return {"bootstrap": bootstrap, "mapsswe": mapsswe(said, before, after)}


def _of_captions(
    refs: Sequence[Sequence[str]], before: Sequence[str], after: Sequence[str], **drawing: Any
) -> dict[str, Any]:
    return {"bootstrap": bootstrap_bleu(refs, before, after, **drawing)}


def _of_classes(
    refs: Sequence[Sequence[str]], before: Sequence[str], after: Sequence[str], **drawing: Any
) -> dict[str, Any]:
    classes = [ref[0] for ref in refs]
    bootstrap = bootstrap_error_rate(classes, before, after, **drawing)
    return {"bootstrap": bootstrap, "mcnemar": mcnemar(classes, before, after)}


_TESTS: Mapping[Kind, Callable[..., dict[str, Any]]] = {
    SPEECH: _of_words,
    CAPTIONS: _of_captions,
    CLASSIFICATION: _of_classes,
}
"""The tests of each kind of network, by their names in ``PairTest``."""


def _epochs(phases: Sequence[Record]) -> int:
    return sum(record["epochs"] for record in phases)


def _holm(p_values: Sequence[float | None]) -> list[float | None]:
    corrected = iter(holm([p_value for p_value in p_values if p_value is not None]))
    return [None if p_value is None else next(corrected) for p_value in p_values]
