"""What DSD brought, from the records below recipes/, for those who read the README or docs/does-it-pay.md.

`python docs/does_it_pay.py` writes the table of the one, and the table and the pictures of the other.

Comparisons (compare-*) are folders, studies of retraining (retrain-*.tar.gz) packed ones. Of a study's arms the README
shows the one that is best on dev.
"""

from __future__ import annotations

import math
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from math import fsum
from pathlib import Path
from statistics import fmean

import altair as alt
import vl_convert

from seqdsd.kinds import Metric, Number
from seqdsd.metrics.significance import paired_t_test
from seqdsd.reports.comparison.arms import Comparison, compare_runs
from seqdsd.reports.comparison.contrasts import ALPHA, Contrast, contrasts, score_in_words
from seqdsd.reports.retraining.contrasts import StudyContrast, gains_on_parents, study_contrasts
from seqdsd.reports.retraining.study import RetrainingStudy, retraining_studies
from seqdsd.reports.runs.reading import Run, RunSet, read_runs

ROOT = Path(__file__).parents[1]
DOCS = Path(__file__).parent
README = ROOT / "README.md"
PAGE = DOCS / "does-it-pay.md"
README_HEADER = """\
| Task | Arm | Test score | DSD is better by [95 % CI] | Verdict |
| :-- | :-- | --: | --: | :-- |
"""
PAGE_HEADER = """\
| Task | Pruned | Rates | Restored to | DSD on LLR, % [95 % CI] | p | LLR on its start, % [95 % CI] | p |
| :-- | :-- | --: | --: | --: | --: | --: | --: |
"""
ARMS = ("Baseline", "LLR", "DSDSD")
LABEL_WIDTH = 330
COLOURS = {"better (p < 0.05)": "#1a7f4b", "worse (p < 0.05)": "#b3261e", "no difference seen": "#5b6b8c"}


@dataclass(frozen=True)
class Relative:
    """An improvement in percent of the mean score before it, which counts as known; above 0 is better.

    Its interval is of this improvement alone. p is corrected for the others of its study (Holm) and for looks that the
    study has noted; of a later phase on an earlier one it is not.
    """

    value: float
    low: float
    high: float
    p_value: float

    @property
    def said(self) -> str:
        """One of ``COLOURS``."""
        better, worse, neither = COLOURS
        return neither if self.p_value >= ALPHA else better if self.value > 0 else worse

    @classmethod
    def of(cls, contrast: Contrast | StudyContrast) -> Relative | None:
        """That of a contrast; None where there is no test."""
        if isinstance(contrast, StudyContrast):
            interval, before = contrast.interval, contrast.means[0]
        else:
            effect, before = contrast.effect, contrast.before.mean
            interval = (effect.low, effect.high) if effect else None
        if interval is None or contrast.p_holm is None or not before:
            return None
        value, low, high = (100 * one / before for one in (contrast.improvement, *interval))
        return cls(value, low, high, contrast.p_holm)

    @classmethod
    def of_seeds(
        cls, before: Mapping[int, Number], after: Mapping[int, Number], metric: Metric
    ) -> Relative | None:
        """Of a later phase on an earlier one of the same runs, paired by seed; None where there is no test."""
        seeds = [seed for seed in before if seed in after]
        if len(seeds) < 2:
            return None
        test = paired_t_test([before[seed] for seed in seeds], [after[seed] for seed in seeds])
        if math.isnan(test.p_value):
            return None
        low, high = sorted(metric.gain(0.0, end) for end in (test.low, test.high))
        scale = 100 / test.before.mean
        return cls(scale * metric.gain(0.0, test.difference), scale * low, scale * high, test.p_value)


@dataclass(frozen=True)
class Row:
    """One arm with pruning, beside the same phases without it and beside what these bring by themselves."""

    study: Path
    """Where its records lie."""
    llr: str
    """The name of the arm without pruning."""
    task: str
    arm: str
    ladder_name: str
    restored: float | None
    """Mean |w| of restored weights at the end, as a share of the former; None where no record says it."""
    pruning: Relative | None
    """DSD on LLR."""
    ladder: Relative | None
    """LLR on what it began with: the parents as they were, or its own first dense phase."""


@dataclass(frozen=True)
class Line:
    """Of a plot."""

    study: Path
    task: str
    arm: str
    found: Relative


@cache
def comparisons() -> list[Comparison]:
    """Those that are kept."""
    folders = sorted(ROOT.glob("recipes/*/records/compare-*"))
    return [one for folder in folders for one in compare_runs(read_runs([folder]).runs)]


def read_packed(archive: Path, folder: Path) -> RunSet:
    """The runs of a packed study, unpacked into a folder."""
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return read_runs([folder])


@cache
def studies() -> list[RetrainingStudy]:
    """Those that are kept."""
    found = []
    for archive in sorted(ROOT.glob("recipes/*/records/retrain-*.tar.gz")):
        with tempfile.TemporaryDirectory() as folder:
            made, _ = retraining_studies(read_packed(archive, Path(folder)).runs)
        if any(one.unfinished or one.left_out for one in made):
            raise ValueError(f"{archive}: not finished; finish the study, and pack it again")
        found += made
    return found


def results_table() -> str:
    """The README's: a row an arm of every kept comparison, and of every study the arm that is best on dev."""
    rows = [row for one in studies() for row in _study_rows(one)]
    return README_HEADER + "".join(rows + [row for one in comparisons() for row in _comparison_rows(one)])


def page_table(rows: Sequence[Row]) -> str:
    """The page's: each arm with pruning."""
    lines, study = [], Path()
    for row in rows:
        restored = "" if row.restored is None else f"{100 * row.restored:.0f} %"
        cells = (row.task if row.study != study else "", row.arm, row.ladder_name, restored)
        lines.append(f"| {' | '.join((*cells, *_said(row.pruning), *_said(row.ladder)))} |\n")
        study = row.study
    return PAGE_HEADER + "".join(lines)


def all_rows() -> list[Row]:
    """Of all studies and comparisons."""
    of_studies = [row for one in studies() for row in _rows_of_study(one)]
    return of_studies + [row for one in comparisons() for row in _rows_of_comparison(one)]


def draw(lines: Sequence[Line], title: str) -> str:
    """A forest plot as SVG: under each task its lines, from above, with the interval around each improvement."""
    data: list[dict[str, object]] = []
    for number, line in enumerate(lines):
        if not number or line.study != lines[number - 1].study:
            data.append({"what": f"{len(data):02d}{line.task}"})
        one = line.found
        values = {"value": one.value, "low": one.low, "high": one.high, "said": one.said}
        data.append({"what": f"{len(data):02d}  {line.arm}", **values})
    names = alt.Axis(
        labelExpr="slice(datum.label, 2)",  # without the number that orders it
        labelFontWeight={"condition": {"test": "datum.label[2] != ' '", "value": "bold"}, "value": "normal"},
        labelAlign="left",
        labelPadding=LABEL_WIDTH,
        labelLimit=LABEL_WIDTH,
        domain=False,
        ticks=False,
    )
    colours = alt.Scale(domain=list(COLOURS), range=list(COLOURS.values()))
    legend = alt.Legend(orient="bottom", title=None)
    base = alt.Chart(alt.Data(values=data)).encode(
        y=alt.Y("what:N", title=None, axis=names), color=alt.Color("said:N", scale=colours, legend=legend)
    )
    zero = alt.Chart(alt.Data(values=[{}])).mark_rule(color="#888", strokeDash=[3, 3]).encode(x=alt.datum(0))
    seen = base.transform_filter("isValid(datum.value)")
    interval = seen.mark_rule(strokeWidth=2).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    point = seen.mark_point(filled=True, size=60, opacity=1).encode(x="value:Q")
    rows = base.mark_point(opacity=0).encode(color=alt.value("transparent"))
    chart = alt.layer(rows, zero, interval, point).properties(
        width=420, height=20 * len(data), background="white"
    )
    return str(vl_convert.vegalite_to_svg(chart.to_json()))


def pruning_lines(rows: Sequence[Row]) -> list[Line]:
    """Of the plot of DSD on LLR."""
    return [
        Line(row.study, row.task, f"{row.arm}, rates {row.ladder_name}", row.pruning)
        for row in rows
        if row.pruning
    ]


def ladder_lines(rows: Sequence[Row]) -> list[Line]:
    """Of the plot of LLR on what it began with: once for all arms that stand beside it."""
    found = {
        (row.study, row.llr): Line(row.study, row.task, f"rates {row.ladder_name}", row.ladder)
        for row in rows
        if row.ladder
    }
    return list(found.values())


def _study_rows(study: RetrainingStudy) -> Iterator[str]:
    """The parents, LLR and DSD: the arm with pruning that is best on dev."""
    metric, split = study.kind.primary, study.splits[0]
    on_llr = {one.after: one for one in study_contrasts(study, split=split, metric=metric)}
    chosen = best_on_dev(study)
    if chosen is None or study.arms[chosen].llr is None:
        return
    pruned, contrast = study.arms[chosen], on_llr[chosen]
    on_parents = {one.after: one for one in gains_on_parents(study, split=split, metric=metric)}
    task = f"{_study_title(study)}: {metric.title}"
    means = {
        name: [fmean(repeats.values()) for repeats in study.arms[name].scores(split, metric).values()]
        for name in (contrast.before, chosen)
    }
    parents = [fmean(scores.values()) for scores in pruned.scores(split, metric, phase=0).values()]
    for name, scores, one in (
        ("before", parents, on_parents[chosen]),
        ("LLR", means[contrast.before], contrast),
        (
            f"DSD, {arm_in_words(pruned.first)}, rates {ladder_in_words(pruned.first)}",
            means[chosen],
            None,
        ),
    ):
        yield f"| {task} | {name} | {score_in_words(scores, metric, is_named=False)} | {_better(one)} |\n"
        task = ""


def best_on_dev(study: RetrainingStudy) -> str | None:
    """The arm with pruning that has the best mean dev score over parents."""
    metric = study.kind.primary
    made = study_contrasts(study, split="dev", metric=metric)
    return max(made, key=lambda one: metric.gain(0.0, one.means[1])).after if made else None


def arm_in_words(run: Run) -> str:
    """``50, then 25 %``, and what restored weights began with where it was not 0."""
    sparsity = ", then ".join(f"{100 * one['sparsity']:.0f}" for one in run.phases if one["sparsity"])
    start = run.settings.get("restored_start", "zero")
    return f"{sparsity} %{'' if start == 'zero' else f', from {start} values'}"


def ladder_in_words(run: Run) -> str:
    """``0.01, 0.001``: the learning rates of the phases after the first."""
    return ", ".join(f"{phase['learning_rate']:g}" for phase in run.phases[1:])


def _comparison_rows(comparison: Comparison) -> Iterator[str]:
    metric, split = comparison.kind.primary, comparison.test_splits[0]
    of_dsdsd = {
        one.before.arm: one
        for one in contrasts(comparison, split=split, metric=metric)
        if one.after.arm == "DSDSD"
    }
    task = f"{comparison.title}, {_seeds(comparison)}: {metric.title}"
    for name in ARMS:
        if arm := comparison.arm(name):
            score = score_in_words(list(arm.scores(split, metric).values()), metric, is_named=False)
            yield f"| {task} | {name} | {score} | {_difference(of_dsdsd.get(name))} |\n"
            task = ""


def _rows_of_study(study: RetrainingStudy) -> Iterator[Row]:
    metric, split = study.kind.primary, study.splits[0]
    on_parents = {one.after: one for one in gains_on_parents(study, split=split, metric=metric)}
    for contrast in study_contrasts(study, split=split, metric=metric):
        arm = study.arms[contrast.after]
        ladder = on_parents.get(contrast.before)
        yield Row(
            study.folder,
            contrast.before,
            _study_title(study),
            arm_in_words(arm.first) + _of_all(study, contrast.after),
            ladder_in_words(arm.first),
            _restored([repeat for repeats in arm.runs.values() for repeat in repeats.values()]),
            Relative.of(contrast),
            Relative.of(ladder) if ladder else None,
        )


def _rows_of_comparison(comparison: Comparison) -> Iterator[Row]:
    metric, split = comparison.kind.primary, comparison.test_splits[0]
    by_name = {one.name: one for one in contrasts(comparison, split=split, metric=metric)}
    pruning = next((one for name, one in by_name.items() if name.startswith("DSDSD on LLR")), None)
    arm, llr = comparison.arm("DSDSD"), comparison.arm("LLR")
    if pruning and arm and llr:
        run = next(one for one in comparison.runs if one.arm == "DSDSD")
        first, last = (llr.phases[index].scores(split, metric) for index in (0, -1))
        yield Row(
            run.folder.path.parents[1],
            "LLR",
            f"{comparison.title}, {_seeds(comparison)}",
            arm_in_words(run),
            ladder_in_words(run),
            _restored([one for one in comparison.runs if one.arm == "DSDSD"]),
            Relative.of(pruning),
            Relative.of_seeds(first, last, metric),
        )


def _study_title(study: RetrainingStudy) -> str:
    return f"{study.title.removesuffix(', retrained')}, {len(study.parents)} parents"


def _of_all(study: RetrainingStudy, arm: str) -> str:
    """How many of an arm's retrainings are there, where more were asked for."""
    done = study.arms[arm].num_runs
    missing = study.still_to_come.get(arm)
    return f" ({done} of {done + missing} runs)" if missing else ""


def _restored(runs: Sequence[Run]) -> float | None:
    """Mean |w| of the last round's restored weights at the end, as a share of the former; over the runs that say it."""
    found = [_restored_share(run) for run in runs]
    shares = [share for share in found if share is not None]
    return fmean(shares) if shares else None


def _restored_share(run: Run) -> float | None:
    """As its last phase has it, or, of before that was recorded, the layers' own figures before and after the round."""
    if restored := run.phases[-1].get("restored"):
        share: float | None = restored["share"]
        return share
    last = [row for row in run.weights if row["round"] == run.iters]
    if not last:
        return None
    former, now = (
        fsum(one["pruned"] * (one["pruned_mean_abs"] or 0.0) for one in row["layers"])
        for row in (last[0], last[-1])
    )
    return now / former if former else None


def _seeds(comparison: Comparison) -> str:
    return f"{len(comparison.seeds)} seed{'s' if len(comparison.seeds) > 1 else ''}"


def _said(one: Relative | None) -> tuple[str, str]:
    if one is None:
        return "", ""
    said = f"{one.value:+.2f} [{one.low:+.2f}, {one.high:+.2f}]".replace("-", "−")
    return said, "<0.001" if one.p_value < 0.001 else f"{one.p_value:.3f}"


def _better(contrast: StudyContrast | None) -> str:
    """Two cells: how much better with its interval, and the verdict after Holm's correction for all arms and looks."""
    if contrast is None:
        return "| "
    if contrast.interval is None or contrast.p_value is None:
        return f"{_digits(contrast.improvement, contrast.metric)} | no test"
    low, high = (_digits(end, contrast.metric) for end in contrast.interval)
    assert contrast.p_holm is not None  # where there is a p-value there is a corrected one
    said = contrast.verdict if contrast.p_holm < ALPHA else "no difference seen"
    return f"{_digits(contrast.improvement, contrast.metric)} [{low}, {high}] | {said}"


def _digits(value: float, metric: Metric) -> str:
    """With one digit more than scores have: retrainings of one parent differ by little."""
    return f"{metric.scale * value:.{metric.decimals + 1}f}".replace("-", "−")


def _difference(contrast: Contrast | None) -> str:
    """Two cells: how much better with its interval, and the verdict after Holm's correction."""
    if contrast is None:
        return "| "
    written = contrast.metric.written
    if contrast.effect is None:
        return f"{written(contrast.improvement)} | no test"
    effect = contrast.effect
    said = contrast.verdict if contrast.is_significant else "no difference seen"
    difference = f"{written(effect.improvement)} [{written(effect.low)}, {written(effect.high)}]"
    return f"{difference.replace('-', '−')} | {said}"


def replaced(text: str, name: str, block: str) -> str:
    """The text with what stands between two marks."""
    return re.sub(
        rf"(?<=<!-- {name} -->\n).*?(?=<!-- end {name} -->)", lambda _: block, text, flags=re.DOTALL
    )


if __name__ == "__main__":
    README.write_text(
        replaced(README.read_text(encoding="utf-8"), "results", results_table()), encoding="utf-8"
    )
    rows = all_rows()
    PAGE.write_text(replaced(PAGE.read_text(encoding="utf-8"), "studies", page_table(rows)), encoding="utf-8")
    for name, lines, title in (
        ("pruning", pruning_lines(rows), "DSD better than LLR by … % of its score"),
        ("ladder", ladder_lines(rows), "LLR better than what it began with by … % of its score"),
    ):
        (DOCS / f"does-it-pay-{name}.svg").write_text(draw(lines, title), encoding="utf-8")
