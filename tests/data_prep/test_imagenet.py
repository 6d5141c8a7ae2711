import io
import os
import tarfile
from pathlib import Path

import imagenet
import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat
from torchvision.datasets import ImageNet
from torchvision.datasets import imagenet as imagenet_of_torchvision

from seqdsd.data.labelled_images import read_image_corpus

# Numbered as in the real kit: not in the order of the ids, and with groups of classes among them.
CLASSES = {1: "n02119789", 2: "n01440764", 3: "n04254680"}
GROUPS = {4: "n00001740"}
TRUTH = [3, 1, 1, 2, 3, 2]
NUM_TRAIN = 5


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch):
    monkeypatch.setattr(imagenet, "OFFICIAL_IMAGES", {"train": NUM_TRAIN * len(CLASSES), "test": len(TRUTH)})


def jpeg(colour):
    buffer = io.BytesIO()
    Image.new("RGB", (10, 8), colour).save(buffer, "JPEG")
    return buffer.getvalue()


def pack(contents, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def meta():
    fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height"]
    synsets = np.zeros(len(CLASSES) + len(GROUPS), dtype=[(name, object) for name in fields])
    for row, (number, wnid) in enumerate({**CLASSES, **GROUPS}.items()):
        children = [1.0, 2.0] if number in GROUPS else []
        synsets[row] = (number, wnid, f"{wnid}, thing", "a thing", len(children), children, 0)
    buffer = io.BytesIO()
    savemat(buffer, {"synsets": synsets})
    return buffer.getvalue()


def write_kit(folder, truth=TRUTH, matrix=None):
    contents = {
        "data/meta.mat": matrix or meta(),
        "data/ILSVRC2012_validation_ground_truth.txt": "".join(f"{number}\n" for number in truth).encode(),
    }
    packed = pack({f"ILSVRC2012_devkit_t12/{name}": one for name, one in contents.items()}, "w:gz")
    (folder / imagenet.KIT).write_bytes(packed)


def write_train(folder, leave_out=()):
    inner = {
        f"{wnid}.tar": pack({f"{wnid}_{number}.JPEG": jpeg((number, 0, 0)) for number in range(NUM_TRAIN)})
        for wnid in CLASSES.values()
        if wnid not in leave_out
    }
    (folder / imagenet.TRAIN).write_bytes(pack(inner))


def write_validation(folder, num_images=6):
    names = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, num_images + 1)]
    names.reverse()  # the names count, not their order
    (folder / imagenet.VALIDATION).write_bytes(pack({name: jpeg((0, 9, 0)) for name in names}))


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    folder.mkdir()
    write_kit(folder)
    write_train(folder)
    write_validation(folder)
    return folder


def refused(corpus, out, message):
    with pytest.raises(ValueError, match=message):
        imagenet.main(corpus, out, dev_per_class=1)
    assert not out.exists() or list(out.iterdir()) == []


@pytest.mark.filterwarnings("ignore:Python 3.14:DeprecationWarning")  # torchvision unpacks without a filter
def test_labels_are_those_that_torchvision_finds(corpus, tmp_path, capsys, monkeypatch):
    imagenet.main(corpus, tmp_path / "out", dev_per_class=2)
    found = read_image_corpus(tmp_path / "out")
    assert [len(found.split(split)) for split in found.splits] == [9, 6, 6]
    monkeypatch.setattr(imagenet_of_torchvision, "_verify_archive", lambda *_: None)  # their real checksums
    for split in ("train", "val"):
        oracle = ImageNet(corpus, split=split)
        assert tuple(oracle.wnids) == found.classes
        images = found.test.images if split == "val" else found.train.images + found.dev.images
        labels = {image.path.name: image.label for image in images}
        assert labels == {os.path.basename(path): label for path, label in oracle.samples}
        for path, _ in oracle.samples:
            (ours,) = (image.path for image in images if image.path.name == os.path.basename(path))
            assert ours.read_bytes() == Path(path).read_bytes()


@pytest.mark.parametrize("name", [imagenet.TRAIN, imagenet.VALIDATION, imagenet.KIT])
def test_missing_and_truncated_archives(corpus, tmp_path, name, capsys):
    out, path = tmp_path / "out", corpus / name
    content = path.read_bytes()
    for length in (len(content) // 2, len(content) // 3 // 512 * 512):
        path.write_bytes(content[:length])
        refused(corpus, out, rf"^{path}: .*(truncated|Truncated).*Fetch")
    path.write_bytes(b"")
    refused(corpus, out, f"^{path}: truncated or damaged")
    path.unlink()
    refused(corpus, out, f"^{corpus}: {name} is missing. Fetch it from image-net.org")


def test_a_missing_class(corpus, tmp_path, capsys):
    write_train(corpus, leave_out=["n04254680"])
    refused(corpus, tmp_path / "out", "1 classes have no image: n04254680. Truncated")


def test_archives_that_do_not_belong_together(corpus, tmp_path, capsys):
    write_validation(corpus, 5)
    refused(corpus, tmp_path / "out", f"5 images, and 6 labels in {imagenet.KIT}")
    write_kit(corpus, [*TRUTH[:-1], 4])
    refused(corpus, tmp_path / "out", "has the class 4, which data/meta.mat does not")
    write_kit(corpus, matrix=b"no matrix")
    refused(corpus, tmp_path / "out", f"^{corpus / imagenet.KIT}: data/meta.mat or .* is damaged")
    (corpus / imagenet.TRAIN).write_bytes(pack({"a.JPEG": jpeg((0, 0, 0))}))
    write_kit(corpus)
    refused(corpus, tmp_path / "out", "holds 'a.JPEG', not an archive for each class")
