"""One arm against another over the seeds: how much better, and whether that is more than chance.

An improvement above 0 is better whichever way a score points. A contrast is of the seeds that both arms have, so that a
missing run does not set unlike seeds beside each other; of all seeds only where none is common, or where one is but
both arms have two or more. Each contrast is tested by both t-tests, one of which counts; the contrasts of one split and
score are a family, within which Holm's method corrects the p-values that count.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev
from typing import Literal

from seqdsd.kinds import Metric, Number
from seqdsd.metrics.significance import (
    MeanTest,
    detectable,
    holm,
    in_words,
    paired_t_test,
    unpaired_t_test,
)
from seqdsd.reports.comparison.arms import Arm, Comparison
from seqdsd.reports.runs.reading import ArmName
from seqdsd.reports.runs.scores import span

ALPHA = 0.05

PAIRS: tuple[tuple[ArmName, ArmName], ...] = (
    ("DSD", "Baseline"),
    ("DSD", "LLR"),
    ("DSDSD", "Baseline"),
    ("DSDSD", "LLR"),
    ("LLR", "Baseline"),
    ("DSDSD", "DSD"),
)
"""What is compared: the arm after, and the one before it."""


@dataclass(frozen=True)
class Effect:
    """What a t-test says of a contrast, turned so that above 0 is better.

    Attributes:
        test: Which.
        count: Seeds before and after.
        improvement: Of the mean, in the score's units.
        relative: The improvement as a share of the mean before; None where that is 0.
        low: Lower end of the improvement's 95 % confidence interval, of this contrast alone.
        high: Upper end.
        p_value: Two-sided, of this contrast alone.
        standard_error: Of the improvement; 0 where nothing varies.
        degrees_of_freedom: Of the test.
    """

    test: Literal["unpaired t-test", "paired t-test"]
    count: tuple[int, int]
    improvement: float
    relative: float | None
    low: float
    high: float
    p_value: float
    standard_error: float
    degrees_of_freedom: float

    def could_find(self, *, num_tests: int = 1) -> float | None:
        """The smallest true improvement that the test finds at 80 % power, by the scatter seen; None if there is none.

        Args:
            num_tests: Over how many alpha is divided: what is found then is so after Holm's correction, too.
        """
        if not self.standard_error:
            return None
        return detectable(
            standard_error=self.standard_error,
            degrees_of_freedom=self.degrees_of_freedom,
            alpha=ALPHA / num_tests,
        )


@dataclass(frozen=True)
class Side:
    """An arm in a contrast, at the end of one of its phases.

    Attributes:
        arm: Its name.
        phase: The phase's name.
        epochs: Trained until then; by seed, where phases ended early.
        scores: By seed.
    """

    arm: ArmName
    phase: str
    epochs: tuple[int, ...]
    scores: Mapping[int, Number]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return float(mean(self.scores.values()))


@dataclass(frozen=True)
class Contrast:
    """Two arms' scores on one split.

    Attributes:
        before: What is compared with; of LLR the phase after as many epochs as the other side has.
        after: What is compared.
        split: Where it is scored.
        metric: By what.
        unpaired: Welch's t-test of both sides' scores; None where it cannot be made.
        paired: The t-test of the differences seed by seed; None where it cannot be made.
        problem: Why there are no statistics; empty where there are.
        p_holm: The p-value of the test that counts, corrected for the family; None where none counts.
        family: How many contrasts were corrected for.
        num_looks: How often a result was looked at before seeds were added, this time included: corrected for, too.
    """

    before: Side
    after: Side
    split: str
    metric: Metric
    unpaired: Effect | None
    paired: Effect | None
    problem: str = ""
    p_holm: float | None = None
    family: int = 1
    num_looks: int = 1

    @property
    def name(self) -> str:
        """``DSDSD on Baseline``, or ``DSD on LLR Phase 2``."""
        return contrast_name(self.after.arm, self.before.arm, self.before.phase)

    @property
    def name_and_epochs(self) -> str:
        """The name, with the epochs where they are unlike: for tables that have no column for them."""
        return self.name if self.is_equal_epochs else f"{self.name} ({self.epochs} epochs)"

    @property
    def epochs(self) -> str:
        """Of both sides, before first."""
        return " : ".join(span(side.epochs) for side in (self.before, self.after))

    @property
    def improvement(self) -> float:
        """Of the mean, in the score's units; above 0 is better."""
        return float(self.metric.gain(self.before.mean, self.after.mean))

    @property
    def relative(self) -> float | None:
        """The improvement as a share of the mean before; None where that is 0."""
        return self.improvement / self.before.mean if self.before.mean else None

    @property
    def effect(self) -> Effect | None:
        """The test that counts: paired where both sides have the same seeds, since these share what a seed decides."""
        return self.paired if self.before.scores.keys() == self.after.scores.keys() else self.unpaired

    @property
    def is_significant(self) -> bool:
        """Whether the corrected p-value is below 5 %."""
        return self.p_holm is not None and self.p_holm < ALPHA

    @property
    def verdict(self) -> str:
        """The corrected p-value in words, and what it is significant for; why there is none, where there is none."""
        return f"no test: {self.problem}" if self.p_holm is None else verdict(self.p_holm, self.improvement)

    @property
    def is_equal_epochs(self) -> bool:
        """Whether both sides were trained as long."""
        return set(self.before.epochs) == set(self.after.epochs)


def contrast_name(after: ArmName, before: ArmName, before_phase: str) -> str:
    """The arm after on the one before; of LLR the phase is named, which need not be its last."""
    return f"{after} on {before_phase if before == 'LLR' else before}"


def verdict(p_value: float, improvement: float) -> str:
    """A p-value in words, corrected or not, and if it is significant for what: an improvement above 0 is better."""
    said = in_words(p_value, alpha=ALPHA)
    if p_value >= ALPHA:
        return said
    return f"better, {said}" if improvement > 0 else f"worse, {said}"


def contrasts(comparison: Comparison, *, split: str, metric: Metric) -> tuple[Contrast, ...]:
    """All contrasts of the arms that have a score there: one family of tests."""
    made = []
    for after_name, before_name in PAIRS:
        after, before = comparison.arm(after_name), comparison.arm(before_name)
        if after and before and (one := _contrast(*_of_common_seeds(before, after), split, metric)):
            made.append(one)
    return tuple(_corrected(made, 1 + len(comparison.looks)))


def headline(comparison: Comparison, *, against: Literal["Baseline", "LLR"] = "Baseline") -> str:
    """The comparison's result in one sentence: DSDSD, or else DSD, on the first test set.

    The difference, its confidence interval and what the test says, whatever that is.

    Args:
        comparison: Of any arms.
        against: The equal-epoch baseline; or LLR, the same phases and learning rates without pruning.
    """
    arm = comparison.arm("DSDSD") or comparison.arm("DSD")
    if comparison.seeds and not comparison.test_splits:
        corpus = _capital(comparison.corpus)
        return f"{corpus}: test was not scored, so there is no result; dev scores only choose settings."
    if arm is None or not comparison.test_splits:
        return f"{_capital(comparison.corpus)}: no complete run of DSD with a test score."
    metric, split = comparison.kind.primary, comparison.test_splits[0]
    for contrast in contrasts(comparison, split=split, metric=metric):
        if (contrast.after.arm, contrast.before.arm) == (arm.name, against):
            return f"{_capital(comparison.corpus)}, {_in_words(contrast)}"
    scores = list(arm.scores(split, metric).values())
    other = "equal-epoch baseline" if against == "Baseline" else "run without pruning (LLR)"
    return (
        f"{_capital(comparison.corpus)}, {_seeds(len(scores))}: {arm.name} {score_in_words(scores, metric)}; "
        f"no {other} is there, so this does not show that pruning helped."
    )


def headlines(comparison: Comparison) -> list[str]:
    """The sentence against the baseline and, where there is one, that against the same without pruning."""
    against_llr = [headline(comparison, against="LLR")] if comparison.arm("LLR") else []
    return list(dict.fromkeys([headline(comparison), *against_llr]))


def score_in_words(scores: Sequence[Number], metric: Metric, *, is_named: bool = True) -> str:
    """Mean and standard deviation over seeds: ``9.81 ± 0.42 % WER``."""
    if not scores:
        return f"without a {metric.title}"
    text = metric.written(mean(scores))
    if len(scores) > 1:
        text += f" ± {metric.written(spread(scores))}"
    return " ".join([text, *([metric.unit] if metric.unit else []), *([metric.title] if is_named else [])])


def spread(scores: Sequence[Number]) -> float | None:
    """Standard deviation over seeds, estimated (divided by their number less 1); None of fewer than two."""
    return float(stdev(scores)) if len(scores) > 1 else None


def _in_words(contrast: Contrast) -> str:
    metric, before, after = contrast.metric, contrast.before, contrast.after
    counts = list(dict.fromkeys((len(after.scores), len(before.scores))))
    scores = score_in_words(list(after.scores.values()), metric, is_named=False)
    against = score_in_words(list(before.scores.values()), metric)
    said = f"{_seeds(*counts)}: {after.arm} {scores} against {_named(contrast)} {against}: improvement "
    effect = contrast.effect
    if effect is None:
        return f"{said}{_signed(metric, contrast.improvement)} points; no statistics: {contrast.problem}."
    relative = "" if effect.relative is None else f" ({_minus(f'{100 * effect.relative:z.1f}')} % relative)"
    interval = f"95 % CI [{_signed(metric, effect.low)}, {_signed(metric, effect.high)}]"
    verdict = f"significantly {contrast.verdict}" if contrast.is_significant else contrast.verdict
    test: str = effect.test
    if contrast.family > 1:  # an interval without 0 may stand beside a p-value that is not significant
        interval += " of this contrast alone"
        test += f", p Holm-corrected over {contrast.family} contrasts"
    if contrast.num_looks > 1:
        test += f", times {contrast.num_looks} looks at the result"
    said += f"{_signed(metric, effect.improvement)} points{relative}, {interval}, {verdict}; {test}."
    return " ".join([said, *_power_in_words(contrast, effect)])


def _power_in_words(contrast: Contrast, effect: Effect) -> list[str]:
    """What the test could have found; nothing where nothing varies."""
    num_tests = contrast.family * contrast.num_looks
    alone, corrected = effect.could_find(), effect.could_find(num_tests=num_tests)
    if alone is None or corrected is None:
        return []
    written = contrast.metric.written
    found = f"{written(corrected)} points at 80 % power"
    if num_tests > 1:
        found += f" ({written(alone)} if this contrast were the only test)"
    counts = dict.fromkeys(effect.count)
    return [f"With these {_seeds(*counts)} it could have found {found}, as far as their scatter tells."]


def _named(contrast: Contrast) -> str:
    """The other side, with the epochs of both where they differ."""
    name = "the equal-epoch baseline's" if contrast.before.arm == "Baseline" else f"{contrast.before.arm}'s"
    if contrast.is_equal_epochs:
        return name
    epochs = f"{span(contrast.before.epochs)} epochs to {span(contrast.after.epochs)}"
    return f"{name.replace('equal-epoch ', '')} ({epochs})"


def _seeds(*counts: int) -> str:
    return f"{' and '.join(map(str, counts))} seed{'' if counts == (1,) else 's'}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _signed(metric: Metric, value: float) -> str:
    return _minus(metric.written(value))


def _minus(text: str) -> str:
    return text.replace("-", "−")


def _of_common_seeds(before: Arm, after: Arm) -> tuple[Arm, Arm]:
    """Both arms with the seeds that both have; with all of theirs where only these allow a test, or none is common."""
    common = before.runs.keys() & after.runs.keys()
    if not common or (len(common) == 1 and min(len(before.runs), len(after.runs)) > 1):
        return before, after
    return before.of_seeds(common), after.of_seeds(common)


def _contrast(before: Arm, after: Arm, split: str, metric: Metric) -> Contrast | None:
    """None where a side has no score there."""
    one, other = _side(before, after, split, metric), _side(after, after, split, metric)
    if one is None or other is None:
        return None
    common = [seed for seed in one.scores if seed in other.scores]
    unpaired = paired = None
    if len(one.scores) > 1 and len(other.scores) > 1:
        unpaired = _effect(unpaired_t_test(list(one.scores.values()), list(other.scores.values())), metric)
    if len(common) > 1:
        paired = _effect(
            paired_t_test([one.scores[seed] for seed in common], [other.scores[seed] for seed in common]),
            metric,
        )
    made = Contrast(one, other, split, metric, unpaired, paired)
    return made if made.effect else replace(made, problem=_problem(made))


def _side(arm: Arm, after: Arm, split: str, metric: Metric) -> Side | None:
    """An arm where it is set beside ``after``; None where it has no such phase or no score there."""
    phase = arm.phase_beside(after)
    if phase is None or not (scores := arm.scores(split, metric, phase=phase)):
        return None
    return Side(arm.name, arm.phases[phase].name, arm.epochs(phase=phase), scores)


def _effect(test: MeanTest, metric: Metric) -> Effect | None:
    """The test turned so that above 0 is better; None where nothing varies, which would pass for certainty."""
    if math.isnan(test.p_value):
        return None
    sign = -1 if metric.is_error else 1
    low, high = sorted((sign * test.low, sign * test.high))
    return Effect(
        test=test.test,
        count=(test.before.count, test.after.count),
        improvement=sign * test.difference,
        relative=sign * test.relative if math.isfinite(test.relative) else None,
        low=low,
        high=high,
        p_value=test.p_value,
        standard_error=test.standard_error,
        degrees_of_freedom=test.degrees_of_freedom,
    )


def _problem(contrast: Contrast) -> str:
    counts = [len(side.scores) for side in (contrast.before, contrast.after)]
    if contrast.before.scores.keys() == contrast.after.scores.keys() and max(counts) == 1:
        return "both arms have one complete seed in common, and a test needs two"
    if min(counts) < 2:
        which = contrast.before if counts[0] < 2 else contrast.after
        return f"{which.arm} has one complete seed, and a test needs two"
    return "all seeds differ by the same, so that nothing is known of chance"


def _corrected(made: Sequence[Contrast], num_looks: int) -> list[Contrast]:
    """Correct the p-values that count, of whichever test, within the family; and for the looks (Bonferroni).

    A contrast whose seeds all differ by the same was tried like the others: it counts as one with p = 1, the most that
    it can add to the others' p-values.
    """
    tried = [one for one in made if min(len(one.before.scores), len(one.after.scores)) > 1]
    p_values = holm([one.effect.p_value if one.effect else 1.0 for one in tried])
    corrected = {
        id(one): min(1.0, num_looks * p_value)
        for one, p_value in zip(tried, p_values, strict=True)
        if one.effect
    }
    return [
        replace(one, p_holm=corrected.get(id(one)), family=len(tried), num_looks=num_looks) for one in made
    ]
