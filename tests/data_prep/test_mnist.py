import gzip
import os
import subprocess
import sys
from pathlib import Path

import mnist
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import MNIST

from seqdsd.data.labelled_images import read_image_corpus

REPOSITORY = Path(__file__).parents[2]
SIZES = {"train": 60, "test": 20}


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch):
    monkeypatch.setattr(mnist, "OFFICIAL_DIGITS", SIZES)


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture
def corpus(tmp_path):
    """The official layout, as torchvision has it too, with digits of noise."""
    folder = tmp_path / "corpus" / "MNIST" / "raw"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for (images, labels), size in zip(mnist._FILES.values(), SIZES.values(), strict=True):
        pixels = generator.integers(0, 256, (size, 28, 28), dtype=np.uint8)
        digits = generator.permutation(np.arange(size, dtype=np.uint8) % 10)
        for name, array in ((images, pixels), (labels, digits)):
            (folder / name).write_bytes(idx(array))
            (folder / f"{name}.gz").write_bytes(gzip.compress(idx(array)))
    return tmp_path / "corpus"


def refused(corpus, out, message):
    with pytest.raises(ValueError, match=message):
        mnist.main(corpus, out, dev_per_class=2)
    assert not out.exists() or list(out.iterdir()) == []


def test_pixels_and_labels_are_those_that_torchvision_reads(corpus, tmp_path, capsys):
    mnist.main(corpus, tmp_path / "out", dev_per_class=2)
    found = read_image_corpus(tmp_path / "out")
    assert found.classes == tuple("0123456789")
    assert [len(found.split(split)) for split in found.splits] == [40, 20, 20]
    for train in (True, False):
        oracle = MNIST(corpus, train=train)
        images = found.train.images + found.dev.images if train else found.test.images
        assert len(images) == len(oracle)
        for image in images:
            index = int(image.path.stem)
            assert image.label == oracle.targets[index]
            assert torch.equal(torch.from_numpy(np.array(Image.open(image.path))), oracle.data[index])
    assert [image.label for image in found.dev.images] == [digit for digit in range(10) for _ in range(2)]
    assert "dev: 2 of each class, held out of the training set by seed 0" in capsys.readouterr().out


def test_the_seed_decides_which_are_held_out(corpus, tmp_path, capsys):
    def dev(name, seed):
        mnist.main(corpus, tmp_path / name, dev_per_class=2, seed=seed)
        return {image.id for image in read_image_corpus(tmp_path / name).dev.images}

    assert dev("a", 0) == dev("b", 0) != dev("c", 1)


def test_fewer_to_train_on_leave_dev_and_test_as_they_are(corpus, tmp_path, capsys):
    def ids(**options):
        out = tmp_path / "-".join(map(str, options.values()) or ["all"])
        mnist.main(corpus, out, dev_per_class=2, **options)
        found = read_image_corpus(out)
        return {split: [image.id for image in found.split(split).images] for split in found.splits}

    whole, few = ids(), ids(train_per_class=3)
    assert few | {"train": whole["train"]} == whole
    assert set(few["train"]) < set(whole["train"])
    assert [few["train"][position].split("/")[-2] for position in range(0, 30, 3)] == list("0123456789")
    assert len(few["train"]) == 30
    with pytest.raises(ValueError, match="--train-per-class is 5, but the smallest class has 4"):
        ids(train_per_class=5)


def test_other_numbers_than_the_official_ones_are_said(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(mnist, "OFFICIAL_DIGITS", {"train": 60_000, "test": 20})
    mnist.main(corpus, tmp_path / "out", dev_per_class=1)
    assert "train has 60 images, the official release 60,000" in capsys.readouterr().err


def test_an_output_that_is_there_already_is_kept(corpus, tmp_path, capsys):
    mnist.main(corpus, tmp_path / "out", dev_per_class=2)
    with pytest.raises(ValueError, match="out/train is there already. Remove it"):
        mnist.main(corpus, tmp_path / "out", dev_per_class=2)
    assert len(read_image_corpus(tmp_path / "out").train) == 40


@pytest.mark.parametrize("per_class", [0, 6])
def test_a_dev_set_that_cannot_be(corpus, tmp_path, per_class):
    with pytest.raises(ValueError, match=f"--dev-per-class is {per_class}, but the smallest class has 6"):
        mnist.main(corpus, tmp_path / "out", dev_per_class=per_class)


def test_files_that_cannot_be_used(corpus, tmp_path, capsys):
    raw, out = corpus / "MNIST" / "raw", tmp_path / "out"
    images, labels = raw / "train-images-idx3-ubyte.gz", raw / "train-labels-idx1-ubyte.gz"
    good = images.read_bytes()
    refused(tmp_path / "nowhere", out, r"nowhere: neither train-images-idx3-ubyte\.gz nor .*four files")
    images.write_bytes(good[: len(good) // 2])
    refused(corpus, out, f"^{images}: truncated or damaged .*Fetch it again")
    images.write_bytes(b"<html>")
    refused(corpus, out, f"^{images}: truncated or damaged .*Fetch it again")
    images.write_bytes(gzip.compress(gzip.decompress(good)[:-10]))
    refused(corpus, out, f"^{images}: .*bytes after its header, which states 60 x 28 x 28: truncated")
    images.write_bytes(labels.read_bytes())
    refused(
        corpus, out, f"^{images}: not an IDX file of bytes in 3 dimensions .*00 00 08 01, not 00 00 08 03"
    )
    images.write_bytes(good)
    labels.write_bytes(gzip.compress(idx(np.zeros(59, np.uint8))))
    refused(corpus, out, f"^{labels}: 59 labels for the 60 images")
    labels.write_bytes(gzip.compress(idx(np.full(60, 10, np.uint8))))
    refused(corpus, out, f"^{labels}: the label 10 is not a digit")
    images.write_bytes(gzip.compress(idx(np.zeros((60, 28, 27), np.uint8))))
    refused(corpus, out, f"^{images}: images of 28 x 27")


def test_runs_as_a_script_from_anywhere(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "data_prep" / "mnist.py"), "nowhere", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: nowhere: neither train-images")
    assert "Traceback" not in done.stderr


def test_the_real_digits():
    data = Path(os.environ.get("SEQDSD_DATA", REPOSITORY.parent / "shared" / "data")) / "mnist"
    if not data.is_dir():
        pytest.skip("MNIST is not here: set SEQDSD_DATA to the folder that holds mnist/")
    for split, size in {"train": 60_000, "test": 10_000}.items():
        images, labels = mnist.read_digits(data, split)
        assert images.shape == (size, 28, 28) and np.bincount(labels).min() > size / 12
        assert 0.12 < images.mean() / 255 < 0.14  # 0.1307 of the training set
