"""Make the README's table of results again from the records below recipes/: `python docs/results_table.py`."""

import re
from pathlib import Path

from seqdsd.reports.comparison.arms import Comparison, compare_runs
from seqdsd.reports.comparison.contrasts import Contrast, contrasts, score_in_words
from seqdsd.reports.runs.reading import read_runs

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
BLOCK = re.compile(r"(?<=<!-- results -->\n).*?(?=<!-- end results -->)", re.DOTALL)
HEADER = """\
| Task | Arm | Test score | DSDSD is better by [95 % CI] | Verdict |
| :-- | :-- | --: | --: | :-- |
"""
ARMS = ("Baseline", "LLR", "DSDSD")


def results_table() -> str:
    """A row an arm of every kept comparison."""
    found = [
        one
        for folder in sorted(ROOT.glob("recipes/*/records/compare-*"))
        for one in compare_runs(read_runs([folder]).runs)
    ]
    return HEADER + "".join(_rows(one) for one in found)


def _rows(comparison: Comparison) -> str:
    metric, split = comparison.kind.primary, comparison.test_splits[0]
    of_dsdsd = {
        one.before.arm: one
        for one in contrasts(comparison, split=split, metric=metric)
        if one.after.arm == "DSDSD"
    }
    seeds = f"{len(comparison.seeds)} seed{'s' if len(comparison.seeds) > 1 else ''}"
    task, rows = f"{comparison.title}, {seeds}: {metric.title}", ""
    for name in ARMS:
        if arm := comparison.arm(name):
            score = score_in_words(list(arm.scores(split, metric).values()), metric, is_named=False)
            rows += f"| {task} | {name} | {score} | {_difference(of_dsdsd.get(name))} |\n"
            task = ""
    return rows


def _difference(contrast: Contrast | None) -> str:
    """Two cells: how much better with its interval, and the verdict after Holm's correction."""
    if contrast is None:
        return "| "
    written = contrast.metric.written
    if contrast.effect is None:
        return f"{written(contrast.improvement)} | no test"
    effect = contrast.effect
    verdict = contrast.verdict if contrast.is_significant else "no difference seen"
    difference = f"{written(effect.improvement)} [{written(effect.low)}, {written(effect.high)}]"
    return f"{difference.replace('-', '−')} | {verdict}"


if __name__ == "__main__":
    README.write_text(BLOCK.sub(results_table(), README.read_text(encoding="utf-8")), encoding="utf-8")
