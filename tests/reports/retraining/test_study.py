"""Which runs are a study's, and which arms stand beside which."""

import shutil

from seqdsd.records import RunFolder
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.retraining.study import is_shown, retraining_studies
from seqdsd.reports.runs.reading import read_runs

SLOW = (0.1, 0.01, 0.01)
ARMS = {
    "llr": (0, [[50, 51], [60, 61]]),
    "dsd-0.3": (0.3, [[48, 49], [58, 60]]),
    "dsd-0.8": (0.8, [[70, 71], [80, 81]]),
    "slow-llr": (0, [[52, 53], [62, 63]]),
    "slow-dsd": (0.3, [[52, 53], [61, 61]]),
}
RATES = {"slow-llr": SLOW, "slow-dsd": SLOW}


def study_in(folder):
    (study,), others = retraining_studies(read_runs([folder]).runs)
    return study, others


def test_each_arm_with_pruning_stands_beside_the_one_without_at_its_rates(make_study):
    study, others = study_in(make_study(ARMS, rates=RATES))
    beside = {after.name: before.name for before, after in study.pairs()}
    assert beside == {"dsd-0.3": "llr", "dsd-0.8": "llr", "slow-dsd": "slow-llr"} and others == ()
    assert list(study.arms) == ["slow-llr", "slow-dsd", "llr", "dsd-0.3", "dsd-0.8"]
    assert (study.title, study.parents, study.num_repeats) == (
        "ResNet-20 on CIFAR-10, retrained",
        (0, 1),
        (2,),
    )
    metric = study.kind.primary
    assert study.arms["dsd-0.3"].scores("test", metric) == {0: {0: 0.048, 1: 0.049}, 1: {0: 0.058, 1: 0.06}}
    assert study.arms["llr"].scores("test", metric, phase=0) == {
        0: {0: 0.06, 1: 0.06},
        1: {0: 0.061, 1: 0.061},
    }
    assert set(study.arms["llr"].epochs) == {4}


def test_arms_that_anneal_otherwise_stand_beside_their_own_like(make_study):
    folder = make_study({name: ARMS[name] for name in ("llr", "dsd-0.3")})
    for run in folder.glob("parent-*/repeat-*"):
        for arm in ("llr", "dsd-0.3"):
            config = shutil.copytree(run / arm, run / f"fast-{arm}") / "config.toml"
            config.write_text(config.read_text().replace("anneal = 1.0", "anneal = 1.5"))
    beside = {after.name: before.name for before, after in study_in(folder)[0].pairs()}
    assert beside == {"dsd-0.3": "llr", "fast-dsd-0.3": "fast-llr"}


def test_other_runs_are_compared_as_ever(make_study, make_comparison):
    study, comparison = make_study(ARMS), make_comparison(seeds=[0])
    shutil.copytree(study / "parent-0/repeat-0/llr", study.parent / "parent-0/repeat-0/llr")  # of no study
    runs = read_runs([study, comparison, study.parent / "parent-0"]).runs
    (found,), others = retraining_studies(runs)
    assert len(found.runs) == 20 and len(others) == len(runs) - 20 == 6
    assert [one.title for one in compare_runs(others)] == ["DeepSpeech 1 on AN4", "ResNet-20 on CIFAR-10"]


def test_what_is_unfinished_or_began_elsewhere_does_not_count(make_study):
    folder = make_study(ARMS)
    unfinished = RunFolder(folder / "parent-0/repeat-1/llr")
    unfinished.write_phases(unfinished.read_phases()[:2])
    other = RunFolder(folder / "parent-1/repeat-1/dsd-0.3")
    first, *rest = other.read_phases()
    other.write_phases([{**first, "given": {**first["given"], "sha256": "f" * 64}}, *rest])
    study, _ = study_in(folder)
    assert [run.folder.path for run in study.unfinished] == [unfinished.path]
    (refusal,) = study.left_out
    assert refusal.path == other.path and "began with other weights (sha256 ffffffffffff…)" in refusal.message
    counted = {name: [list(repeats) for repeats in arm.runs.values()] for name, arm in study.arms.items()}
    assert (counted["llr"], counted["dsd-0.3"]) == ([[0], [0, 1]], [[0, 1], [0]])
    assert study.num_repeats == (1, 2)


def test_an_arm_without_its_like_stands_beside_none(make_study):
    study, _ = study_in(
        make_study({"dsd-0.3": (0.3, [[48, 49]]), "slow": (0, [[50, 51]])}, rates={"slow": SLOW})
    )
    assert study.pairs() == []


def test_a_damaged_retraining_is_refused_by_name_and_the_others_count(make_study):
    folder = make_study(ARMS)
    phases = folder / "parent-0/repeat-1/dsd-0.3/phases.jsonl"
    phases.write_text(phases.read_text()[:-9])
    found = read_runs([folder])
    assert [str(phases) in refusal.message for refusal in found.refused] == [True]
    (study,), _ = retraining_studies(found.runs)
    assert list(study.arms["dsd-0.3"].runs[0]) == [0]


def test_more_than_scores_is_shown_of_the_first_repeat_of_the_first_parent_alone(make_study):
    """So the hypotheses of the others, of which there are hundreds, need not be whole, nor there."""
    folder = make_study(ARMS)
    runs = read_runs([folder]).runs
    shown = [run for run in runs if is_shown(run)]
    assert {run.folder.path.relative_to(folder).parent.as_posix() for run in shown} == {"parent-0/repeat-0"}
    for place, num_read in (("parent-1/repeat-0", len(runs)), ("parent-0/repeat-0", len(runs) - 1)):
        damaged = RunFolder(folder / place / "llr").hypotheses("Dense Iter 0", "test")
        damaged.parent.mkdir()
        damaged.write_text("{")
        assert len(read_runs([folder]).runs) == num_read
