"""Timings in turns: their order, and how sure a median is."""

import random
import statistics

from benchmarks.timing import Ratio, seconds_in_turns


def test_every_other_round_is_in_the_reverse_order():
    order = []
    ways = {name: lambda name=name: order.append(name) for name in "abc"}
    ticks = iter(range(100))
    seconds = seconds_in_turns(ways, rounds=3, clock=lambda: next(ticks), and_back=True)
    assert "".join(order) == "abc" + "cba" + "abc" + "cba"
    assert seconds == {name: [1, 1, 1] for name in "abc"}


def test_the_interval_of_a_median_is_the_sign_tests():
    """Its places are in tables: of 20 the 6th and 15th, of 30 the 10th and 21st, of 6 the first and last."""
    for count, low, high in ((20, 6, 15), (30, 10, 21), (6, 1, 6), (5, 1, 5), (1, 1, 1)):
        values = [float(number) for number in range(1, count + 1)]
        random.Random(0).shuffle(values)
        found = Ratio.with_confidence(values, [1.0] * count)
        assert (found.median, found.low, found.high) == (statistics.median(values), low, high)


def test_the_interval_holds_the_true_median_as_often_as_it_says():
    generator = random.Random(0)
    held = 0
    for _ in range(2000):
        values = [generator.expovariate(1.0) for _ in range(25)]  # skewed, as the noise of timings is
        found = Ratio.with_confidence(values, [1.0] * 25)
        held += found.low <= 0.6931 <= found.high
    assert 0.94 < held / 2000 < 0.98  # of 25 values, 95.7 %
