import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional

from seqdsd.data.labelled_images import draw_variations, vary


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (64, 3, 8, 6), generator=generator, dtype=torch.uint8)


def one_by_one(images, variations):
    """The obvious way: torchvision's functions on each image alone."""
    padding = variations.crop_padding
    results = []
    for image, corner, is_flipped in zip(
        images, variations.corners.tolist(), variations.is_flipped, strict=True
    ):
        moved = functional.crop(functional.pad(image, [padding]), *corner, *image.shape[-2:])
        results.append(functional.horizontal_flip(moved) if is_flipped else moved)
    return torch.stack(results)


@pytest.mark.parametrize(
    "options", [{"crop_padding": 2, "flip": True}, {"crop_padding": 3}, {"flip": True}, {}]
)
def test_each_image_its_own_way(images, options):
    variations = draw_variations(len(images), seed=1, epoch=2, **options)
    varied = vary(images, variations)
    assert torch.equal(varied, one_by_one(images, variations)) and varied.dtype == torch.uint8
    assert torch.equal(varied, images) == (not options)


def test_every_move_is_drawn_about_as_often():
    variations = draw_variations(20_000, seed=0, epoch=0, crop_padding=2, flip=True)
    counts = np.histogram2d(*variations.corners.T.numpy(), bins=5, range=[(0, 5), (0, 5)])[0]
    assert counts.sum() == 20_000 and counts.min() > 700 and counts.max() < 900  # 800 +- 28
    assert 0.48 < variations.is_flipped.float().mean() < 0.52


def test_decided_by_seed_epoch_and_position_alone(images):
    def of(seed, epoch, indices):
        drawn = draw_variations(64, seed=seed, epoch=epoch, crop_padding=4, flip=True)
        return vary(images[indices], drawn.of(indices))

    indices = [5, 63, 0, 17]
    whole = of(0, 3, list(range(64)))
    assert torch.equal(of(0, 3, indices), whole[indices])
    assert not torch.equal(of(0, 4, indices), whole[indices])
    assert not torch.equal(of(1, 3, indices), whole[indices])


def test_nothing_is_drawn_from_the_global_generator(images):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    vary(images, draw_variations(64, seed=0, epoch=0, crop_padding=4, flip=True))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_on_the_device(images):
    variations = draw_variations(len(images), seed=1, epoch=2, crop_padding=2, flip=True)
    device = torch.device("cuda")
    assert torch.equal(vary(images.to(device), variations.to(device)).cpu(), vary(images, variations))
