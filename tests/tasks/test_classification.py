"""The classification task against sums done by hand, image by image, on small made-up images."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2

from seqdsd.data.labelled_images import (
    HeldImages,
    ImageFormat,
    LabelledImage,
    read_image_corpus,
)
from seqdsd.engine import Processes, Task
from seqdsd.tasks.classification import (
    ClassificationTask,
    Labeller,
    Normalisation,
    VariationSettings,
    judged_id,
)

CPU = torch.device("cpu")
FORMAT = ImageFormat(3, 6, 6)
CLASSES = tuple("abcdefg")
NUM_IMAGES = {"train": 23, "dev": 9, "test": 5}


def source(split: str) -> HeldImages:
    generator = np.random.default_rng(len(split))
    labels = generator.integers(0, len(CLASSES), NUM_IMAGES[split])
    images = [
        LabelledImage(
            f"{CLASSES[label]}/{index}.png", Path(f"/x/{split}/{CLASSES[label]}/{index}.png"), label
        )
        for index, label in enumerate(labels.tolist())
    ]
    pixels = generator.integers(0, 256, (len(images), 3, 6, 6), dtype=np.uint8)
    return HeldImages(FORMAT, images, torch.from_numpy(pixels), torch.from_numpy(labels))


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, len(CLASSES)))


@pytest.fixture
def make_task():
    def make(**changes) -> ClassificationTask:
        labeller = Labeller(CLASSES, FORMAT, Normalisation((0.5, 0.4, 0.3), (0.2, 0.25, 0.3)))
        settings = {"model": linear(), "labeller": labeller, "batch_size": 5}
        return ClassificationTask(
            sources={split: source(split) for split in NUM_IMAGES}, **{**settings, **changes}
        )

    return make


def by_hand(task: ClassificationTask, pixels: np.ndarray) -> np.ndarray:
    """Log-probabilities of one image."""
    normal = (pixels / 255 - np.array([0.5, 0.4, 0.3])[:, None, None]) / np.array([0.2, 0.25, 0.3])[
        :, None, None
    ]
    weight, bias = (one.detach().double().numpy() for one in task.model.parameters())
    logits = weight @ normal.reshape(-1) + bias
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def test_pixels_are_normalised_as_torchvision_does(make_task):
    labeller, pixels = make_task().labeller, source("dev").pixels
    normalise = v2.Normalize(labeller.normalisation.mean, labeller.normalisation.deviation)
    oracle = v2.Compose([v2.ToDtype(torch.float32, scale=True), normalise])
    torch.testing.assert_close(labeller.pixels(pixels), oracle(pixels))


def test_it_is_a_task(make_task):
    task = make_task()
    assert isinstance(task, Task)
    assert (task.test_splits, task.num_images) == (["test"], NUM_IMAGES)


def test_an_epoch_takes_every_image_once_in_an_order_of_its_own(make_task):
    task = make_task()
    epochs = [[ids for (batch,) in task.batches(epoch, first=0) for ids in batch.ids] for epoch in (0, 1)]
    assert epochs[0] != epochs[1]
    assert (
        sorted(epochs[0]) == sorted(epochs[1]) == sorted(image.id for image in task.sources["train"].images)
    )
    assert task.num_batches == 5 == len(list(task.batches(0, first=0)))
    later = [batch.ids for (batch,) in task.batches(1, first=2)]
    assert [id_ for ids in later for id_ in ids] == epochs[1][10:]


def test_loss_is_cross_entropy_an_image(make_task):
    task = make_task()
    (batch,) = next(task.batches(0, first=0))
    expected = [
        -by_hand(task, pixels)[label]
        for pixels, label in zip(batch.images.numpy(), batch.labels.tolist(), strict=True)
    ]
    assert task.loss(task.model, batch).item() == pytest.approx(np.mean(expected), rel=1e-5)


def test_smoothed_labels_are_spread_over_all_classes(make_task):
    task = make_task(label_smoothing=0.3)
    (batch,) = next(task.batches(0, first=0))
    found = [by_hand(task, pixels) for pixels in batch.images.numpy()]
    expected = [
        -0.7 * log_probs[label] - 0.3 * log_probs.mean()
        for log_probs, label in zip(found, batch.labels.tolist(), strict=True)
    ]
    assert task.loss(task.model, batch).item() == pytest.approx(np.mean(expected), rel=1e-5)
    plain = make_task().evaluate(task.model, "dev", CPU).loss
    assert task.evaluate(task.model, "dev", CPU).loss == pytest.approx(plain)


def test_auxiliary_classifiers_count_three_tenths_in_training_alone(make_task):
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.aux = linear(), nn.Sequential(nn.Flatten(), nn.Linear(108, len(CLASSES)))

        def forward(self, images):
            return (self.main(images), self.aux(images)) if self.training else self.main(images)

    model = Auxiliary()
    task = make_task(model=model)
    (batch,) = next(task.batches(0, first=0))
    pixels = task.labeller.pixels(batch.images)
    parts = [nn.functional.cross_entropy(one(pixels), batch.labels) for one in (model.main, model.aux)]
    assert task.loss(model, batch).item() == pytest.approx((parts[0] + 0.3 * parts[1]).item(), rel=1e-6)
    evaluation = task.evaluate(model, "dev", CPU)
    assert evaluation.loss == pytest.approx(make_task(model=model.main).evaluate(model.main, "dev", CPU).loss)


def test_errors_are_counted_image_by_image(make_task):
    task = make_task()
    evaluation = task.evaluate(task.model, "dev", CPU)
    held = task.sources["dev"]
    found = [by_hand(task, pixels) for pixels in held.pixels.numpy()]
    order = [np.argsort(-one) for one in found]
    labels = held.labels.tolist()
    top1 = sum(one[0] != label for one, label in zip(order, labels, strict=True))
    top5 = sum(label not in one[:5] for one, label in zip(order, labels, strict=True))
    assert 0 < top1 and top5 < top1
    metrics = evaluation.metrics
    assert (metrics["top1_errors"], metrics["top5_errors"], metrics["images"]) == (top1, top5, 9)
    assert metrics["top1_error"] == evaluation.score == top1 / 9 and metrics["top5_error"] == top5 / 9
    assert evaluation.loss == pytest.approx(
        -np.mean([one[label] for one, label in zip(found, labels, strict=True)])
    )
    assert evaluation.headline == f"top-1 error {100 * top1 / 9:.2f} %"
    for image, row, one, ranks in zip(held.images, evaluation.hypotheses, found, order, strict=True):
        assert (row["id"], row["ref"]) == (f"dev/{image.id}", CLASSES[image.label])
        assert row["hyp"] == CLASSES[ranks[0]]
        assert [top["class"] for top in row["top5"]] == [CLASSES[rank] for rank in ranks[:5]]
        assert [top["probability"] for top in row["top5"]] == pytest.approx(np.exp(one[ranks[:5]]), abs=6e-5)


def test_of_five_classes_or_fewer_all_are_in_the_top_five():
    labeller = Labeller("ab", FORMAT, Normalisation((0.5,) * 3, (0.5,) * 3))
    held = replace(source("dev"), labels=source("dev").labels % 2)
    held = replace(held, images=[replace(one, label=one.label % 2) for one in held.images])
    model = nn.Sequential(nn.Flatten(), nn.Linear(108, 2))
    task = ClassificationTask(model=model, labeller=labeller, sources={"dev": held})
    found = task.evaluate(model, "dev", CPU)
    assert "top5_error" not in found.metrics and len(found.hypotheses[0]["top5"]) == 2


@pytest.mark.parametrize("count", [2, 3])
def test_processes_share_batches_and_their_losses_average_to_the_whole(make_task, count):
    whole = [batch for (batch,) in make_task().batches(3, first=0)]
    shares = [
        [batch for (batch,) in make_task(processes=Processes(rank, count)).batches(3, first=0)]
        for rank in range(count)
    ]
    for number, batch in enumerate(whole):
        assert sorted(batch.ids) == sorted(id_ for share in shares for id_ in share[number].ids)


def test_micro_batches_are_the_batch(make_task):
    whole = next(make_task().batches(0, first=0))
    parts = next(make_task(accumulate=2).batches(0, first=0))
    assert len(parts) == 2 and sum((part.ids for part in parts), ()) == whole[0].ids


def test_variations_are_those_of_the_epoch_and_none_in_evaluation(make_task):
    varied = make_task(variations=VariationSettings(crop_padding=1, flip=True))
    batches = [next(varied.batches(epoch, first=0))[0] for epoch in (0, 0, 1)]
    assert torch.equal(batches[0].varied(), batches[1].varied())
    assert not torch.equal(batches[0].varied(), batches[0].images)
    plain = list(make_task().evaluate(varied.model, "dev", CPU).hypotheses)
    assert list(varied.evaluate(varied.model, "dev", CPU).hypotheses) == plain


def test_the_largest_batch_is_as_large_as_any(make_task):
    task = make_task()
    sizes = [len(batch) for (batch,) in task.batches(0, first=0)]
    (largest,) = task.largest_batch()
    assert len(largest) == max(sizes) and largest.images.shape == (5, 3, 6, 6)
    assert task.loss(task.model, largest).isfinite()


def test_the_fingerprint_changes_with_the_images(make_task):
    task, fewer = make_task(), make_task()
    held = fewer.sources["train"]
    fewer.sources = {**fewer.sources, "train": replace(held, images=held.images[1:])}
    assert task.fingerprint == make_task().fingerprint != fewer.fingerprint


def test_a_network_that_says_the_same_of_all_is_remarked(make_task):
    task = make_task()
    with torch.no_grad():
        task.model[1].bias[2] = 1e3
    (note,) = task.evaluate(task.model, "dev", CPU).notes
    assert "100% of the images are taken for 'c'" in str(note) and note.epochs == 3
    assert not make_task().evaluate(linear(), "dev", CPU).notes


def test_nan_is_a_loss_and_no_crash(make_task):
    task = make_task()
    with torch.no_grad():
        task.model[1].weight[0, 0] = math.nan
    evaluation = task.evaluate(task.model, "dev", CPU)
    assert math.isnan(evaluation.loss) and evaluation.metrics["images"] == 9


def test_nan_is_never_right_nor_among_the_five(make_task):
    task = make_task()
    with torch.no_grad():
        task.model[1].bias[0] = math.nan
    evaluation = task.evaluate(task.model, "dev", CPU)
    assert evaluation.metrics["top1_errors"] == evaluation.metrics["top5_errors"] == 9
    assert all((row["hyp"], row["top5"]) == ("", []) for row in evaluation.hypotheses)
    (note,) = evaluation.notes
    assert str(note).startswith("for 9 of 9 images the network gives NaN or infinity, and so no class")
    assert note.epochs == 1  # said at once


def test_the_five_likeliest_are_told_apart_where_their_probabilities_vanish(make_task):
    logits = torch.tensor([[0.0, 6.0, 2.0, 500.0, 4.0, 5.0, 3.0]])
    probabilities, indices = make_task().labeller.tops(logits)
    assert probabilities.tolist() == [[1, 0, 0, 0, 0]]
    assert indices.tolist() == [[3, 1, 5, 4, 6]]


def test_names_tell_sets_apart():
    image = LabelledImage("cat/deep/1.png", Path("/data/x/val/cat/deep/1.png"), 0)
    assert judged_id(image) == "val/cat/deep/1.png"
    decomposed = LabelledImage("caf\u00e9/1.png", Path("/data/x/val/cafe\u0301/1.png"), 0)
    assert judged_id(decomposed) == "val/caf\u00e9/1.png"


def test_files_of_two_sets_may_have_the_same_name(tmp_path):
    for split in ("train", "dev", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (6, 6)).save(tmp_path / split / name / "1.png")
    corpus = read_image_corpus(tmp_path)
    names = {judged_id(image) for split in corpus.splits for image in corpus.split(split).images}
    assert len(names) == 6
