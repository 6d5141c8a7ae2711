"""What a comparison will be able to find, by its scatter over seeds and over test items."""

import math
import shutil

import numpy as np
import pytest

from seqdsd.metrics.significance import bootstrap_wer, runs_needed
from seqdsd.records.asked_seeds import AskedSeeds, note_asked_seeds
from seqdsd.reports.comparison.arms import Comparison, compare_runs
from seqdsd.reports.comparison.contrasts import contrasts
from seqdsd.reports.comparison.pairs import pair_tests
from seqdsd.reports.comparison.power import (
    item_scatters,
    main_scatter,
    outlook,
    scatters,
    seeds_with_results,
)
from seqdsd.reports.runs.reading import read_runs

BASELINE = (20, 22, 19, 23, 21)  # wrong words of 120, as the fixture has them
DSDSD = (15, 16, 13, 17, 14)
LLR = (19, 22, 18, 21, 22)


def read(folder) -> tuple[Comparison, ...]:
    return compare_runs(read_runs([folder]).runs)


def test_the_scatter_is_that_of_the_differences(comparison):
    (whole,) = read(comparison)
    found = {one.name: one for one in scatters(whole)}
    assert found.keys() == {one.name for one in contrasts(whole, split="test", metric=whole.kind.primary)}
    one = found["DSDSD on Baseline"]
    sd = np.std(np.subtract(BASELINE, DSDSD) / 120, ddof=1)
    assert (one.count, one.num_tests) == (5, 6) and one.sd == pytest.approx(sd)
    assert one.before == pytest.approx(21 / 120)
    assert one.needed(0.01) == runs_needed(0.01, sd=sd) and one.needed(0.01, num_tests=6) > one.needed(0.01)
    assert one.could_find() > one.could_find(50) and one.could_find(num_tests=6) > one.could_find()
    assert main_scatter(list(found.values())) == found["DSDSD on LLR Phase 4"]


def test_the_scatter_over_items_is_the_bootstraps(comparison):
    (whole,) = read(comparison)
    (one,) = [one for one in item_scatters(whole) if one.name == "DSDSD on Baseline"]
    errors = [
        test.bootstrap.standard_error
        for test in pair_tests(whole, split="test")
        if test.name == "DSDSD on Baseline"
    ]
    assert one.standard_error == pytest.approx(math.sqrt(np.mean(np.square(errors)))) and one.num_pairs == 5
    assert one.unit == "utterances" and one.before == pytest.approx(21 / 120)
    # As if the test set were there four times over, an error is half as large.
    assert one.needed(0.01) == pytest.approx(4 * one.needed(0.02), abs=4)
    refs = [f"w{index}" for index in range(one.count)]
    assert bootstrap_wer(refs, refs, refs, resamples=10).standard_error == 0


def test_before_training_what_will_be_found_is_said_by_the_seeds_that_are_there(comparison, tmp_path):
    assert "not known yet" in outlook((), [0, 1], new=None)
    shutil.copytree(comparison / "seed-0", tmp_path / "seed-0")
    assert "not known yet" in outlook(read(tmp_path), [0, 1], new=None) and seeds_with_results(
        read(tmp_path)
    ) == {0}
    for seed in (1, 2):
        shutil.copytree(comparison / f"seed-{seed}", tmp_path / f"seed-{seed}")
    there = read(tmp_path)
    main = main_scatter(scatters(there[0]))
    assert main.count == 3 and seeds_with_results(there) == {0, 1, 2}
    said = outlook(there, range(1, 8), new=AskedSeeds((3, 4, 5, 6, 7), ()))
    alone, corrected = (100 * main.could_find(8, num_tests=n) for n in (1, 6))
    assert said == (
        f"With 8 seeds it will be able to find {alone:.2f} points at 80 % power ({corrected:.2f} corrected "
        "for 6 tests) (DSDSD on LLR Phase 4), by the scatter of the 3 seeds that are there."
    )
    said = outlook(there, range(1, 8), new=AskedSeeds((3, 4, 5, 6, 7), (0, 1, 2)))
    twelve = f"({100 * main.could_find(8, num_tests=12):.2f} corrected for 12 tests)"
    assert twelve in said
    # Asked for before, and stopped before they were trained: the report will count that look, too.
    note_asked_seeds(tmp_path, AskedSeeds((3, 4, 5, 6, 7), (0, 1, 2)))
    assert twelve in outlook(read(tmp_path), range(1, 8), new=None)
    assert "18 tests" in outlook(read(tmp_path), range(1, 9), new=AskedSeeds((8,), (0, 1, 2)))
