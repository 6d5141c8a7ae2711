"""``seqdsd power``: from a comparison's folder and from numbers given by hand, against statsmodels' answers."""

import json

import numpy as np
import pytest
from statsmodels.stats.power import TTestPower

from seqdsd.cli import main

LLR = (19, 22, 18, 21, 22)  # wrong words of 120, as the fixture has them
DSDSD = (15, 16, 13, 17, 14)


@pytest.fixture
def power(capsys, monkeypatch):
    """What it prints, in one line."""
    monkeypatch.setenv("COLUMNS", "300")

    def run(*argv: str) -> str:
        main(["power", *map(str, argv)])
        return " ".join(capsys.readouterr().out.split())

    return run


def seeds(improvement: float, sd: float, alpha: float = 0.05) -> int:
    return int(np.ceil(TTestPower().solve_power(improvement / sd, alpha=alpha, power=0.8)))


def test_of_a_folder(power, comparison):
    sd = 100 * np.std(np.subtract(LLR, DSDSD) / 120, ddof=1)
    said = power(comparison, "--improvement", "1.0")
    alone, corrected = seeds(1.0, sd), seeds(1.0, sd, 0.05 / 6)
    assert (
        f"1.00 points (DSDSD on LLR Phase 4) need {alone} seeds at 80 % power ({corrected} corrected for 6"
        in said
    )
    assert f"DSDSD on LLR Phase 4 5 {sd:.2f}" in said and f"1.00 {alone} ({corrected})" in said
    assert "5 seeds tell the scatter so roughly that it may be" in said
    assert "To tell two such networks apart takes" in said and "test utterances (there are" in said


def test_of_a_share_of_the_score(power, comparison):
    """LLR's mean is 17 % WER: a tenth of it is 1.7 points."""
    sd = 100 * np.std(np.subtract(LLR, DSDSD) / 120, ddof=1)
    said = power(comparison, "--relative", "10")
    assert f"1.70 points (DSDSD on LLR Phase 4) need {seeds(1.7, sd)} seeds" in said


def test_without_a_size_it_says_what_the_seeds_find(power, comparison):
    sd = 100 * np.std(np.subtract(LLR, DSDSD) / 120, ddof=1)
    found = TTestPower().solve_power(nobs=5, alpha=0.05, power=0.8) * sd
    assert f"5 seeds find {found:.2f} points (DSDSD on LLR Phase 4) at 80 % power (" in power(comparison)


def test_as_json_in_the_scores_own_units(power, comparison):
    found = json.loads(power(comparison, "--improvement", "1.0", "--json"))
    (one,) = [one for one in found["contrasts"] if one["name"] == "DSDSD on LLR Phase 4"]
    sd = np.std(np.subtract(LLR, DSDSD) / 120, ddof=1)
    assert one["improvement"] == 0.01 and one["sd"] == pytest.approx(sd) and one["metric"] == "wer"
    assert (one["needed"], one["needed_corrected"]) == (seeds(0.01, sd), seeds(0.01, sd, 0.05 / 6))
    assert found["test_sets"][0]["unit"] == "utterances" and found["test_sets"][0]["needed"] > 0


def test_by_hand(power):
    found = TTestPower().solve_power(nobs=5, alpha=0.05, power=0.8) * 1.2
    assert power("--sd", "1.2", "--seeds", "5") == f"5 seeds find {found:.2f} points at 80 % power."
    assert power("--sd", "1.2", "--improvement", "1") == (
        f"1.00 points need {seeds(1, 1.2)} seeds at 80 % power."
    )
    corrected = seeds(1, 1.2, 0.05 / 6)
    assert f"seeds at 80 % power ({corrected} corrected for 6 tests)" in (
        power("--sd", "1.2", "--improvement", "1", "--tests", "6")
    )


def test_parents_and_their_repeats_by_hand(power):
    """SD 0.3 between parents and 0.8 between repeats, two a side: 0.8 * sqrt(2 / 2) beside 0.3."""
    flags = ("--sd-parents", "0.3", "--sd-repeats", "0.8", "--repeats", "2", "--improvement", "0.5")
    assert power(*flags) == f"0.50 points need {seeds(0.5, np.hypot(0.3, 0.8))} parents at 80 % power."


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "name the folder of a comparison; or a scatter: --sd"),
        (["--sd", "1"], "--improvement: what is to be found"),
        (["--sd", "0", "--seeds", "5"], "a scatter must be above 0, got 0"),
        (["--sd", "1", "--seeds", "1"], "--seeds must be 2 or more"),
        (["--sd", "1", "--relative", "5"], "--relative is a share"),
        (["nowhere"], "nowhere: no such folder"),
        (["runs", "--seeds", "5"], "--seeds is of a scatter that is given by hand, and a folder has its own"),
        (["runs", "--sd-parents", "1", "--sd-repeats", "1"], "--sd-parents is of a scatter"),
        (["--sd", "1", "--parents", "5"], "--parents has no effect beside --sd"),
        (["--sd-parents", "1", "--sd-repeats", "1", "--seeds", "5"], "--seeds goes with --sd"),
        (["--sd", "1", "--seeds", "5", "--power", "2"], "power must lie from 0.5"),
    ],
)
def test_what_cannot_be_answered_says_why(argv, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["power", *argv])
    assert stopped.value.code == 1 and said in capsys.readouterr().err
