import pytest
import torch

from seqdsd.data.labelled_images import ImageBatch, ImageBatchSampler, draw_variations, vary
from seqdsd.engine.task import Batch


@pytest.mark.parametrize(("num_images", "sizes"), [(10, [4, 3, 3]), (8, [4, 4]), (3, [3]), (9, [3, 3, 3])])
def test_an_epoch_takes_each_image_once_in_even_batches(num_images, sizes):
    batches = list(ImageBatchSampler(num_images, batch_size=4, seed=1))
    assert [len(batch) for batch in batches] == sizes
    assert sorted(index for batch in batches for index in batch) == list(range(num_images))


def test_the_order_is_a_function_of_seed_and_epoch_and_can_begin_anywhere():
    def order(**options):
        return list(ImageBatchSampler(100, batch_size=7, **options))

    one = order(seed=1, epoch=2)
    assert order(seed=1, epoch=2) == one and order(seed=1, epoch=2, first=4) == one[4:]
    assert order(seed=1, epoch=3) != one != order(seed=2, epoch=2)
    assert sum(order(shuffled=False), []) == list(range(100))
    assert len(ImageBatchSampler(100, batch_size=7, first=4)) == 11


def test_numbers_that_make_no_batches():
    with pytest.raises(ValueError, match="no image"):
        ImageBatchSampler(0, batch_size=1)
    for options in ({"batch_size": 0}, {"batch_size": 1, "first": -1}):
        with pytest.raises(ValueError, match="at least"):
            ImageBatchSampler(1, **options)


def test_a_batch_moves_with_its_variations():
    variations = draw_variations(2, seed=0, epoch=0, crop_padding=1, flip=True)
    images = torch.arange(32, dtype=torch.uint8).reshape(2, 1, 4, 4)
    batch = ImageBatch(("a/0", "b/1"), images, torch.tensor([0, 1]), variations)
    assert isinstance(batch, Batch) and len(batch) == 2
    assert torch.equal(batch.varied(), vary(images, variations))
    moved = batch.to(torch.device("meta"))
    assert moved.ids == batch.ids and moved.varied().device.type == moved.labels.device.type == "meta"
    plain = ImageBatch(("a/0", "b/1"), images, torch.tensor([0, 1]))
    assert plain.varied() is images and plain.to(torch.device("cpu")).variations is None
