"""The example of a plain loop runs as it is."""

import re


def test_it_learns_by_dsd_and_by_its_control(run_example):
    said = run_example("plain_loop.py")
    zeros = [int(found.replace(",", "")) for found in re.findall(r"([\d,]+) weights are 0", said)]
    pruned = sum(count // 2 for count in (16 * 32 * 9, 512 * 64, 64 * 10))  # but the first convolution
    # What no digit's ink reaches has no gradient, and stays at 0 in the redense phase.
    assert zeros[:2] == [0, pruned] and zeros[2] < pruned // 2
    assert zeros[3:] == [0, 0, 0]  # the control
    errors = [float(found) for found in re.findall(r"([\d.]+)% of 500 test digits wrong", said)]
    assert len(errors) == 2 and max(errors) < 12
