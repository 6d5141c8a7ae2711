"""Whole runs of small classifiers on drawn shapes: what they learn and leave, resume, and refuse."""

import dataclasses
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from seqdsd.config import read_config
from seqdsd.data.labelled_images import ImageFormat
from seqdsd.engine import StopRequested, dsd, load_checkpoint
from seqdsd.models import CLASSIFIERS
from seqdsd.recipes import vision
from seqdsd.records import RunFolderError, read_json_lines
from seqdsd.sparsity import VISION_RULES, resolve
from seqdsd.tasks.classification import Labeller, Normalisation

PHASES = ("Dense Iter 0", "Sparse Iter 1", "Dense Iter 1")


@pytest.fixture(autouse=True)
def cache(monkeypatch, feature_cache):
    monkeypatch.setenv("SEQDSD_CACHE", str(feature_cache))


@pytest.fixture
def classes(tmp_path, write_classes):
    return write_classes(tmp_path / "classes")


def run(config, **options):
    return vision.run(config, console=Console(quiet=True), **options)


def weights(folder, phase):
    return load_checkpoint(folder.weights(phase)).tensors


def but_for_time(record):
    return {name: value for name, value in record.items() if not name.endswith("_seconds")}


# What a run learns and leaves.


def test_a_small_network_learns_and_is_scored_with_counts(class_run):
    records = class_run.read_phases()
    assert [record["name"] for record in records] == list(PHASES)
    assert records[0]["train_loss"][0] > 1.5 > 1.2 > records[-1]["train_loss"][-1]
    for split in ("dev", "test"):
        scores = records[-1][split]
        assert scores["images"] == 16 and scores["top1_errors"] <= 9  # by chance 14
        assert scores["top1_error"] == scores["top1_errors"] / 16
        assert scores["top5_error"] == scores["top5_errors"] / 16 <= scores["top1_error"]
        assert scores["signature"] == "classes:8|images:3x16x16|seen:centre"


def test_predictions_make_the_scores_and_name_five_classes(class_run):
    for record in class_run.read_phases():
        for split in ("dev", "test"):
            rows = list(read_json_lines(class_run.hypotheses(record["name"], split)))
            assert len(rows) == 16 and rows[0]["id"] == f"{split}/blue circle/0.png"
            assert all(row["ref"] == row["id"].split("/")[1] for row in rows)
            assert sum(row["hyp"] != row["ref"] for row in rows) == record[split]["top1_errors"]
            named = [[one["class"] for one in row["top5"]] for row in rows]
            assert all(len(set(one)) == 5 for one in named)
            assert [one[0] for one in named] == [row["hyp"] for row in rows]
            missed = sum(row["ref"] not in one for row, one in zip(rows, named, strict=True))
            assert missed == record[split]["top5_errors"]
            for row in rows:
                shares = [one["probability"] for one in row["top5"]]
                assert shares == sorted(shares, reverse=True) and 0 < sum(shares) <= 1 + 5e-4


def test_the_sparse_phase_prunes_all_but_the_first_convolution(class_run):
    sparse, redense = (weights(class_run, phase) for phase in PHASES[1:])
    config = read_config(class_run.config, vision.Config())
    model = vision.make_model(config, num_classes=8, image_format=ImageFormat(3, 16, 16))
    plan = resolve(model, VISION_RULES, 0.5)
    assert not plan.sparsities.get("conv.weight") and len(plan.sparsities) == 7
    for name in plan.sparsities:
        zeros, count = int((sparse[name] == 0).sum()), sparse[name].numel()
        assert zeros == round(count / 2), name
        assert int((redense[name] == 0).sum()) < zeros / 2
    assert not (sparse["conv.weight"] == 0).any()


def test_the_folder_says_what_outputs_mean_and_where_the_judged_images_are(class_run):
    labeller = Labeller.load(class_run.path)
    assert labeller.classes[0] == "blue circle" and len(labeller.classes) == 8
    assert labeller.format == ImageFormat(3, 16, 16)
    rows = list(read_json_lines(class_run.images))
    assert len(rows) == len({row["id"] for row in rows}) == 32
    for row in rows:
        assert row["path"].endswith(row["id"])
        Image.open(row["path"]).close()


def test_images_are_normalised_by_the_training_set_itself(class_run):
    data = read_config(class_run.config, vision.Config()).data
    pixels = np.stack([np.asarray(Image.open(one)) for one in sorted((data / "train").rglob("*.png"))]) / 255
    found = Labeller.load(class_run.path).normalisation
    assert found.mean == pytest.approx(pixels.mean((0, 1, 2)))
    assert found.deviation == pytest.approx(pixels.std((0, 1, 2)))


# Resuming, taking over.


def test_a_run_stopped_in_a_sparse_phase_goes_on_to_the_same_bits(
    tiny_vision, classes, tmp_path, monkeypatch
):
    augment = vision.VariationSettings(crop_padding=2, flip=True)
    make = tiny_vision(classes, tmp_path / "whole", epochs=(1, 2, 1), augment=augment, label_smoothing=0.1)
    whole = run(make)
    train_epoch, count = dsd.train_epoch, 0

    def stopping(*arguments, **options):
        nonlocal count
        count += 1
        if count == 3:
            raise StopRequested("enough")
        return train_epoch(*arguments, **options)

    parted = dataclasses.replace(make, out=tmp_path / "parted")
    monkeypatch.setattr(dsd, "train_epoch", stopping)
    with pytest.raises(StopRequested):
        run(parted)
    monkeypatch.setattr(dsd, "train_epoch", train_epoch)
    again = run(parted, resume=True)
    for phase in PHASES:
        mine, theirs = weights(whole.folder, phase), weights(again.folder, phase)
        assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert list(map(but_for_time, whole.phases)) == list(map(but_for_time, again.phases))


def test_llr_starts_from_the_dense_phase_of_another_run(tiny_vision, classes, tmp_path):
    first = run(tiny_vision(classes, tmp_path / "dsd"))
    llr = run(tiny_vision(classes, tmp_path / "llr", method="llr"), start_from=first.folder.path)
    assert [phase["name"] for phase in llr.phases] == ["Dense Iter 0", "LLR Phase 1", "LLR Phase 2"]
    assert but_for_time(llr.phases[0])["dev"] == first.phases[0]["dev"]
    assert not any(phase["sparsity"] for phase in llr.phases)


def test_a_run_does_not_go_on_with_other_classes(tiny_vision, classes, tmp_path):
    config = tiny_vision(classes, tmp_path / "run", epochs=(1, 1, 1))
    run(dataclasses.replace(config, out=tmp_path / "first"))
    for split in ("train", "dev", "test"):
        (classes / split / "red circle").rename(classes / split / "crimson circle")
    with pytest.raises(ValueError, match="its classes are not those that the network was trained on"):
        run(config, start_from=tmp_path / "first")


# Images.


def test_grey_images_go_into_a_lenet_as_they_are(tiny_vision, classes, tmp_path):
    for path in classes.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    config = tiny_vision(
        classes, tmp_path / "run", network="lenet5", hidden_size=None, images=vision.ImageSettings()
    )
    result = run(config)
    assert Labeller.load(result.folder.path).format == ImageFormat(1, 28, 28)
    assert weights(result.folder, "Dense Iter 0")["conv1.weight"].shape == (20, 1, 5, 5)


def test_networks_of_imagenet_see_colours_and_what_their_weights_expect(tiny_vision, classes, tmp_path):
    for path in classes.rglob("*.png"):
        Image.open(path).convert("L").save(path)
    config = tiny_vision(
        classes,
        tmp_path / "run",
        network="squeezenet1_1",
        hidden_size=None,
        images=vision.ImageSettings(size=32, resize=36),
    )
    task = vision.make_task(config)
    assert task.labeller.format == ImageFormat(3, 32, 32, 36)
    assert task.labeller.normalisation == Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_an_image_that_cannot_be_read_is_named_or_skipped(tiny_vision, classes, tmp_path):
    (classes / "train" / "red circle" / "3.png").write_bytes(b"no picture")
    (classes / "test" / "red circle" / "1.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"red circle/[13]\.png"):
        run(tiny_vision(classes, tmp_path / "first"))
    result = run(tiny_vision(classes, tmp_path / "second", on_bad_data="skip"))
    assert [phase["skipped"] for phase in result.phases] == [2, 2, 2]
    sources = {row["source"] for row in read_json_lines(result.folder.path / "skipped.jsonl")}
    assert sources == {"train/red circle/3.png", "test/red circle/1.png"}
    assert result.phases[-1]["test"]["images"] == 15


# Settings.


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"network": "resnet19"}, "no network 'resnet19'; choose one of resnet8"),
        ({"network": "vgg16", "hidden_size": 8}, "vgg16 is of one size"),
        ({"images": vision.ImageSettings(size=3)}, "resnet20 takes images of side 5 or more, got 3"),
        ({"images": vision.ImageSettings(size=32, resize=20)}, "resize must be at least 32"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"hidden_size": 0}, "hidden_size must be at least 1"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_that_cannot_be(settings, said):
    with pytest.raises(ValueError, match=said):
        vision.Config(**settings)


def test_every_network_can_be_named():
    for name in CLASSIFIERS:
        assert vision.Config(network=name).image_format(3).height == CLASSIFIERS[name].image_size


def test_a_dry_run_prints_the_plan_and_trains_nothing(tiny_vision, classes, tmp_path):
    console = Console(file=io.StringIO(), width=150)
    vision.dry_run(tiny_vision(classes, tmp_path / "run"), console)
    said = console.file.getvalue()
    assert "8 classes; images train 48, dev 16, test 16, as 3 x 16 x 16" in said
    assert "first convolution: sensitive" in said and "50%" in said
    assert not (tmp_path / "run").exists()


def test_without_data_shapes_are_drawn(capsys):
    vision.main(["--dry-run"])
    out = " ".join(capsys.readouterr().out.split())
    assert "embedded (drawn): 10 classes; images train 2,000, dev 500, test 2,000, as 3 x 32 x 32" in out
    assert vision.embedded_settings().network == "resnet8"


def test_a_damaged_list_of_classes_is_named(class_run, tmp_path):
    for content, said in (
        (b"{", "damaged"),
        (b'{"classes": [1], "format": {}, "normalisation": {}}', "damaged"),
        (None, "missing, so what the outputs mean"),
    ):
        if content is None:
            (tmp_path / "classes.json").unlink()
        else:
            (tmp_path / "classes.json").write_bytes(content)
        with pytest.raises(RunFolderError, match=rf"classes\.json: {said}"):
            Labeller.load(tmp_path)


def test_what_is_written_is_read_back(tmp_path):
    made = Labeller(("é", "b"), ImageFormat(1, 8, 9, 12), Normalisation((0.5,), (0.25,)))
    made.save(tmp_path)
    assert json.loads((tmp_path / "classes.json").read_text())["classes"] == ["é", "b"]
    found = Labeller.load(tmp_path)
    assert (found.classes, found.format, found.normalisation) == (
        made.classes,
        made.format,
        made.normalisation,
    )
