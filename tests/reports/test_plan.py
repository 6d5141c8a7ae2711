"""The plan as a table."""

from seqdsd.reports.plan import plan_grid, without_plan
from seqdsd.reports.runs.reading import read_runs


def test_the_plan(make_arm):
    (run,) = read_runs([make_arm("run", "dsdsd").path]).runs
    grid = plan_grid(run)
    assert grid.header[-2:] == ("Sparse Iter 1\npruned %", "Sparse Iter 2\npruned %")
    assert grid.sections[0][0] == ("fc.weight", "40 × 10", "fc.*", "asked for", "400", "50", "25")
    assert grid.sections[0][2] == ("fc.bias", "1 × 10", "-", "matched by no rule", "10", "-", "-")
    assert grid.sections[1] == (("All", "", "", "", "1,410", "49.65", "24.82"),)  # 700 and 350 of 1410


def test_a_folder_that_does_not_say_its_plan(make_arm):
    folder = make_arm("run", "dsdsd")
    folder.plan.unlink()
    (run,) = read_runs([folder.path]).runs
    assert plan_grid(run) is None
    assert without_plan(run) == (
        "The run folder does not say which rule pruned what (it has no plan.jsonl). Of every pruned parameter: "
        "Sparse Iter 1 50 %, Sparse Iter 2 25 %."
    )
