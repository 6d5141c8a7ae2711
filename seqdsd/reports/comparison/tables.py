"""A comparison as tables: the paper's Table 10 and Table 1, its contrasts, its seeds, and its networks pair by pair.

Only which number stands where; ``contrasts`` and ``pairs`` compute, ``layout`` lays out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean

from seqdsd.kinds import NONE, Kind, Metric, Number
from seqdsd.records import slug
from seqdsd.records.asked_seeds import AskedSeeds
from seqdsd.reports.comparison.arms import Arm, ArmPhase, Comparison
from seqdsd.reports.comparison.contrasts import Contrast, Effect, contrasts, spread, verdict
from seqdsd.reports.comparison.pairs import PairTest
from seqdsd.reports.layout import Cells, Grid
from seqdsd.reports.phase_table import learning_rate, phase_title
from seqdsd.reports.runs.items import FEWEST_SPEAKERS
from seqdsd.reports.runs.reading import Run
from seqdsd.reports.runs.scores import span

_FIRST_PHASE_MARK = " †"
_CIRCUMSTANCES = {
    "git_commit": "git commits",
    "threads": "numbers of threads",
    "machine": "machines",
    "device_used": "devices",
}
_IMPROVEMENT = "An improvement above 0 is better."


def table_10(comparison: Comparison, *, split: str, family: Sequence[Metric]) -> Grid:
    """Every phase of every arm over the seeds; a phase that arms share stands there once.

    Args:
        comparison: Of any arms.
        split: A test set, or dev.
        family: The scores of the table; one alone has its standard deviation in a column of its own.
    """
    rows: dict[Cells, list[str]] = {}
    for arm in comparison.arms:
        for phase in arm.phases:
            rows.setdefault(_phase_cells(phase, split, family), []).append(arm.name)
    sections: dict[str, list[Cells]] = {}
    for cells, names in rows.items():
        sections.setdefault(", ".join(names), []).append(cells)
    own = [tuple((names, *cells[1:]) for cells in section) for names, section in sections.items()]
    return Grid(
        name=slug(f"table 10 {comparison.title} {split} {family[-1].title}"),
        header=("Arm", "Phase", *_score_titles(split, family), "Seeds", "Sparsity", "Epochs", "LR"),
        sections=(*own, _improvement_rows(comparison, split, family)),
        caption=_table_10_caption(comparison, split, family),
        num_labels=2,
        num_last=4,
    )


def contrast_grid(comparison: Comparison, *, split: str, family: Sequence[Metric]) -> Grid:
    """Every contrast of the arms with both t-tests; the contrasts of one score are a family of tests."""
    sections = tuple(
        tuple(_contrast_cells(one) for one in contrasts(comparison, split=split, metric=metric))
        for metric in family
    )
    return Grid(
        name=slug(f"contrasts {comparison.title} {split} {family[-1].title}"),
        header=(
            "Score",
            "Contrast",
            "Epochs",
            "Before",
            "After",
            "Improve\n(abs)",
            "Improve\n(rel)",
            "Unpaired\n95 % CI",
            "p",
            "Paired\n95 % CI",
            "p",
            "Verdict",
        ),
        sections=sections,
        caption=_contrasts_caption(comparison, split, family),
        num_labels=2,
        num_last=5,
    )


def seed_grid(comparison: Comparison, *, split: str, metric: Metric) -> Grid:
    """Every arm's score by seed, then mean and standard deviation."""
    arms = comparison.arms
    seeds = sorted({seed for arm in arms for seed in (*arm.runs, *arm.unfinished)})
    scores = [list(arm.scores(split, metric).values()) for arm in arms]
    rows = tuple((str(seed), *(_seed_cell(arm, seed, split, metric) for arm in arms)) for seed in seeds)
    summary = (
        ("Mean", *(metric.written(_mean(one)) for one in scores)),
        ("SD", *(metric.written(spread(one)) for one in scores)),
    )
    return Grid(
        name=slug(f"seeds {comparison.title} {split} {metric.title}"),
        header=("Seed", *(arm.name for arm in arms)),
        sections=(rows, summary),
        caption=_paragraph(
            f"{comparison.title}: {split} {metric.title} of each arm's last phase{_in_percent([metric])}",
            *comparison_notes(comparison),
        ),
    )


def pair_grid(comparison: Comparison, tests: Sequence[PairTest]) -> Grid:
    """Networks of one seed against each other, by what they said (see ``pairs``)."""
    kind, metric = comparison.kind, comparison.kind.primary
    titles, cells_of = _PAIR_TESTS[kind.pair_test]
    header = (
        "Seed",
        "Contrast",
        "Before",
        "After",
        "Improve\n(abs)",
        "Improve\n(rel)",
        "Bootstrap\n95 % CI",
        "p (Holm)",
    )
    by_seed: dict[int, list[Cells]] = {}
    for test in tests:
        cells = (*_pair_cells(test, metric), *cells_of(test), _pair_verdict(test, kind))
        by_seed.setdefault(test.seed, []).append(cells)
    return Grid(
        name=slug(f"pairs {comparison.title} {tests[0].split if tests else ''}"),
        header=(*header, *titles, "Verdict"),
        sections=tuple(map(tuple, by_seed.values())),
        caption=_pairs_caption(comparison, tests),
        num_labels=2,
        num_last=len(titles) + 1,
    )


def table_1(comparisons: Sequence[Comparison]) -> Grid:
    """A row a network, corpus and test set: what DSDSD, or else DSD, gains on the baseline."""
    rows = [row for one in comparisons for split in one.scored_splits if (row := _overview_cells(one, split))]
    caption = (
        "Baseline: one dense phase, of as many epochs as the arm beside it, or as many as that says (the baseline's "
        "first). Means over the seeds that both have (of all where both have two or more and one or none in common); "
        "error rates and their improvements in percent, BLEU from 0 to 100, relative improvements in percent. "
        f"{_IMPROVEMENT} Verdict: of the t-test over the seeds, Holm-corrected for the "
        "contrasts of the comparison."
    )
    if any(_FIRST_PHASE_MARK in cell for row in rows for cell in row):
        caption += " †: no baseline has a score there; the run's own first phase, of fewer epochs."
    for one in comparisons:
        if undone := _undone(one):
            caption += f" {one.title}: {undone[0]}."
    return Grid(
        name="table-1",
        header=(
            "Network",
            "Domain",
            "Corpus",
            "Score",
            "Seeds",
            "Baseline",
            "Arm",
            "DSD",
            "Abs.",
            "Rel.",
            "Verdict",
        ),
        sections=(tuple(rows),),
        caption=caption,
        num_labels=4,
        num_last=3,
    )


def comparison_notes(comparison: Comparison) -> list[str]:
    """What a reader of any table must know: how the baseline is annealed, which runs do not count or had diverged."""
    notes = []
    own, others = comparison.baseline_anneal, comparison.anneal
    if comparison.arm("Baseline") and comparison.settings.get("optimizer.curve") == "cosine":
        beside = "" if others is None else ", that of the other arms within each phase"
        notes.append(f"The baseline's learning rate makes one cycle over all its epochs{beside}")
    if comparison.arm("Baseline") and own not in (None, 1.0 if others is None else others):
        beside = "" if others is None else f", that of the other arms by {others:g} within each phase"
        notes.append(f"The baseline's learning rate is divided by {own:g} an epoch{beside}")
    if comparison.unfinished:
        said = (
            f"{run.name} ({len(run.phases)} of {run.num_planned} phases)" for run in comparison.unfinished
        )
        notes.append(f"Unfinished and not counted: {', '.join(said)}")
    if missing := _missing(comparison):
        notes.append(f"Not there: {'; '.join(missing)}")
    if comparison.left_out:
        notes.append(f"Not counted: {'; '.join(refusal.message for refusal in comparison.left_out)}")
    if to_come := comparison.still_to_come:
        notes.append(
            f"Asked for and not there yet: seed{'' if len(to_come) == 1 else 's'} {', '.join(map(str, to_come))}; "
            "finish them, for who stops where a result pleases finds too much"
        )
    notes += [added_in_words(one, num_looks=len(comparison.looks) + 1) for one in comparison.looks[-1:]]
    return notes + _undone(comparison) + _nearly_sparse(comparison) + _circumstances(comparison)


def _undone(comparison: Comparison) -> list[str]:
    """Where epochs had diverged: after each a phase is trained on at half the rate, and others beside it are not."""
    arms: dict[tuple[str, int, tuple[int, ...]], list[str]] = {}
    for arm in comparison.arms:
        for phase in arm.phases:
            for seed, record in phase.records.items():
                if epochs := tuple(one["epoch"] for one in record.get("restarts", [])):
                    arms.setdefault((phase.name, seed, epochs), []).append(arm.name)
    said = (
        f"{phase} of {' and '.join(names)}, seed {seed} (epoch {', '.join(map(str, epochs))})"
        for (phase, seed, epochs), names in arms.items()
    )
    return [f"Diverged, undone and trained on at half the rate, each time: {'; '.join(said)}"] if arms else []


def _nearly_sparse(comparison: Comparison) -> list[str]:
    """Where a redense phase has hardly brought weights back: what is compared there is a sparse network."""
    said = []
    for arm in comparison.arms:
        for phase in arm.phases:
            restored = {seed: record.get("restored") for seed, record in phase.records.items()}
            shares = {seed: one["share"] for seed, one in restored.items() if one and one["is_nearly_sparse"]}
            if shares:
                percent = ", ".join(f"{100 * share:.0f} % with seed {seed}" for seed, share in shares.items())
                said.append(f"{phase.name} of {arm.name} ({percent})")
    return [
        "Still nearly sparse, for the redense phase was too short or too slow; mean |w| of restored weights, of the "
        f"former: {'; '.join(said)}"
        for _ in said[:1]
    ]


def added_in_words(asked: AskedSeeds, *, num_looks: int | None = None) -> str:
    """What adding seeds after a look does to p-values; empty where no result could be looked at before."""
    if not asked.is_after_a_look:
        return ""
    added, before = (", ".join(map(str, seeds)) for seeds in (asked.seeds, asked.with_results))
    looks = "number of looks" if num_looks is None else f"{num_looks} looks"
    return (
        f"Seed{'' if len(asked.seeds) == 1 else 's'} {added} came after a look at the result of seeds {before}: who "
        "adds seeds until a test is significant finds too much, so the verdicts' p-values are multiplied by the "
        f"{looks}"
    )


def _missing(comparison: Comparison) -> list[str]:
    """Seeds that some arms have and others have not even begun."""
    said = []
    for arm in comparison.arms:
        if absent := [seed for seed in comparison.seeds if seed not in {**arm.runs, **arm.unfinished}]:
            said.append(f"{arm.name} of seed{'' if len(absent) == 1 else 's'} {', '.join(map(str, absent))}")
    return said


def _circumstances(comparison: Comparison) -> list[str]:
    """In what the runs' making differs, which may change a result."""
    made = [_making(run) for arm in comparison.arms for run in arm.runs.values()]
    said = []
    for what in dict.fromkeys(what for one in made for what in one):
        found = sorted({one[what] for one in made if what in one})
        if len(found) > 1:
            said.append(f"{what} ({'; '.join(found)})")
    return [f"The runs were made with different {' and '.join(said)}"] if said else []


def _making(run: Run) -> dict[str, str]:
    """What of a run's provenance may change a result, as far as it is known."""
    known = {what: run.provenance.get(key) for key, what in _CIRCUMSTANCES.items()}
    versions = run.provenance.get("versions")
    if isinstance(versions, Mapping):
        known |= {f"versions of {package}": version for package, version in versions.items()}
    return {what: str(value) for what, value in known.items() if value is not None}


def _phase_cells(phase: ArmPhase, split: str, family: Sequence[Metric]) -> Cells:
    """All cells of a row, with the scores by seed in place of the arm: rows are of one phase where these are equal."""
    scores = [phase.scores(split, metric) for metric in family]
    first = next(iter(phase.records.values()))
    rates = learning_rate(first) if "given" in first else span(phase.values("learning_rate"))
    return (
        repr(scores),
        phase_title(first),
        *_score_cells([list(one.values()) for one in scores], family),
        str(len(phase.records)),
        span(100 * sparsity for sparsity in phase.values("sparsity")) + "%",
        span(phase.values("epochs")),
        rates,
    )


def _score_titles(split: str, family: Sequence[Metric]) -> Cells:
    if len(family) == 1:
        return f"{split} {family[0].title}\nmean", "SD"
    return tuple(f"{split}\n{metric.title}" for metric in family)


def _score_cells(scores: Sequence[Sequence[Number]], family: Sequence[Metric]) -> Cells:
    means = [metric.written(_mean(one)) for one, metric in zip(scores, family, strict=True)]
    spreads = [metric.written(spread(one)) for one, metric in zip(scores, family, strict=True)]
    if len(family) == 1:
        return means[0], spreads[0]
    return tuple(_with_spread(middle, sd) for middle, sd in zip(means, spreads, strict=True))


def _with_spread(middle: str, sd: str) -> str:
    return middle if sd == NONE else f"{middle} ± {sd}"


def _improvement_rows(comparison: Comparison, split: str, family: Sequence[Metric]) -> tuple[Cells, ...]:
    """How far DSD and DSDSD improve on the baseline, in points and relative to it."""
    made = [contrasts(comparison, split=split, metric=metric) for metric in family]
    rows: list[Cells] = []
    for arm in ("DSD", "DSDSD"):
        pairs = [
            next((one for one in some if (one.after.arm, one.before.arm) == (arm, "Baseline")), None)
            for some in made
        ]
        if any(pairs):
            gains = [
                metric.written(one.improvement if one else None)
                for metric, one in zip(family, pairs, strict=True)
            ]
            shares = [
                _relative(one.relative if one else None, metric)
                for metric, one in zip(family, pairs, strict=True)
            ]
            name = next(one.name_and_epochs for one in pairs if one)
            for title, cells in (("Improve (abs)", gains), ("Improve (rel)", shares)):
                scores = (cells[0], NONE) if len(family) == 1 else tuple(cells)
                rows.append((title, name, *scores, *[NONE] * 4))
    return tuple(rows)


def _contrast_cells(contrast: Contrast) -> Cells:
    metric = contrast.metric
    sides = (contrast.before, contrast.after)
    return (
        metric.title,
        contrast.name,
        contrast.epochs,
        *(
            _with_spread(metric.written(side.mean), metric.written(spread(list(side.scores.values()))))
            for side in sides
        ),
        metric.written(contrast.improvement),
        _relative(contrast.relative, metric),
        *_effect_cells(contrast.unpaired, metric),
        *_effect_cells(contrast.paired, metric),
        contrast.verdict,
    )


def _effect_cells(effect: Effect | None, metric: Metric) -> Cells:
    if effect is None:
        return NONE, NONE
    return _interval(effect.low, effect.high, metric), _p_value(effect.p_value)


def _seed_cell(arm: Arm, seed: int, split: str, metric: Metric) -> str:
    if seed in arm.unfinished:
        return "unfinished"
    return metric.written(arm.scores(split, metric).get(seed))


def _pair_cells(test: PairTest, metric: Metric) -> Cells:
    labels = (str(test.seed), test.name)
    found = test.bootstrap
    if found is None:
        return *labels, *[NONE] * 6
    sign = -1 if metric.is_error else 1
    low, high = sorted((sign * found.difference.low, sign * found.difference.high))
    return (
        *labels,
        metric.written(found.before.value),
        metric.written(found.after.value),
        metric.written(sign * found.difference.value),
        _relative(sign * found.relative if math.isfinite(found.relative) else None, metric),
        _interval(low, high, metric),
        _p_value(test.bootstrap_holm),
    )


def _segment_cells(test: PairTest) -> Cells:
    found = test.mapsswe
    if found is None:
        return NONE, NONE, NONE
    # As everywhere, above 0 is better.
    return str(found.num_segments), f"{-found.z:z.2f}", _p_value(test.mapsswe_holm)


def _mcnemar_cells(test: PairTest) -> Cells:
    found = test.mcnemar
    if found is None:
        return NONE, NONE, NONE
    return str(found.only_before), str(found.only_after), _p_value(test.mcnemar_holm)


_PAIR_TESTS: Mapping[str | None, tuple[Cells, Callable[[PairTest], Cells]]] = {
    "mapsswe": (("MAPSSWE\nsegments", "z", "p (Holm)"), _segment_cells),
    "mcnemar": (("Right only\nbefore", "Right only\nafter", "McNemar\np (Holm)"), _mcnemar_cells),
    None: ((), lambda test: ()),
}
"""What stands beside the bootstrap, by ``Kind.pair_test``."""

_PAIR_TEST_NAMES = {
    "mapsswe": ("MAPSSWE", ", and the matched-pairs sentence-segment word error test (MAPSSWE)"),
    "mcnemar": ("McNemar's test", ", and McNemar's exact test of the images that one of both got right"),
    None: ("the bootstrap", ""),
}


def _pair_verdict(test: PairTest, kind: Kind) -> str:
    """By what ``PairTest.deciding_p`` names."""
    p_value, metric = test.deciding_p(kind), kind.primary
    if p_value is None or test.bootstrap is None:
        return "no test"
    return verdict(p_value, metric.gain(test.bootstrap.before.value, test.bootstrap.after.value))


def _overview_cells(comparison: Comparison, split: str) -> Cells | None:
    metric = comparison.kind.primary
    arm = comparison.arm("DSDSD") or comparison.arm("DSD")
    if arm is None or not (scores := arm.scores(split, metric)):
        return None
    made = contrasts(comparison, split=split, metric=metric)
    one = next((one for one in made if (one.after.arm, one.before.arm) == (arm.name, "Baseline")), None)
    epochs, mark, said = "", _FIRST_PHASE_MARK, "no baseline"
    if one:
        epochs, mark, said = "" if one.is_equal_epochs else f" ({one.epochs} epochs)", "", one.verdict
        before, after = list(one.before.scores.values()), list(one.after.scores.values())
    else:
        before, after = list(arm.scores(split, metric, phase=0).values()), list(scores.values())
    gain = metric.gain(mean(before), mean(after)) if before else None
    return (
        comparison.network,
        comparison.kind.title,
        comparison.corpus + comparison.told_apart_by + ("" if split == "test" else f", {split}"),
        metric.title,
        span((len(after), len(before))),
        metric.written(_mean(before)) + mark,
        arm.name + epochs,
        metric.written(_mean(after)),
        metric.written(gain),
        _relative(gain / mean(before) if gain is not None and mean(before) else None, metric),
        said,
    )


def _table_10_caption(comparison: Comparison, split: str, family: Sequence[Metric]) -> str:
    seeds = comparison.seeds
    number = f"seeds {', '.join(map(str, seeds))}" if len(seeds) > 1 else "one seed: no spread and no test"
    return _paragraph(
        f"{comparison.title}: {split} scores, mean and standard deviation over {number}{_in_percent(family)}",
        "An arm's score is that of its last phase; phases that arms share were trained once",
        f"Training and evaluation took {_hours(comparison.seconds)} in all",
        f"Improve: of the means over the seeds that both arms have, relative in percent; unlike epochs are given, the "
        f"baseline's first. {_IMPROVEMENT[:-1]}",
        *comparison_notes(comparison),
        *_signatures(comparison, split, family),
    )


def _hours(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def _contrasts_caption(comparison: Comparison, split: str, family: Sequence[Metric]) -> str:
    return _paragraph(
        f"{comparison.title}: contrasts on {split}, epochs and scores (mean ± standard deviation over the seeds) of "
        f"both sides, before first{_in_percent(family)}",
        f"{_IMPROVEMENT[:-1]}; relative ones are in percent",
        "LLR is taken after as many phases as the other side has; each contrast is over the seeds that both arms have",
        "Unpaired: Welch's t-test, as Table 10 of the paper; paired: of the differences seed by seed",
        "Confidence intervals and the p-values beside them (two-sided) are of each contrast alone, not corrected",
        "Verdict: by the p-value of the paired test where there are two seeds or more that both arms have, else of the "
        "unpaired, Holm-corrected for the contrasts of one score",
        *comparison_notes(comparison),
    )


def _pairs_caption(comparison: Comparison, tests: Sequence[PairTest]) -> str:
    kind, metric = comparison.kind, comparison.kind.primary
    problems = dict.fromkeys(test.problem for test in tests if test.problem)
    made = [test for test in tests if test.bootstrap]
    name, and_test = _PAIR_TEST_NAMES[kind.pair_test]
    by = dict.fromkeys("the bootstrap" if test.is_by_speaker else name for test in made)
    return _paragraph(
        f"{comparison.title}: networks of the same seed on the same {kind.counted}, {metric.title}"
        f"{_in_percent([metric])}",
        f"{_IMPROVEMENT[:-1]}; relative ones are in percent",
        f"Paired bootstrap{_drawn(made)}{and_test}",
        "Intervals are of each pair alone; p-values are two-sided and Holm-corrected for the "
        f"{len(made)} pairs tested, each test for itself, and the verdict is by {' or '.join(by) or name}",
        "They say nothing of what another seed would give",
        *(_of_speakers(made, kind) if kind.has_word_errors else ()),
        *(f"No test: {problem}" for problem in problems),
    )


def _drawn(made: Sequence[PairTest]) -> str:
    """How often test sets were drawn."""
    counts = [test.bootstrap.resamples for test in made if test.bootstrap]
    return f" ({span(counts)} resamples of the test set)" if counts else ""


def _of_speakers(made: Sequence[PairTest], kind: Kind) -> Iterator[str]:
    """Whether speakers were drawn, and if not why not and what that does."""
    narrow = f"so {kind.counted} are drawn, and where few speakers said many of them intervals are too narrow"
    for by_speaker, known in dict.fromkeys((test.is_by_speaker, test.num_speakers) for test in made):
        if by_speaker:
            yield (
                f"The bootstrap draws the test set's {known} speakers, each with all {kind.counted}, since those "
                "of one speaker are not independent; MAPSSWE takes them for that"
            )
        elif known:
            yield f"The test set has too few speakers to draw these ({known}, not {FEWEST_SPEAKERS}), {narrow}"
        else:
            yield f"Who speaks is not recorded, {narrow}"


def _signatures(comparison: Comparison, split: str, family: Sequence[Metric]) -> list[str]:
    """How the scores were computed; scores of different signatures are not to be compared."""
    kept = [record.get(split) or {} for run in comparison.runs for record in run.phases]
    found = list(dict.fromkeys(scores["signature"] for scores in kept if "signature" in scores))
    notes = []
    if family[0].key.startswith("neuraltalk_"):
        notes.append("NeuralTalk BLEU is without the brevity penalty, as its script counts")
    if len(found) > 1:
        notes.append(f"The scores were computed in different ways and may not compare: {'; '.join(found)}")
    return notes + ([f"Signature: {found[0]}"] if len(found) == 1 else [])


def _paragraph(*sentences: str) -> str:
    return " ".join(f"{sentence.rstrip('.')}." for sentence in sentences)


def _in_percent(family: Sequence[Metric]) -> str:
    return ", in percent" if family[0].unit == "%" else ", from 0 to 100"


def _mean(scores: Sequence[Number]) -> float | None:
    return float(mean(scores)) if scores else None


def _relative(share: float | int | None, metric: Metric) -> str:
    return NONE if share is None else f"{100 * share:z.{metric.decimals}f}"


def _interval(low: float, high: float, metric: Metric) -> str:
    return f"[{metric.written(low)}, {metric.written(high)}]"


def _p_value(p_value: float | None) -> str:
    if p_value is None:
        return NONE
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
