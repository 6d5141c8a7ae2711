"""All numbers of a report for other programs: one JSON object, tidy CSV, and tables in LaTeX and Markdown.

Numbers are as the records hold them: error rates are fractions, BLEU is from 0 to 100. Not rounded.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from seqdsd.records import is_test_split, json_values, slug
from seqdsd.reports.comparison.arms import Comparison
from seqdsd.reports.comparison.contrasts import Contrast, Side, contrasts, headlines
from seqdsd.reports.comparison.pairs import PairTest, pair_tests
from seqdsd.reports.comparison.tables import (
    comparison_notes,
    contrast_grid,
    pair_grid,
    seed_grid,
    table_1,
    table_10,
)
from seqdsd.reports.layout import Grid
from seqdsd.reports.phase_table import phase_grid
from seqdsd.reports.plan import plan_grid
from seqdsd.reports.retraining.contrasts import StudyContrast, gains_on_parents, study_contrasts
from seqdsd.reports.retraining.contrasts import headline as study_headline
from seqdsd.reports.retraining.other_items import on_other_items
from seqdsd.reports.retraining.study import RetrainingStudy, is_shown
from seqdsd.reports.retraining.tables import study_grids, study_notes
from seqdsd.reports.runs.reading import Record, Run, RunSet
from seqdsd.reports.weights import read_rounds, weight_grid

CSV_COLUMNS = ("comparison", "run", "arm", "seed", "complete", "phase", "split", "metric", "value")
_TRAINING = ("epochs", "learning_rate", "sparsity", "measured_sparsity", "train_seconds")
_NOT_ALWAYS = ("evaluate_seconds", "statistics_seconds", "restored_start", "restored")
_RESTORED = ("share", "above_share")
_CURVES = ("train_loss", "dev_loss", "dev_score")


def to_json(
    run_set: RunSet, comparisons: Sequence[Comparison], studies: Sequence[RetrainingStudy] = ()
) -> str:
    """Runs with their curves, weights and plans, comparisons and studies with their statistics, what was refused."""
    value = {
        "runs": [_run(run) for run in run_set.runs],
        "refused": [{"path": str(one.path), "message": one.message} for one in run_set.refused],
        "comparisons": [_comparison(one) for one in comparisons],
        "retrainings": [_study(one) for one in studies],
    }
    return json.dumps(json_values(value), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def to_csv(
    run_set: RunSet, comparisons: Sequence[Comparison], studies: Sequence[RetrainingStudy] = ()
) -> str:
    """A row a value: every score of every phase of every run, and what its training took (as the split ``train``).

    A run stands there once for each comparison that it is part of, and once without one if it is part of none. Of a
    retraining the arm is what its study calls it; the run's name tells parent and repeat.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    compared: list[tuple[str, Run, str]]
    compared = [(one.title, run, run.arm) for one in comparisons for run in one.runs]
    compared += [(one.title, run, place.arm) for one in studies for place, run in one.runs]
    known = {run.folder.path for _, run, _ in compared}
    alone = [("", run, run.arm) for run in run_set.runs if run.folder.path not in known]
    for title, run, arm in [*compared, *alone]:
        labels = (title, run.name, arm, run.seed, str(run.is_complete).lower())
        writer.writerows((*labels, *row) for record in run.phases for row in _values(record))
    return out.getvalue()


def to_latex(
    run_set: RunSet, comparisons: Sequence[Comparison], studies: Sequence[RetrainingStudy] = ()
) -> str:
    """Every table of the report, for the package ``booktabs``; labels are ``tab:`` and the tables' names."""
    tables = (grid.to_latex() for grid in report_grids(run_set, comparisons, studies))
    return "\n".join(["% Needs \\usepackage{booktabs}.\n", *tables])


def to_markdown(
    run_set: RunSet, comparisons: Sequence[Comparison], studies: Sequence[RetrainingStudy] = ()
) -> str:
    """Each study's and comparison's sentences and tables, for a document; of a run that stands alone, its phases."""
    parts = []
    for study in studies:
        parts += [f"**{study_headline(study)}**\n", *(grid.to_markdown() for grid in study_grids(study))]
    for one in comparisons:
        parts += [f"**{sentence}**\n" for sentence in headlines(one)]
        parts += [
            grid.to_markdown()
            for grid in ([run_grid(one.runs[0])] if one.is_single else comparison_grids(one))
        ]
    return "\n".join(parts)


def report_grids(
    run_set: RunSet, comparisons: Sequence[Comparison], studies: Sequence[RetrainingStudy] = ()
) -> list[Grid]:
    """Every table: Table 1, those of each comparison and study, and of each run phases, plan and weights.

    Of the runs of a study those that are shown as examples.
    """
    several = [one for one in comparisons if not one.is_single]
    compared = [grid for one in several for grid in comparison_grids(one)]
    compared += [grid for study in studies for grid in study_grids(study)]
    shown = [run for run in run_set.runs if is_shown(run)]
    own = [grid for run in shown for grid in (run_grid(run, comparisons), *_pruning_grids(run))]
    return [grid for grid in (table_1(comparisons), *compared, *own) if grid.rows]


def comparison_grids(comparison: Comparison) -> list[Grid]:
    """A comparison's tables, test set by test set; of dev where test was not scored."""
    grids = []
    for split in comparison.scored_splits:
        for family in comparison.kind.families:
            grids.append(table_10(comparison, split=split, family=family))
            grids.append(contrast_grid(comparison, split=split, family=family))
        grids.append(seed_grid(comparison, split=split, metric=comparison.kind.primary))
        grids.append(pair_grid(comparison, pair_tests(comparison, split=split)))
    return [grid for grid in grids if grid.rows]


def run_grid(run: Run, comparisons: Sequence[Comparison] = ()) -> Grid:
    """A run's phases (Tables 5, 7 and 9), its name before the caption; with its baseline where these have one."""
    unfinished = "" if run.is_complete else f", unfinished: {len(run.phases)} of {run.num_planned} phases"
    return phase_grid(
        run.phases,
        name=slug(f"phases {run.name}"),
        about=f"{run.name} ({run.arm}, seed {run.seed}{unfinished}).",
        baseline=_baseline_phase(run, comparisons),
    )


def _baseline_phase(run: Run, comparisons: Sequence[Comparison]) -> Record | None:
    """The phase of the baseline of the same seed, if it is planned for as many epochs."""
    beside = (one.arm("Baseline") for one in comparisons if run in one.runs and run.arm != "Baseline")
    found = (arm.runs[run.seed] for arm in beside if arm and run.seed in arm.runs)
    return next((one.phases[-1] for one in found if one.iters == run.iters and run.is_complete), None)


def _pruning_grids(run: Run) -> Iterator[Grid]:
    """What a run prunes, and what became of it; the run is in their names and captions."""
    plan = plan_grid(run)
    for grid in (*([plan] if plan else []), *map(weight_grid, read_rounds(run.weights))):
        yield replace(grid, name=slug(f"{grid.name} {run.name}"), caption=f"{run.name}. {grid.caption}")


def _values(record: Record) -> Iterator[tuple[str, str, str, Any]]:
    name = record["name"]
    yield from ((name, "train", key, record[key]) for key in _TRAINING)
    yield from (
        (name, "train", f"restored.{key}", record["restored"][key])
        for key in _RESTORED
        if "restored" in record
    )
    for split, scores in _scores(record).items():
        yield from ((name, split, key, value) for key, value in scores.items())


def _scores(record: Record) -> dict[str, dict[str, Any]]:
    """All numbers of dev and the test sets; counts within counts by a dotted name."""
    return {split: dict(_numbers(record[split])) for split in ("dev", *filter(is_test_split, record))}


def _numbers(scores: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float | int]]:
    for key, value in scores.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, float | int):
            yield f"{prefix}{key}", value


def _run(run: Run) -> dict[str, Any]:
    return {
        "name": run.name,
        "path": str(run.folder.path),
        "recipe": run.recipe,
        "arm": run.arm,
        "method": run.method,
        "iters": run.iters,
        "seed": run.seed,
        "complete": run.is_complete,
        "phases_planned": run.num_planned,
        "provenance": run.provenance,
        "phases": [
            {
                "name": record["name"],
                **{key: record[key] for key in ("kind", *_TRAINING)},
                **{key: record[key] for key in (*_NOT_ALWAYS, *_CURVES) if key in record},
                "scores": _scores(record),
            }
            for record in run.phases
        ],
        "weights": run.weights,
        "plan": run.plan,
    }


def _comparison(comparison: Comparison) -> dict[str, Any]:
    splits = comparison.scored_splits
    return {
        "title": comparison.title,
        "headlines": headlines(comparison),
        "recipe": comparison.recipe,
        "corpus": comparison.corpus,
        "seeds": comparison.seeds,
        "arms": {
            arm.name: {
                "complete": [run.name for run in arm.runs.values()],
                "unfinished": [run.name for run in arm.unfinished.values()],
                "scores": {
                    split: {metric.key: arm.scores(split, metric) for metric in comparison.kind.metrics}
                    for split in splits
                },
            }
            for arm in comparison.arms
        },
        "notes": comparison_notes(comparison),
        "contrasts": [
            _contrast(one)
            for split in splits
            for metric in comparison.kind.metrics
            for one in contrasts(comparison, split=split, metric=metric)
        ],
        "pair_tests": [_pair_test(test) for split in splits for test in pair_tests(comparison, split=split)],
    }


def _study(study: RetrainingStudy) -> dict[str, Any]:
    metrics = [(split, metric) for split in study.splits for metric in study.kind.metrics]
    return {
        "title": study.title,
        "headline": study_headline(study),
        "folder": str(study.folder),
        "parents": study.parents,
        "repeats": study.num_repeats,
        "arms": {
            arm.name: {
                "llr": arm.llr,
                "scores": {
                    split: {metric.key: arm.scores(split, metric) for metric in study.kind.metrics}
                    for split in study.splits
                },
            }
            for arm in study.arms.values()
        },
        "notes": study_notes(study),
        "other_items": {split: _other_items(study, split) for split in study.splits},
        "contrasts": [
            _study_contrast(one)
            for split, metric in metrics
            for make in (study_contrasts, gains_on_parents)
            for one in make(study, split=split, metric=metric)
        ],
    }


def _other_items(study: RetrainingStudy, split: str) -> dict[str, Any] | None:
    if not (found := on_other_items(study, split=split)):
        return None
    names = ("items", "both", "num_items", "num_speakers", "problem")
    return {"contrast": found.contrast.name} | {name: getattr(found, name) for name in names}


def _study_contrast(contrast: StudyContrast) -> dict[str, Any]:
    test = contrast.test
    return {
        "split": contrast.split,
        "metric": contrast.metric.key,
        "before": contrast.before,
        "after": contrast.after,
        "epochs": contrast.epochs,
        "means": contrast.means,
        "improvement": contrast.improvement,
        "relative": contrast.relative,
        "across_parents": {
            "parents": test.num_parents,
            "interval": contrast.interval,
            "p_value": contrast.p_value,
            "p_holm": contrast.p_holm,
            "family": contrast.family,
            "looks": contrast.num_looks,
            # Parents themselves are there once, and do not scatter as repeats do.
            "sd_between_parents": test.sd_between_parents if contrast.parents else None,
            "sd_between_repeats": test.sd_between_repeats if contrast.parents else None,
            "correlation_of_repeats": test.correlation if contrast.parents else None,
            "detectable": contrast.could_find(),
        }
        if test
        else None,
        "table_10_of_each_parent": [asdict(one) for one in contrast.parents],
    }


def _contrast(contrast: Contrast) -> dict[str, Any]:
    return {
        "split": contrast.split,
        "metric": contrast.metric.key,
        "before": _side(contrast.before),
        "after": _side(contrast.after),
        "improvement": contrast.improvement,
        "relative": contrast.relative,
        "unpaired": asdict(contrast.unpaired) if contrast.unpaired else None,
        "paired": asdict(contrast.paired) if contrast.paired else None,
        "counts": contrast.effect.test if contrast.effect else None,
        "p_holm": contrast.p_holm,
        "family": contrast.family,
        "looks": contrast.num_looks,
        "could_find": _could_find(contrast),
        "significant": contrast.is_significant,
        "problem": contrast.problem or None,
    }


def _could_find(contrast: Contrast) -> dict[str, float | None] | None:
    """At 80 % power, by the scatter seen: by the test alone, and corrected for contrasts and looks."""
    if contrast.effect is None:
        return None
    num_tests = contrast.family * contrast.num_looks
    return {
        "alone": contrast.effect.could_find(),
        "corrected": contrast.effect.could_find(num_tests=num_tests),
    }


def _side(side: Side) -> dict[str, Any]:
    return {
        "arm": side.arm,
        "phase": side.phase,
        "epochs": side.epochs,
        "mean": side.mean,
        "scores": side.scores,
    }


def _pair_test(test: PairTest) -> dict[str, Any]:
    """As ``PairTest`` has it: differences are after minus before, so an error rate falls where it is below 0."""
    return {**asdict(test), "name": test.name, "problem": test.problem or None}
