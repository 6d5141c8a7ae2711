"""``seqdsd power`` of a study of retraining: its parents, and what more repeats of each would save."""

import re

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from seqdsd.cli import main
from seqdsd.reports.retraining.power import outlook
from seqdsd.reports.retraining.study import retraining_studies
from seqdsd.reports.runs.reading import read_runs

LLR = [[50, 58, 51], [60, 61, 68], [55, 51, 58], [49, 56, 49]]
DSD = [[48, 41, 48], [58, 57, 66], [54, 48, 53], [45, 46, 43]]


def parents(improvement: float, sd: float, alpha: float = 0.05) -> int:
    return int(np.ceil(TTestPower().solve_power(improvement / sd, alpha=alpha, power=0.8)))


@pytest.fixture
def said(make_study, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    main(["power", str(make_study({"llr": (0, LLR), "dsd-0.3": (0.3, DSD)})), "--improvement", "0.3"])
    return " ".join(capsys.readouterr().out.split())


def test_parents_needed_and_what_repeats_save(said):
    """Wrong items of 1,000: a tenth of a point each."""
    llr, dsd = np.array(LLR) / 10, np.array(DSD) / 10
    differences = (llr - dsd).mean(1)
    seen = differences.std(ddof=1)
    assert f"0.30 points (dsd-0.3 on llr) need {parents(0.3, seen)} parents at 80 % power;" in said
    within = (dsd - llr).var(1, ddof=1).mean()  # a repeat has one seed in both arms
    between = max(0.0, seen**2 - within / 3)
    needed = [parents(0.3, np.sqrt(between + within / repeats)) for repeats in (1, 2, 4, 8, 16)]
    assert "1 repeat 2 repeats 4 repeats 8 repeats 16 repeats" in said
    assert f"dsd-0.3 on llr {' '.join(map(str, needed))}" in said and needed[0] > needed[-1]


def test_what_more_parents_will_find_is_said_by_those_that_are_there(make_study):
    """By the arm whose effect scatters most: what is promised holds for all."""
    assert "no two parents of two arms are complete here" in outlook((), 10, seeds=(), new=None)
    even = [[score - 5 + parent for score in scores] for parent, scores in enumerate(LLR)]
    folder = make_study({"llr": (0, LLR), "dsd-0.3": (0.3, DSD), "dsd-0.5": (0.5, even)})
    studies, _ = retraining_studies(read_runs([folder]).runs)
    sd = (np.array(LLR) / 10 - np.array(DSD) / 10).mean(1).std(ddof=1)
    said = outlook(studies, 10, seeds=(), new=None)
    found = float(re.search(r"10 parents it will be able to find (\S+) points", said)[1])
    assert TTestPower().power(found / sd, 10, 0.05) == pytest.approx(0.8, abs=0.02)
    assert said.endswith("(dsd-0.3 on llr), by the scatter of the 4 parents that are there.")
    assert "With 4 parents" in outlook(studies, 2, seeds=(), new=None)
