"""The example of Hugging Face's Trainer runs as it is."""

import re


def test_it_learns_by_dsd_and_by_its_control(run_example):
    said = run_example("transformers_trainer.py")
    logs = re.findall(r"'dsd/zeros': '([^']+)', 'dsd/phase': '([^']+)'", said)
    dsd, control = logs[:20], logs[20:]
    assert [phase for _, phase in dsd] == ["0"] * 12 + ["1"] * 4 + ["2"] * 4
    assert [float(zeros) for zeros, _ in dsd[12:16]] == [0.5] * 4
    assert max(float(zeros) for zeros, _ in [*dsd[:12], *dsd[16:], *control]) < 0.05
    errors = [float(found) for found in re.findall(r"([\d.]+)% of 500 test digits wrong", said)]
    assert len(errors) == 2 and max(errors) < 20
