"""Runs whose first dense phase is somebody else's."""

import io
import re
import shutil
import tomllib
from dataclasses import replace

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file, save_file

from seqdsd.config import read_config, to_toml
from seqdsd.engine import CheckpointError, StopRequested, load_checkpoint
from seqdsd.inference.trained import load_recogniser
from seqdsd.recipes import ds1, neuraltalk
from seqdsd.recipes.catalog import RECIPES
from seqdsd.recipes.command import parse_command
from seqdsd.recipes.speech import TokenizerSettings
from seqdsd.records import RunFolder, RunFolderError, slug
from seqdsd.reports import phase_table
from seqdsd.reports.captions.page import main as captions_page
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.comparison.tables import table_10
from seqdsd.reports.numbers import run_grid
from seqdsd.reports.page.run_charts import run_curves
from seqdsd.reports.report import main as report
from seqdsd.reports.runs.reading import read_runs
from seqdsd.sparsity import magnitude_mask
from seqdsd.studies.arms import make_arms, new_epochs, own_annealing
from seqdsd.studies.compare import main as compare
from seqdsd.studies.sweep import main as sweep
from seqdsd.tasks import SpeechTask

QUIET = Console(quiet=True)
NAMES = ["Dense Iter 0", "Sparse Iter 1", "Dense Iter 1"]


def run(config, **options):
    return ds1.run(config, console=QUIET, **options)


def weights(result, phase="Dense Iter 0"):
    return load_checkpoint(result.folder.weights(phase)).tensors


def but_for_time(records):
    return [{name: one for name, one in record.items() if "seconds" not in name} for record in records]


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_tone_corpus, tiny_ds1):
    """(settings maker, a finished run, a file of its weights that torch has written)."""
    folder = tmp_path_factory.mktemp("trained")
    corpus = write_tone_corpus(folder / "tones").folder

    def make(out, **changes):
        return tiny_ds1(corpus, out, **{"hidden_size": 16, **changes})

    result = run(make(folder / "theirs", iters=0, epochs=(4,), seed=5))
    file = folder / "theirs.pt"
    torch.save({"state_dict": {f"module.{name}": one for name, one in weights(result).items()}}, file)
    return make, result, file


@pytest.fixture(scope="module")
def begun(trained, tmp_path_factory):
    """A run that began with these weights: (settings, result)."""
    make, _, file = trained
    config = make(tmp_path_factory.mktemp("begun") / "run", start_weights=file, epochs=(7, 2, 1))
    return config, run(config)


def test_it_begins_with_the_sparse_phase(trained, begun):
    _, theirs, _ = trained
    config, result = begun
    assert [record["name"] for record in result.phases] == NAMES
    assert [record["epochs"] for record in result.phases] == [0, 2, 1]
    assert [record["learning_rate"] for record in result.phases][1:] == list(config.learning_rates[1:])
    given = weights(result)
    assert all(torch.equal(one, given[name]) for name, one in weights(theirs).items())
    assert result.phases[0]["train_seconds"] == 0
    sparse = weights(result, "Sparse Iter 1")
    for name in ("fc1.0.weight", "rnn.input.weight"):
        assert torch.equal(sparse[name] != 0, magnitude_mask(given[name], 0.5))


def test_the_record_says_so_with_the_scores_of_the_weights_as_they_came(trained, begun):
    _, theirs, file = trained
    record, scored = begun[1].phases[0], theirs.phases[0]
    for split in ("dev", "test"):
        assert record[split] == scored[split]
    best = scored["best_epoch"] - 1
    assert (
        record["given"].items()
        >= {
            "file": str(file),
            "dev_score": scored["dev_score"][best],
            "dev_loss": scored["dev_loss"][best],
        }.items()
    )
    assert record["train_loss"] == record["dev_loss"] == record["dev_score"] == []
    assert all("given" not in one for one in begun[1].phases[1:])


def test_the_settings_hold_the_file_and_the_provenance_its_digest(trained, begun):
    _, _, file = trained
    config, result = begun
    assert read_config(result.folder.config, ds1.Config()) == config
    table = tomllib.loads(result.folder.config.read_text())
    assert table["start_weights"] == str(file)
    assert table["provenance"]["start_weights"] == {
        "file": str(file),
        "sha256": result.phases[0]["given"]["sha256"],
    }


def test_the_given_weights_are_a_phase_like_others_to_what_uses_runs(begun, tmp_path, capsys):
    folder = begun[1].folder
    assert load_recogniser(folder, phase=slug(NAMES[0]), device="cpu").phase["name"] == NAMES[0]
    text = io.StringIO()
    Console(file=text, width=200).print(phase_table(begun[1].phases))
    row = next(line for line in text.getvalue().splitlines() if line.strip().startswith(NAMES[0]))
    assert re.search(r"Dense Iter 0 \(given\).* 0 +- +0:00:00", row), row
    assert "Dense Iter 0: weights that were given" in " ".join(text.getvalue().split())
    report([str(folder.path), "--out", str(tmp_path / "report.html")])
    assert "Dense Iter 0 (given)" in (tmp_path / "report.html").read_text()


def test_stopped_anywhere_it_goes_on_to_the_same_bits_without_the_file(trained, begun, tmp_path, monkeypatch):
    make, _, file = trained
    moved = shutil.copy(file, tmp_path / "copy.pt")
    config = make(tmp_path / "run", start_weights=moved, epochs=(7, 2, 1))
    loss, evaluate, done = SpeechTask.loss, SpeechTask.evaluate, []
    num_batches = ds1.make_task(config).num_batches
    stops = [num_batches + 1, 1]  # in the second epoch of the sparse phase, and in the dense one

    def stop(task, model, batch):
        done.append(batch.ids)
        if stops and len(done) > stops[0]:
            done.clear()
            del stops[0]
            raise KeyboardInterrupt
        return loss(task, model, batch)

    def stop_at_once(task, model, split, device):
        raise KeyboardInterrupt

    monkeypatch.setattr(SpeechTask, "evaluate", stop_at_once)
    with pytest.raises((KeyboardInterrupt, StopRequested)):
        run(config)  # before the first checkpoint: the file is needed again
    monkeypatch.setattr(SpeechTask, "evaluate", evaluate)
    monkeypatch.setattr(SpeechTask, "loss", stop)
    while stops:
        with pytest.raises((KeyboardInterrupt, StopRequested)):
            run(config, resume=True)
        moved.unlink(missing_ok=True)
    result = run(config, resume=True)
    whole = begun[1]
    mine, theirs = (but_for_time(one.phases) for one in (result, whole))
    assert mine[1:] == theirs[1:] and mine[0]["dev"] == theirs[0]["dev"]
    for name in NAMES:
        one, other = weights(result, name), weights(whole, name)
        assert all(torch.equal(one[key], other[key]) for key in other)


def test_another_file_in_its_place_is_refused_while_it_is_needed(trained, tmp_path, monkeypatch):
    make, theirs, _ = trained
    file = tmp_path / "theirs.safetensors"
    save_file(weights(theirs), file)
    config = make(tmp_path / "run", start_weights=file)

    def stop(task, model, split, device):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises((KeyboardInterrupt, StopRequested)):
        patch.setattr(SpeechTask, "evaluate", stop)
        run(config)
    other = load_file(file)
    other["fc1.0.weight"][0, 0] += 1
    save_file(other, file)
    with pytest.raises(
        RunFolderError, match=r"theirs.safetensors: not the file that the run in .* was begun with"
    ):
        run(config, resume=True)


@pytest.mark.parametrize("place", [".", "checkpoints/dense-iter-0.safetensors"])
def test_the_weights_of_a_run_by_its_folder_or_its_checkpoint(trained, begun, tmp_path, place):
    make, theirs, _ = trained
    result = run(make(tmp_path / "run", start_weights=theirs.folder.path / place, epochs=(7, 2, 1)))
    assert all(
        torch.equal(one, weights(begun[1], NAMES[2])[name]) for name, one in weights(result, NAMES[2]).items()
    )
    assert result.phases[0]["given"]["file"] == str(theirs.folder.weights(NAMES[0]))


def test_of_a_run_the_best_phase_on_dev_is_taken(trained, begun, tmp_path):
    """As by all that uses a run."""
    make, _, _ = trained
    best = load_recogniser(begun[1].folder, device="cpu").phase["name"]
    result = run(make(tmp_path / "run", start_weights=begun[1].folder.path, iters=1))
    assert result.phases[0]["given"]["file"] == str(begun[1].folder.weights(best))


def parse(*argv):
    return parse_command(
        ds1.Config,
        prog="",
        description="",
        without_data=ds1.RECIPE.embedded_settings,
        with_data=ds1.RECIPE.fit,
        recipe="ds1",
        argv=[str(one) for one in argv],
    )


def test_settings_chosen_for_the_corpus_leave_the_network_of_a_run_as_it_is(trained):
    make, theirs, _ = trained
    own = read_config(theirs.folder.config, ds1.Config())
    data = own.data
    command = parse("--data", data, "--start-weights", theirs.folder.path)
    settings, fitted = command.settings, ds1.RECIPE.fit(data).settings
    assert (settings.hidden_size, settings.network, settings.features) == (16, own.network, own.features)
    assert settings.epochs == fitted.epochs and settings.optimizer == fitted.optimizer
    lines = command.fitted.lines(settings)
    assert not any("units a layer" in line or line.startswith("features") for line in lines)
    assert any(line.startswith("the first phase is given") for line in lines)
    assert (
        settings.augment.spec_augment and not fitted.augment.spec_augment
    )  # a short training's begins fresh
    assert parse("--start-weights", theirs.folder.path).settings.hidden_size == 16  # the embedded corpus
    assert (
        parse("--data", data, "--start-weights", theirs.folder.path, "--hidden-size", 20).settings.hidden_size
        == 20
    )
    assert parse("--preset", "paper", "--start-weights", theirs.folder.path).settings.hidden_size == 1024


def test_a_bare_file_s_network_is_not_guessed_and_the_refusal_says_what_to_set(trained, tmp_path):
    make, _, file = trained
    settings = parse(
        "--data", make(tmp_path).data, "--start-weights", file, "--out", tmp_path / "run"
    ).settings
    for start in (run, ds1.dry_run):
        with pytest.raises(
            CheckpointError, match=r"theirs.pt: not the weights of this network .*--hidden-size"
        ):
            start(settings)
    assert not (tmp_path / "run").exists()


def test_a_dry_run_shows_it_and_looks_whether_it_fits(trained, tmp_path):
    make, _, file = trained
    text = io.StringIO()
    ds1.dry_run(make(tmp_path / "run", start_weights=file), Console(file=text, width=200))
    assert re.search(r"Start weights .*theirs.pt .*: they fit the network", text.getvalue())
    assert re.search(r"Dense Iter 0 +│ given +│ - ", text.getvalue())
    assert re.search(r"Sparse Iter 1 +│ 1 +│ 0.01 ", text.getvalue())
    assert not (tmp_path / "run").exists()


def test_refusals_leave_no_run_behind(trained, begun, tmp_path):
    make, theirs, file = trained
    (tmp_path / "cut.pt").write_bytes(file.read_bytes()[:500])
    for name, said in {"gone.pt": "no such file", "cut.pt": "damaged", ".": "a folder, and no run's"}.items():
        with pytest.raises(CheckpointError, match=said):
            run(make(tmp_path / "run", start_weights=tmp_path / name))
    for method in ("dsd", "llr", "baseline"):
        with pytest.raises(ValueError, match="with iters 0 there is no other to train"):
            make(tmp_path / "run", start_weights=file, iters=0, method=method)
    subwords = TokenizerSettings(kind="subwords", vocab_size=29)
    with pytest.raises(RunFolderError, match="other settings of tokenizer .kind: characters -> subwords"):
        run(make(tmp_path / "run", start_weights=theirs.folder.path, tokenizer=subwords))
    assert not (tmp_path / "run").exists()


def test_another_recipe_s_run_is_refused(trained, shape_corpus, tmp_path, tiny_neuraltalk):
    theirs = trained[1]
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run", start_weights=theirs.folder.path)
    with pytest.raises(RunFolderError, match="the weights of 'ds1', with which 'neuraltalk' cannot begin"):
        neuraltalk.run(config, console=QUIET)


def test_a_captioner_goes_on_with_the_words_of_the_run_that_it_begins_with(
    shape_corpus, tmp_path, tiny_neuraltalk
):
    """Words that are counted anew, of captions mended since then, would get other ids."""
    first = neuraltalk.run(
        tiny_neuraltalk(shape_corpus, tmp_path / "first", iters=0, epochs=(2,)), console=QUIET
    )
    words = (tmp_path / "first" / "vocabulary.json").read_text()
    data = shape_corpus.data.read_text()
    shape_corpus.data.write_text(data.replace("circle", "ellipse"))
    try:
        config = tiny_neuraltalk(shape_corpus, tmp_path / "run", start_weights=first.folder.path)
        result = neuraltalk.run(config, console=QUIET)
    finally:
        shape_corpus.data.write_text(data)
    assert (tmp_path / "run" / "vocabulary.json").read_text() == words
    assert [record["epochs"] for record in result.phases] == [0, 1, 1]
    captions_page([str(result.folder.path), "--out", str(tmp_path / "captions.html")])
    assert "Dense Iter 0 (given)" in (tmp_path / "captions.html").read_text()


# Comparisons: every arm begins with the same weights.


def test_arms_of_a_comparison_begin_with_the_given_weights(trained, tmp_path):
    make, _, file = trained
    common = make(tmp_path, start_weights=file, iters=2, epochs=(9, 4, 3, 2, 1))
    arms = make_arms(common, ["baseline", "llr", "dsd", "dsdsd"], baseline_anneal=None)
    assert [(arm.name, arm.takes_over) for arm in arms] == [
        ("dsd", None),
        ("dsdsd", "dsd"),
        ("llr", None),
        ("baseline", None),
    ]
    assert [new_epochs(arm, arms, common) for arm in arms] == [7, 3, 10, 10]
    assert own_annealing(common) == pytest.approx((1e-2 / 1.25e-3) ** (1 / 9), rel=1e-5)
    baseline = arms[-1].config(common).schedule
    assert [(one.name, one.epochs, one.learning_rate) for one in baseline][1:] == [("Baseline", 10, 1e-2)]


def test_finished_arms_are_compared(trained, begun, tmp_path):
    make, _, file = trained
    for method in ("llr", "baseline"):
        run(make(tmp_path / method, method=method, start_weights=file, epochs=(7, 2, 1)))
    runs = read_runs([tmp_path, begun[1].folder.path]).runs
    assert len(runs) == 3 and all(one.is_complete for one in runs)
    [comparison] = compare_runs(runs)
    assert {arm.name: arm.epochs() for arm in comparison.arms} == {"Baseline": (3,), "LLR": (3,), "DSD": (3,)}
    dsd = next(one for one in runs if one.arm == "DSD")
    rows = table_10(comparison, split="test", family=[comparison.kind.primary]).rows
    assert [row[-2:] for row in rows if "Dense Iter 0 (given)" in row] == [("0", "-")]
    assert run_grid(dsd, [comparison]).sections[1][0][0] == "Baseline"
    assert [(band["name"], band["start"]) for band in run_curves(dsd)["bands"]] == [
        (NAMES[1], 0.5),
        (NAMES[2], 2.5),
    ]
    report([str(tmp_path), str(begun[1].folder.path), "--out", str(tmp_path / "report.html")])
    assert "Dense Iter 0 (given)" in (tmp_path / "report.html").read_text()


def test_arms_of_other_weights_are_not_compared_whatever_the_file_was_called(trained, begun, tmp_path):
    make, _, file = trained
    same, other = shutil.copy(file, tmp_path / "same.pt"), shutil.copy(file, tmp_path / "other.pt")
    run(make(tmp_path / "same", method="llr", start_weights=same, epochs=(7, 2, 1)))
    assert len(compare_runs(read_runs([tmp_path / "same", begun[1].folder.path]).runs)) == 1
    tensors = {name: 2 * one for name, one in torch.load(other)["state_dict"].items()}
    torch.save(tensors, other)
    run(make(tmp_path / "other", method="llr", start_weights=other, epochs=(7, 2, 1)))
    settings = tmp_path / "other" / "config.toml"
    settings.write_text(
        settings.read_text().replace(str(other), str(file))
    )  # as if it had stood in its place
    assert len(compare_runs(read_runs([tmp_path / "other", begun[1].folder.path]).runs)) == 2


def test_an_arm_that_takes_over_notes_the_digest(trained, begun, tmp_path):
    make, _, file = trained
    config = make(tmp_path / "run", start_weights=file, epochs=(7, 2, 1, 1), iters=2)
    result = run(config, start_from=begun[1].folder.path)
    assert [record.get("epochs") for record in result.phases] == [0, 2, 1, 1, 1]
    noted = [tomllib.loads(one.folder.config.read_text())["provenance"] for one in (result, begun[1])]
    assert noted[0]["start_weights"] == noted[1]["start_weights"]
    recipe = RECIPES["ds1"]
    assert recipe.has_finished(RunFolder(config.out), config)
    assert not recipe.has_finished(RunFolder(tmp_path / "no"), replace(config, out=tmp_path / "no"))


def test_studies_of_given_weights_say_what_they_will_train(trained, tmp_path, capsys):
    """Without the shared first phase, and although a run of it alone, by which compare measures, would be refused."""
    make, _, file = trained
    settings = tmp_path / "ds1.toml"
    settings.write_text(to_toml(make(tmp_path, start_weights=file, epochs=(7, 2, 1))))
    common = ["--out", str(tmp_path / "study"), "--dry-run", "--iters", "1", "--jobs", "1"]
    compare([str(settings), *common, "--seeds", "0"])
    said = " ".join(capsys.readouterr().out.split())
    assert "runs: 3, of which finished: 0" in said and "9 epochs of" in said
    sweep([str(settings), *common, "--sparsities", "0.3", "0.5"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition(": ")[2] for line in lines] == ["3 epochs"] * 3 + ["3 runs, 9 epochs"]
