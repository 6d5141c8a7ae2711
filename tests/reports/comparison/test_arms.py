"""Sorting runs into comparisons: which belong together, which do not, and what is said of those that do not count."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from seqdsd.config import read_config, to_values
from seqdsd.kinds import BLEU, SPEECH, WER
from seqdsd.recipes.catalog import RECIPES as CATALOG
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.runs.reading import Run, read_runs

RECIPES = Path(__file__).parents[3] / "recipes"


@pytest.fixture(scope="module")
def runs(comparison) -> list[Run]:
    return list(read_runs([comparison]).runs)


@pytest.fixture
def of(runs):
    """The run of an arm and seed, with other settings; dotted names reach into tables."""

    def of(arm: str, seed: int = 0, **settings) -> Run:
        run = next(run for run in runs if (run.folder.path.name, run.seed) == (arm, seed))
        values = {**run.settings, "optimizer": {**run.settings["optimizer"]}}
        for name, value in settings.items():
            table, _, key = name.rpartition("__")
            (values[table] if table else values)[key] = value
        return replace(run, settings=values, iters=settings.get("iters", run.iters))

    return of


def test_five_seeds_of_four_arms(runs):
    (one,) = compare_runs(runs)
    assert (one.title, one.network, one.corpus) == ("DeepSpeech 1 on AN4", "DeepSpeech 1", "AN4")
    assert (one.kind, one.recipe, one.iters, one.seeds) == (SPEECH, "ds1", 2, (0, 1, 2, 3, 4))
    assert [arm.name for arm in one.arms] == ["Baseline", "LLR", "DSD", "DSDSD"]
    assert (one.baseline_anneal, one.anneal) == (1.05, 1.0) and one.told_apart_by == ""
    assert (one.unfinished, one.left_out, one.is_single, one.test_splits) == ((), (), False, ("test",))
    assert len(one.runs) == 20  # the shared first phase is no arm


def test_time_is_counted_once_where_phases_are_shared(runs):
    (one,) = compare_runs(runs)
    lengths = [record["epochs"] for record in one.arm("DSDSD").runs[0].phases]
    # A seed trains DSDSD (with DSD in it), LLR without the shared first phase, and the baseline; 32 s an epoch.
    assert one.seconds == 5 * 32 * (3 * sum(lengths) - lengths[0])


def test_first_phases_of_other_folders_are_counted_each(make_arm):
    for arm, other in (("dsd", "here"), ("llr", "there")):
        make_arm(f"{other}/dense", "dense")
        make_arm(f"{other}/{arm}", arm)
    runs = read_runs([make_arm("here/dsd", "dsd").path, make_arm("there/llr", "llr").path]).runs
    (one,) = compare_runs(runs)
    assert one.seconds == 32 * (8 + 12)


def test_time_of_a_comparison_that_was_copied(make_comparison, tmp_path):
    """The phases taken over name the folders of the original, which is still there; the copy's lie beside them."""
    folder = make_comparison(seeds=[0])
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    assert compare_runs(read_runs([copy]).runs)[0].seconds == 32 * (3 * 12 - 4)


def test_time_of_a_comparison_that_was_moved(make_comparison, tmp_path):
    folder = make_comparison(seeds=[0])
    before = compare_runs(read_runs([folder]).runs)[0].seconds
    assert compare_runs(read_runs([folder.rename(tmp_path / "moved")]).runs)[0].seconds == before
    assert before == 32 * (3 * 12 - 4)


def test_the_order_of_the_runs_does_not_matter(runs):
    (one,), (other,) = compare_runs(runs), compare_runs(runs[::-1])
    assert [arm.name for arm in one.arms] == [arm.name for arm in other.arms]
    for arm, again in zip(one.arms, other.arms, strict=True):
        assert list(arm.runs) == list(again.runs) == [0, 1, 2, 3, 4]


def test_scores_are_the_last_phases(runs):
    (one,) = compare_runs(runs)
    # Wrong words as the fixture has them, of 120.
    assert one.arm("DSDSD").scores("test", WER) == pytest.approx(
        {seed: wrong / 120 for seed, wrong in enumerate((15, 16, 13, 17, 14))}
    )
    assert one.arm("DSD").scores("test", WER, phase=0)[2] == pytest.approx((19 + 12) / 120)
    assert one.arm("DSD").scores("test", BLEU[3]) == {}
    assert one.arm("DSD").phases[1].name == "Sparse Iter 1"
    assert one.arm("DSD").phases[1].values("learning_rate") == [1e-3] * 5


def test_epochs_until_the_end_of_a_phase(runs):
    (one,) = compare_runs(runs)
    epochs = {arm.name: arm.epochs() for arm in one.arms}
    assert epochs == {"Baseline": (12,) * 5, "LLR": (12,) * 5, "DSD": (8,) * 5, "DSDSD": (12,) * 5}
    assert one.arm("LLR").epochs(phase=2) == (8,) * 5
    assert one.arm("LLR").epochs(phase=0) == (4,) * 5


@pytest.mark.parametrize(
    "change",
    [
        {"out": "elsewhere"},
        {"device": "cuda"},
        {"checkpoint_minutes": 1.0},
        {"on_bad_data": "skip"},
        {"data": "data/../data/an4/"},
        {"score_test": True},  # folders from before this was a setting did; the next two, too
        {"batches": {"open_shards": 8}},
        {"accumulate": 1},
        {"optimizer__kind": "nesterov", "optimizer__curve": "constant", "optimizer__warmup": 0.0},
        {"network": {"recompute_layers": True}},
    ],
)
def test_what_changes_no_result_does_not_divide(of, change):
    (one,) = compare_runs([of("dsd"), of("baseline", **change)])
    assert [arm.name for arm in one.arms] == ["Baseline", "DSD"]


@pytest.mark.parametrize(
    ("change", "titles"),
    [
        ({"hidden_size": 64}, ["hidden_size 32", "hidden_size 64"]),
        ({"sparsities": [0.3]}, ["sparsities 0.5/0.25", "sparsities 0.3"]),
        ({"optimizer__momentum": 0.5}, ["optimizer.momentum 0.9", "optimizer.momentum 0.5"]),
        ({"optimizer__kind": "adamw"}, ["optimizer.kind not set", "optimizer.kind adamw"]),
        ({"optimizer__curve": "cosine"}, ["optimizer.curve not set", "optimizer.curve cosine"]),
        ({"optimizer__warmup": 0.2}, ["optimizer.warmup not set", "optimizer.warmup 0.2"]),
        ({"score_test": False}, ["score_test not set", "score_test False"]),
        ({"data": "other/an4"}, ["data data/an4", "data other/an4"]),
        ({"optimizer__anneal": 1.2}, ["anneal 1.0", "anneal 1.2"]),
    ],
)
def test_other_settings_divide_and_tell_apart(of, change, titles):
    found = compare_runs([of("dsd"), of("dsd", 1, **change)])
    assert [one.title for one in found] == [f"DeepSpeech 1 on AN4 ({title})" for title in titles]
    assert [one.told_apart_by for one in found] == [f" ({title})" for title in titles]
    assert all(one.is_single for one in found)


def test_titles_need_no_more_than_tells_apart(of):
    found = compare_runs([of("dsd"), of("dsd", 1, hidden_size=64, sparsities=[0.1])])
    assert [one.told_apart_by for one in found] == [" (hidden_size 32)", " (hidden_size 64)"]


def test_another_recipe_or_corpus_divides(of):
    found = compare_runs([of("dsd"), replace(of("dsd"), recipe="mine"), of("dsd", data="data/wsj")])
    assert [one.title for one in found] == ["DeepSpeech 1 on AN4", "mine on AN4", "DeepSpeech 1 on wsj"]


@pytest.mark.parametrize(
    ("data", "corpus"),
    [
        ("/x/dataset_flickr8k.json", "Flickr8k"),
        ("dataset_coco.json.gz", "coco"),
        ("data/flickr8k", "Flickr8k"),
        (None, "the embedded corpus"),
    ],
)
def test_corpora_are_named(of, data, corpus):
    run = of("dsd")
    settings = {name: value for name, value in run.settings.items() if name != "data"}
    run = replace(run, settings=settings if data is None else {**settings, "data": data})
    assert compare_runs([run])[0].corpus == corpus


def test_the_baseline_anneals_in_its_own_way(of):
    (one,) = compare_runs([of("baseline", optimizer__anneal=1.3), of("dsdsd"), of("llr")])
    assert (one.baseline_anneal, one.anneal) == (1.3, 1.0)
    # Baselines of two kinds are two comparisons with the same other arms, never one arm.
    found = compare_runs(
        [of("baseline"), of("baseline", 1, optimizer__anneal=1.3), of("dsdsd"), of("dsdsd", 1)]
    )
    assert [one.told_apart_by for one in found] == [
        " (the baseline's anneal 1.05)",
        " (the baseline's anneal 1.3)",
    ]
    assert [list(one.arm("Baseline").runs) for one in found] == [[0], [1]]
    assert [list(one.arm("DSDSD").runs) for one in found] == [[0, 1], [0, 1]]


def test_arms_of_as_many_epochs_are_set_beside_each_other(of):
    short = [of(arm, iters=1) for arm in ("baseline", "llr")]
    one, two = compare_runs([of("baseline"), of("llr"), of("dsd"), of("dsdsd"), *short])
    assert (one.iters, [arm.name for arm in one.arms]) == (1, ["Baseline", "LLR", "DSD"])
    assert (two.iters, [arm.name for arm in two.arms]) == (2, ["Baseline", "LLR", "DSD", "DSDSD"])
    assert [one.told_apart_by, two.told_apart_by] == [" (iters 1)", " (iters 2)"]


def test_runs_that_prune_nothing_stand_beside_every_sparsity(of):
    runs = [
        *(of("dsd", sparsities=[share]) for share in (0.3, 0.5, 0.8)),
        of("baseline", sparsities=[0.9]),
        of("llr", sparsities=[0.3]),
    ]
    found = compare_runs(runs)
    assert [one.told_apart_by for one in found] == [f" (sparsities {share})" for share in (0.3, 0.5, 0.8)]
    for one in found:
        assert [arm.name for arm in one.arms if arm.runs] == ["Baseline", "LLR", "DSD"]
        assert one.left_out == one.unfinished == ()
    assert [one.arm("DSD").runs[0] for one in found] == runs[:3]
    # Alone they are one comparison: nothing else tells them apart.
    (alone,) = compare_runs(runs[3:])
    assert [arm.name for arm in alone.arms] == ["Baseline", "LLR"]


def test_runs_that_prune_nothing_stand_beside_every_start_of_restored_weights(of):
    """A folder of before there was a choice is one of zero."""
    old, zero, former = (
        of("dsd", 0),
        of("dsd", 1, restored_start="zero"),
        of("dsd", 0, restored_start="former"),
    )
    llr = [of("llr", 0), of("llr", 1, restored_start="zero")]
    found = compare_runs([old, zero, former, *llr])
    assert [dict(one.arm("DSD").runs) for one in found] == [{0: old, 1: zero}, {0: former}]
    assert [dict(one.arm("LLR").runs) for one in found] == [dict(enumerate(llr))] * 2
    assert [one.told_apart_by for one in found] == [" (restored_start not set)", " (restored_start former)"]


def test_of_two_that_prune_nothing_each_stands_beside_its_own_sparsities(of):
    def run(arm, share):
        return of(arm, sparsities=[share])

    one, other = compare_runs([run(arm, share) for share in (0.3, 0.5) for arm in ("llr", "dsd")])
    assert [one.settings["sparsities"], other.settings["sparsities"]] == [[0.3], [0.5]]
    assert one.arm("LLR").runs[0] == run("llr", 0.3) and other.arm("LLR").runs[0] == run("llr", 0.5)
    assert one.left_out == other.left_out == ()
    # One that stands nowhere else is named.
    (one,) = compare_runs([run("dsd", 0.3), run("llr", 0.3), run("llr", 0.9)])
    assert one.arm("LLR").runs[0] == run("llr", 0.3) and "LLR with seed 0 a second" in one.left_out[0].message
    # A complete one of other sparsities counts before an unfinished one.
    late = replace(run("llr", 0.3), phases=run("llr", 0.3).phases[:1])
    one, _ = compare_runs([run("dsd", 0.3), late, run("dsd", 0.5), run("llr", 0.5)])
    assert one.arm("LLR").runs[0] == run("llr", 0.5)


def on_another_set(run: Run, split: str = "test", **counts: int) -> Run:
    return replace(run, phases=tuple({**one, split: {**one[split], **counts}} for one in run.phases))


@pytest.mark.parametrize(
    ("split", "counts", "said"),
    [
        ("test", {"utterances": 7, "ref_words": 20}, "test has 7 utterances, not 42"),
        ("test", {"ref_words": 20}, "test has 20 words, not 120"),
        ("dev", {"utterances": 41}, "dev has 41 utterances, not 42"),
    ],
)
def test_runs_scored_on_another_set_are_left_out_by_name(of, split, counts, said):
    odd = on_another_set(of("dsdsd", 1), split, **counts)
    (one,) = compare_runs([odd, of("baseline"), of("baseline", 1), of("dsdsd")])
    assert list(one.arm("DSDSD").runs) == [0] and list(one.arm("Baseline").runs) == [0, 1]
    (refusal,) = one.left_out
    assert refusal.path == odd.folder.path and str(odd.folder.path) in refusal.message
    assert said in refusal.message and "train it again on the same data" in refusal.message


def test_of_as_many_runs_on_either_set_the_first_decides(of):
    small = on_another_set(of("dsdsd"), utterances=7)
    assert compare_runs([small, of("dsdsd", 1)])[0].runs == (small,)
    assert compare_runs([of("dsdsd", 1), small])[0].runs == (of("dsdsd", 1),)
    # A baseline is what all is compared with, wherever it stands.
    assert compare_runs([small, of("baseline")])[0].runs == (of("baseline"),)
    # Runs of which no set agrees in all with another's leave one: never none.
    odd = [on_another_set(of("dsdsd", seed), utterances=seed) for seed in range(3)]
    assert compare_runs(odd)[0].runs == (odd[0],)


def test_counts_that_were_not_kept_are_no_other_set(of):
    old = of("dsdsd")
    counts = {key: value for key, value in old.phases[-1]["test"].items() if key != "utterances"}
    old = replace(old, phases=(*old.phases[:-1], {**old.phases[-1], "test": counts}))
    (one,) = compare_runs([old, of("baseline")])
    assert len(one.runs) == 2 and not one.left_out


def test_unfinished_runs_take_no_part(of):
    late = of("dsdsd", 3)
    late = replace(late, phases=late.phases[:4])
    (one,) = compare_runs([*(of(arm, seed) for arm in ("baseline", "dsdsd") for seed in range(3)), late])
    assert one.unfinished == (late,)
    assert list(one.arm("DSDSD").scores("test", WER)) == [0, 1, 2]
    assert one.seeds == (0, 1, 2)
    (alone,) = compare_runs([late])
    assert alone.arm("DSDSD") is None and alone.seeds == () and len(alone.arms) == 1
    assert (
        alone.arms[0].phases == ()
        and alone.arms[0].epochs() == ()
        and alone.arms[0].scores("test", WER) == {}
    )


def test_a_second_run_of_an_arm_and_seed_is_left_out_by_name(of, runs, tmp_path):
    twin = replace(of("dsd"), folder=replace(of("dsd").folder, path=tmp_path / "twin"))
    (one,) = compare_runs([of("baseline"), of("dsd"), twin])
    assert list(one.arm("DSD").runs.values()) == [of("dsd")]
    (refusal,) = one.left_out
    assert refusal.path == twin.folder.path
    assert (
        "DSD with seed 0 a second time" in refusal.message and str(of("dsd").folder.path) in refusal.message
    )
    # The complete one counts, wherever it stands.
    (one,) = compare_runs([replace(twin, phases=twin.phases[:1]), of("dsd")])
    assert list(one.arm("DSD").runs.values()) == [of("dsd")] and not one.arms[0].unfinished


def test_the_first_phase_alone_is_no_comparison(of):
    assert compare_runs([of("dense")]) == () == compare_runs([])


def test_an_old_run_stands_beside_one_whose_folder_has_every_setting_of_today():
    folders = [RECIPES, RECIPES / "an4" / "records" / "compare-ds2"]
    found = [run for run in read_runs(folders).runs if run.arm not in ("Dense", "Compressed")]
    assert {run.recipe for run in found} == {*CATALOG}
    for run in found:
        todays = to_values(read_config(run.folder.config, CATALOG[run.recipe].config_class()))
        alike = replace(run, settings=todays, seed=run.seed + 1)
        assert len(compare_runs([run, alike])) == 1, run.folder.path


def test_the_committed_records_stand_alone():
    found = {one.title: one for one in compare_runs(read_runs([RECIPES]).runs)}
    speech = found["DeepSpeech 1 on AN4 (epochs 40/20/20/20/20)"]
    assert speech.is_single and speech.arm("DSDSD").scores("test", WER) == {0: pytest.approx(73 / 773)}
    assert sum(title.startswith("NeuralTalk on Flickr8k (features") for title in found) == 2
