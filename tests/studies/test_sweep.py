"""A real sweep over tiny captioners, each run in a process of its own, as ``seqdsd sweep`` makes it."""

import io
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from seqdsd.config import read_config, to_toml
from seqdsd.engine import load_checkpoint
from seqdsd.recipes import ds1, neuraltalk
from seqdsd.recipes.catalog import RECIPES
from seqdsd.records import RunFolder, RunFolderError
from seqdsd.sparsity import Schedule
from seqdsd.studies.sweep import DensePhase, Point, SweepPlan, show_scores, sweep

REPOSITORY = Path(__file__).parents[2]
RATES = (5e-3, 2e-3, 1e-3)
LADDER = "0.005-0.002-0.001"
RUNS = ["dense_0.005", f"0.5_{LADDER}", f"llr_{LADDER}"]


@pytest.fixture(scope="module", autouse=True)
def importable():
    """By the processes that are started here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(REPOSITORY))
        yield


@pytest.fixture(scope="module")
def settings(tmp_path_factory, write_shape_corpus, tiny_neuraltalk):
    """A settings file called after its recipe."""
    folder = tmp_path_factory.mktemp("swept")
    config = tiny_neuraltalk(
        write_shape_corpus(folder / "captioned"),
        folder / "unused",
        epochs=(6, 2, 2),
        learning_rates=RATES,
        sparsities=(0.7,),
    )
    (folder / "neuraltalk.toml").write_text(to_toml(config))
    return folder / "neuraltalk.toml"


def run(settings, out, *flags):
    """``seqdsd sweep``, two runs at a time; returns what it printed."""
    console = Console(file=io.StringIO(), width=120)
    sweep([str(settings), "--out", str(out), "--jobs", "2", *flags], console)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def finished(settings, tmp_path_factory, importable):
    """A whole sweep of one sparsity and seed: (folder, what was printed)."""
    out = tmp_path_factory.mktemp("sweeps") / "finished"
    return out, run(settings, out, "--sparsities", "0.5")


@pytest.fixture
def copied(finished, tmp_path):
    """A copy that may be changed."""
    shutil.copytree(finished[0], tmp_path / "copy")
    return tmp_path / "copy"


def folder_of(out, name):
    return RunFolder(out / "seed-0" / name)


def state_of(out):
    found = {path: path.stat() for path in out.rglob("*") if path.is_file()}
    ours = ("sweep.toml", ".lock")
    return {path: (one.st_mtime_ns, one.st_size) for path, one in found.items() if path.name not in ours}


def jobs_of(settings, out, *flags):
    """Names and epochs of what would be run."""
    lines = run(settings, out, "--dry-run", *flags).splitlines()
    return {name: int(rest.split()[0]) for name, rest in (line.split(": ") for line in lines[:-1])}


# What is trained. All of these read one sweep, which the first to run waits for.


@pytest.mark.slow
def test_a_run_a_point_and_one_without_pruning_share_the_dense_phase(finished):
    out = finished[0]
    assert sorted(path.name for path in (out / "seed-0").iterdir()) == sorted(RUNS)
    phases = {name: folder_of(out, name).read_phases() for name in RUNS}
    assert [[one["sparsity"] for one in phases[name]] for name in RUNS] == [[0], [0, 0.5, 0], [0, 0, 0]]
    for name in RUNS[1:]:
        assert [one["learning_rate"] for one in phases[name]] == list(RATES)
        origins = [one.get("taken_over_from") for one in phases[name]]
        assert origins == [str(out / "seed-0" / RUNS[0]), None, None]
    first = [load_checkpoint(folder_of(out, name).weights("Dense Iter 0")).tensors for name in RUNS]
    assert all(torch.equal(one[key], first[0][key]) for one in first for key in first[0])


@pytest.mark.slow
def test_no_run_has_looked_at_the_test_set(finished):
    out = finished[0]
    for name in RUNS:
        assert not read_config(folder_of(out, name).config, neuraltalk.Config()).score_test
        records = folder_of(out, name).read_phases()
        assert all("dev" in record and "test" not in record for record in records)
        assert sorted(
            path.name.split(".")[1] for path in folder_of(out, name).all_hypotheses("Dense Iter 0")
        ) == ["dev"]
    assert not list(out.rglob("hyps/*test*"))
    for log in (out / "logs").iterdir():
        assert "test BLEU" not in log.read_text() and "dev BLEU" in log.read_text()


@pytest.mark.slow
def test_points_are_ranked_by_dev_and_nothing_else(finished):
    out, printed = finished
    scores = {name: folder_of(out, name).read_phases()[-1]["dev"]["bleu4"] for name in RUNS[1:]}
    rows = [line.replace("│", " ").split() for line in printed.splitlines()]
    by_label = {
        row[0]: (number, row[-1]) for number, row in enumerate(rows) if row and row[0] in ("0.5", "nothing")
    }
    assert [by_label[label][1] for label in ("0.5", "nothing")] == [
        f"{scores[name]:.1f}" for name in RUNS[1:]
    ]
    is_better = scores[RUNS[1]] >= scores[RUNS[2]]
    assert (by_label["0.5"][0] < by_label["nothing"][0]) == is_better
    assert ("DSD has not helped here" in printed) == (not is_better)
    assert "learning_rates = [0.005, 0.002, 0.001]\nsparsities = [0.5]" in printed


@pytest.mark.slow
def test_what_is_finished_is_not_trained_again(settings, copied):
    before = state_of(copied)
    printed = run(settings, copied, "--sparsities", "0.5")
    assert state_of(copied) == before
    assert "training" not in printed and "dev BLEU-4" in printed
    names = jobs_of(settings, copied, "--sparsities", "0.5", "0.9")
    assert {name for name, epochs in names.items() if epochs} == {f"seed-0/0.9_{LADDER}"}


@pytest.mark.slow
def test_a_run_that_scored_a_test_set_is_refused_by_name(settings, copied):
    """Whatever it is called, and whether it is one of the sweep's points or not."""
    (copied / "seed-0" / RUNS[1]).rename(copied / "seed-0" / "other")
    config = copied / "seed-0" / "other" / "config.toml"
    text = config.read_text()
    assert "score_test = false" in text
    for changed in (
        text.replace("score_test = false", "score_test = true"),
        text.replace("score_test = false", ""),
    ):
        config.write_text(changed)
        for flags in ([], ["--dry-run"]):
            with pytest.raises(
                RunFolderError, match="seed-0/other: this run scored the test sets; settings are"
            ):
                run(settings, copied, "--sparsities", "0.5", *flags)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--", "--hidden-size", "16"], r"sweep\.toml: .*\(hidden_size: 24 -> 16\); take another --out"),
        (["--iters", "2"], r"sweep\.toml: .*\(iters: 1 -> 2\)"),
        (["--dry-run", "--", "--epochs", "3"], r"sweep\.toml: .*epochs: "),
    ],
)
def test_other_settings_in_the_same_folder_are_refused_by_name(settings, copied, flags, message):
    before = state_of(copied)
    with pytest.raises(RunFolderError, match=message):
        run(settings, copied, "--sparsities", "0.5", *flags)
    assert state_of(copied) == before


@pytest.mark.slow
def test_a_damaged_run_is_refused_by_name(settings, copied):
    phases = folder_of(copied, RUNS[2]).phases
    phases.write_text(phases.read_text()[:-5])
    with pytest.raises(RunFolderError, match=rf"seed-0/{RUNS[2]}/phases\.jsonl:3: damaged record .* remove"):
        run(settings, copied, "--sparsities", "0.5")


# Which points there are.


def test_points_with_the_same_first_rate_share_a_dense_phase(settings, tmp_path):
    flags = [
        "--sparsities",
        "0.5",
        "0.8",
        "--learning-rates",
        "5e-3,1e-3",
        "5e-3,2e-3",
        "1e-2",
        "--seeds",
        "4,2",
    ]
    epochs = jobs_of(settings, tmp_path / "out", *flags)
    names = [name.removeprefix("seed-4/") for name in epochs if name.startswith("seed-4/")]
    assert names == [
        "dense_0.005",
        "dense_0.01",
        *(
            f"{pruned}_{rates}"
            for rates in ("0.005-0.001", "0.005-0.002", "0.01")
            for pruned in ("0.5", "0.8", "llr")
        ),
    ]
    assert len(epochs) == 2 * 11
    assert {name: number for name, number in epochs.items() if "dense" in name} == {
        f"seed-{seed}/dense_{rate}": 6 for seed in (4, 2) for rate in ("0.005", "0.01")
    }
    assert {number for name, number in epochs.items() if "dense" not in name} == {4}
    assert not (tmp_path / "out").exists()


def test_points_that_come_to_the_same_are_one(settings, tmp_path):
    """Values beyond the last round or phase are not used, and a second sparsity of half the first is the rule."""
    flags = [
        "--sparsities",
        "0.5",
        "0.5,0.25",
        "0.5",
        "--learning-rates",
        "5e-3,2e-3,1e-3,9",
        "5e-3,2e-3,1e-3",
    ]
    names = [name.removeprefix("seed-0/") for name in jobs_of(settings, tmp_path / "out", *flags)]
    assert names == ["dense_0.005", f"0.5_{LADDER}-9", f"llr_{LADDER}-9"]
    two_rounds = ["--iters", "2", "--sparsities", "0.5", "0.5,0.25", "0.5,0.3"]
    names = [name.removeprefix("seed-0/") for name in jobs_of(settings, tmp_path / "out", *two_rounds)]
    assert names == ["dense_0.005", f"0.5_{LADDER}", f"0.5-0.3_{LADDER}", f"llr_{LADDER}"]


def test_redense_rates_and_lengths_are_tried_with_every_point(settings, tmp_path):
    """By hand: the redense phase's rate is its sparse phase's times the factor, and the others keep theirs."""
    flags = ["--sparsities", "0.5", "--redense-rates", "1", "0.1", "--redense-epochs", "2", "5"]
    epochs = jobs_of(settings, tmp_path / "out", *flags)
    names = {name.removeprefix("seed-0/"): number for name, number in epochs.items()}
    # Of those that prune (or not) alike, the first trains the second phase, of 2 epochs, for the others.
    assert names == {
        "dense_0.005": 6,
        "0.5_0.005-0.002-0.002_epochs-6-2-2": 4,
        "llr_0.005-0.002-0.002_epochs-6-2-2": 4,
        "0.5_0.005-0.002-0.002_epochs-6-2-5": 5,
        "llr_0.005-0.002-0.002_epochs-6-2-5": 5,
        "0.5_0.005-0.002-0.0002_epochs-6-2-2": 2,
        "llr_0.005-0.002-0.0002_epochs-6-2-2": 2,
        "0.5_0.005-0.002-0.0002_epochs-6-2-5": 5,
        "llr_0.005-0.002-0.0002_epochs-6-2-5": 5,
    }


def test_every_round_s_redense_phase_is_meant(settings, tmp_path):
    flags = ["--iters", "2", "--sparsities", "0.5", "--learning-rates", "1e-2,4e-3,7e-4,3e-4,1e-5"]
    names = jobs_of(settings, tmp_path / "out", *flags, "--redense-rates", "0.1")
    assert list(names)[1:] == [f"seed-0/{pruned}_0.01-0.004-0.0004-0.0003-3e-05" for pruned in ("0.5", "llr")]
    names = jobs_of(settings, tmp_path / "out", *flags, "--redense-epochs", "9")
    assert list(names)[1] == "seed-0/0.5_0.01-0.004-0.0007-0.0003-1e-05_epochs-6-2-9-2-9"


def test_a_point_begins_with_the_phases_of_the_first_that_has_them_in_common(settings, tmp_path):
    recipe = RECIPES["neuraltalk"]
    common = replace(read_config(settings, neuraltalk.Config()), out=tmp_path)
    names = {rate: f"seed-0/0.5_0.005-0.002-{rate}" for rate in ("0.002", "0.0002")}
    points = tuple(Point((0.5,), (5e-3, 2e-3, float(rate))) for rate in names)
    jobs = {job.name: job for job in SweepPlan(recipe, common, {}, points, (0,), tmp_path).jobs()}
    assert [jobs[name].needs for name in names.values()] == ["seed-0/dense_0.005", names["0.002"]]
    for name in names.values():
        start_from = jobs[name].command[jobs[name].command.index("--start-from") + 1]
        assert start_from == str(tmp_path / jobs[name].needs)


@pytest.mark.parametrize(
    "point",
    [
        Point((0.5, 0.3), (1e-3, 1e-3 / 3)),
        Point((), (1e-3,)),
        Point((0.5,), (1e-3,), (4, 3, 2)),
        DensePhase(1e-5),
    ],
    ids=lambda point: point.name,
)
def test_flags_give_the_recipe_the_point_s_settings(settings, point):
    """Read by the recipe's own command line."""
    recipe = RECIPES["neuraltalk"]
    common = read_config(settings, neuraltalk.Config())
    assert recipe.settings(settings, point.flags(), prog="", reserved=())[0] == point.config(common)


def test_the_best_point_is_that_of_the_best_mean_over_the_seeds(tmp_path, phase_records):
    """By hand, of error rates: lower is better, over seeds and not the best of them."""

    def dev_of(errors):
        return {
            "wer": errors / 100,
            "substitutions": errors,
            "deletions": 0,
            "insertions": 0,
            "ref_words": 100,
        }

    points = [Point((0.5,), (1e-3,)), Point((0.8,), (1e-3,)), Point((), (1e-3,))]
    plan = SweepPlan(RECIPES["ds1"], RECIPES["ds1"].without_data(), {}, tuple(points), (0, 1), tmp_path)
    for point, scores in zip(points, [(0.05, 0.30), (0.15, 0.16), (0.20, 0.10)], strict=True):
        for seed, score in enumerate(scores):
            folder = plan.folder(seed, point)
            folder.path.mkdir(parents=True)
            first, last = phase_records(Schedule.dsd(1, 1).phases[:2])
            folder.write_phases([{**first, "dev": dev_of(0)}, {**last, "dev": dev_of(round(100 * score))}])
    console = Console(file=io.StringIO(), width=120)
    show_scores(plan, console)
    printed = console.file.getvalue()
    rows = [line.replace("│", " ").split() for line in printed.splitlines()]
    scores = [row for row in rows if len(row) > 3 and row[-1].replace(".", "").isdecimal()]
    assert scores == [
        ["nothing", "(llr)", "0.001", "15.00", "20.00", "10.00"],
        ["0.8", "0.001", "15.50", "15.00", "16.00"],
        ["0.5", "0.001", "17.50", "5.00", "30.00"],
    ]
    assert "sparsities = [0.8]" in printed and "without pruning dev is better" in printed
    assert "restored" not in printed and "nearly sparse" not in printed


def test_the_table_says_how_far_restored_weights_have_come_back(tmp_path, phase_records):
    """By hand: the mean over the seeds, and a warning of the best point if one of its runs is nearly sparse."""
    points = [Point((0.5,), (1e-3,), (4, 3, 2)), Point((), (1e-3,), (4, 3, 2))]
    plan = SweepPlan(RECIPES["ds1"], RECIPES["ds1"].without_data(), {}, tuple(points), (0, 1), tmp_path)
    for point in points:
        for seed, share in enumerate((0.125, 0.375)):
            folder = plan.folder(seed, point)
            folder.path.mkdir(parents=True)
            *_, last = records = phase_records(Schedule.dsd(1, 1).phases)
            if point.sparsities:
                last["restored"] = {
                    "weights": 8,
                    "former_mean_abs": 0.5,
                    "mean_abs": share / 2,
                    "above_threshold": 0,
                    "share": share,
                    "above_share": 0.0,
                    "is_nearly_sparse": share < 0.25,
                }
            folder.write_phases(records)
    console = Console(file=io.StringIO(), width=120)
    show_scores(plan, console)
    printed = console.file.getvalue()
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in printed.splitlines() if "│" in line]
    assert [row[:4] for row in rows] == [
        ["0.5", "0.001", "4, 3, 2", "25"],
        ["nothing (llr)", "0.001", "4, 3, 2", "-"],
    ]
    assert "epochs = [4, 3, 2]\nlearning_rates = [0.001]\nsparsities = [0.5]" in printed
    assert "still nearly sparse after its redense phase" in printed


# Settings that were chosen for the corpus.


@pytest.mark.slow
def test_a_sweep_goes_on_with_the_settings_chosen_at_first(tone_corpus, tmp_path):
    """Although the corpus has grown a letter since, and the learning rates, each run's own, were chosen, too."""
    settings = ["--", "--data", str(tone_corpus.folder), "--epochs", "1", "--hidden-size", "16"]
    asked = ["--iters", "1", "--learning-rates", "1e-3,1e-3,1e-3", "--sparsities", "0.5", *settings]
    run("ds1", tmp_path / "out", *asked)
    entries = tone_corpus.read_manifest("train")
    tone_corpus.write_manifest("train", [{**one, "text": one["text"].replace("a", "ä")} for one in entries])
    assert set(jobs_of("ds1", tmp_path / "out", *asked).values()) == {0}
    without_rates = jobs_of("ds1", tmp_path / "out", "--sparsities", "0.5", *settings)
    rates = ds1.RECIPE.fit(tone_corpus.folder).settings.learning_rates
    assert f"seed-0/0.5_{'-'.join(f'{rate:g}' for rate in rates)}" in without_rates
    with pytest.raises(RunFolderError, match="hidden_size: 16 -> 17"):
        run("ds1", tmp_path / "out", *asked[:-1], "17")


def test_its_own_rounds_count_where_settings_are_chosen(tone_corpus, tmp_path):
    """Two steps an epoch: one round of 700 epochs a phase is a short training, and two are not."""
    asked = ["--dry-run", "--sparsities", "0.5", "--", "--data", str(tone_corpus.folder), "--epochs", "700"]
    assert "no masks: 4,200 steps in all" in run("ds1", tmp_path / "out", "--iters", "1", *asked)
    assert "masked spectrograms" in run("ds1", tmp_path / "out", *asked)


# What cannot be asked for.


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "required: --sparsities"),
        (
            ["--sparsities", "0.5", "half"],
            "--sparsities: expected numbers with commas between them, got 'half'",
        ),
        (
            ["--sparsities", "0.5,,0.2"],
            "--sparsities: expected numbers with commas between them, got '0.5,,0.2'",
        ),
        (
            ["--sparsities", "0.5", "--learning-rates", "1e-3,x"],
            "--learning-rates: expected numbers with commas between them, got '1e-3,x'",
        ),
        (
            ["--sparsities", "0.5", "--hidden-size", "7"],
            "unknown: --hidden-size 7 (settings of the recipe stand",
        ),
    ],
)
def test_a_wrong_command_line(settings, tmp_path, capsys, flags, message):
    with pytest.raises(SystemExit) as end:
        run(settings, tmp_path / "out", *flags)
    assert end.value.code == 2 and message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--sparsities", "1.5"], r"must be in \[0, 1\), got 1\.5"),
        (
            ["--sparsities", "0.5", "--learning-rates", "0,1e-3"],
            r"Dense Iter 0: learning_rate must be in \(0, inf\)",
        ),
        (["--sparsities", "0.5", "--learning-rates", "1e-3,nan"], "learning_rate must be in .* got nan"),
        (
            ["--sparsities", "0.5", "--redense-rates", "0"],
            r"Dense Iter 1: learning_rate must be in \(0, inf\)",
        ),
        (["--sparsities", "0.5", "--redense-epochs", "0"], "Dense Iter 1: epochs must be at least 1, got 0"),
        (
            ["--sparsities", "0.5", "--redense-epochs", *map(str, range(1, 102))],
            "202 points, each with every seed: a sweep has at most 200; ask for fewer",
        ),
        (["--sparsities", "0.5", "--iters", "0"], r"at least one round \(--iters 1\), got 0"),
        (
            ["--sparsities", "0.5", "--", "--score-test"],
            "--score-test after --: seqdsd sweep decides that itself",
        ),
        (["--sparsities", "0.5", "--", "--learning-rates", "1"], "--learning-rates after --"),
    ],
)
def test_what_cannot_be_asked_for(settings, tmp_path, flags, message):
    with pytest.raises(ValueError, match=message):
        run(settings, tmp_path / "out", *flags)
    assert not (tmp_path / "out").exists()
