"""The steps that ``benchmarks/cpu_training.py`` times can be taken, and its rows say what was timed."""

from dataclasses import replace

from torch import nn

from benchmarks.cpu_training import DTYPES, Config, contests, products_per_second, row, steps_of


def test_every_network_takes_a_step_in_both_precisions():
    for contest in contests():
        assert isinstance(contest.ours(), nn.Module)
        first, second = contest.inputs
        if contest.lengths is None:
            few = (first[:4], second[:4])
        else:  # half a second: without units for bfloat16 more takes a minute
            few = (first[:2, :50], second[:2].clamp(max=50))
        for step in steps_of(replace(contest, inputs=few)).values():
            step()


def test_a_row_says_milliseconds_their_ratio_and_the_share_of_products(monkeypatch):
    timed = {"32-true": [0.05, 0.03, 0.04], "bf16-mixed": [0.01, 0.02, 0.02]}
    monkeypatch.setattr("benchmarks.cpu_training.seconds_in_turns", lambda steps, **how: timed)
    steps = dict.fromkeys(DTYPES, lambda: None)
    name, single, half, faster, share = row("a step", steps, Config(), products_seconds=0.015)
    assert (name, single, half, share) == ("a step", "30.0", "10.0", "50%")
    assert faster.startswith("2.0")  # of 5, 1.5 and 2
    assert row("a step", steps, Config())[-1] == ""


def test_large_products_are_timed_by_every_library():
    speeds = products_per_second(rounds=1)
    assert speeds.keys() == {"MKL", "oneDNN", "bfloat16"} and min(speeds.values()) > 0
