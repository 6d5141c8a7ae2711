"""The example of a loop with Accelerate runs as it is, alone and as two processes."""

import re

import pytest

TWO = [
    "-m",
    "accelerate.commands.launch",
    "--cpu",
    "--num_processes=2",
    "--num_machines=1",
    "--main_process_port=0",
]


@pytest.mark.parametrize("launch", [["-W", "error"], [*TWO, "--mixed_precision=no", "--dynamo_backend=no"]])
def test_it_learns_by_dsd_and_by_its_control(run_example, launch):
    said = run_example("accelerate_loop.py", python_flags=launch)
    zeros = [int(found.replace(",", "")) for found in re.findall(r"([\d,]+) weights are 0", said)]
    pruned = (64 * 128 + 128 * 64 + 64 * 10) // 2
    # What no digit's ink reaches has no gradient, and stays at 0 in the redense phase.
    assert zeros[:2] == [0, pruned] and zeros[2] < pruned // 2
    assert zeros[3:] == [0, 0, 0]  # the control
    errors = [float(found) for found in re.findall(r"([\d.]+)% of 500 test digits wrong", said)]
    assert len(errors) == 2 and max(errors) < 12
