import os
import re
import shutil

import pytest
from torchvision.datasets import ImageFolder

from seqdsd.data import BadDataError
from seqdsd.data.labelled_images import read_image_corpus, read_image_set

REMEDY = r"\(or --on-bad-data skip\)$"


def refused(folder, message, **options):
    with pytest.raises(BadDataError, match=message):
        read_image_corpus(folder, **options)


def test_classes_labels_and_order_are_those_of_torchvision(corpus_folder):
    nested = corpus_folder / "train" / "cat" / "more"
    nested.mkdir()
    shutil.copy(corpus_folder / "train" / "cat" / "0.png", nested / "9.PNG")
    corpus = read_image_corpus(corpus_folder)
    oracle = ImageFolder(corpus_folder / "train")
    assert corpus.classes == tuple(oracle.classes) == ("10", "Dog", "cat")
    assert sorted((str(one.path), one.label) for one in corpus.train.images) == sorted(oracle.samples)
    assert [one.id for one in corpus.train.images][-3:] == ["cat/0.png", "cat/1.png", "cat/more/9.PNG"]
    assert corpus.splits == ("train", "dev", "test") and len(corpus.split("test")) == 6


def test_val_is_dev_and_the_test_set_may_stay_away(corpus_folder):
    (corpus_folder / "dev").rename(corpus_folder / "val")
    shutil.rmtree(corpus_folder / "test")
    refused(corpus_folder, f"^{corpus_folder}: no test/ is there. --data takes .*data_prep")
    corpus = read_image_corpus(corpus_folder, with_test=False)
    assert corpus.test is None and corpus.splits == ("train", "dev") and len(corpus.dev) == 6
    (corpus_folder / "dev").mkdir()
    refused(corpus_folder, "dev and .*val are both there.*Rename", with_test=False)


def test_the_fingerprint_follows_ids_and_classes(corpus_folder):
    before = read_image_corpus(corpus_folder).train.fingerprint
    assert read_image_corpus(corpus_folder).train.fingerprint == before
    (corpus_folder / "train" / "cat" / "1.png").rename(corpus_folder / "train" / "Dog" / "2.png")
    assert read_image_corpus(corpus_folder).train.fingerprint != before


def test_a_class_is_the_same_however_its_letters_are_composed(corpus_folder):
    """One system writes é as one character, another as two."""
    for split, name in {"train": "cafe\u0301", "dev": "caf\u00e9", "test": "cafe\u0301"}.items():
        (corpus_folder / split / "cat").rename(corpus_folder / split / name)
    corpus = read_image_corpus(corpus_folder)
    assert corpus.classes == ("10", "Dog", "caf\u00e9")
    for split in corpus.splits:
        images = corpus.split(split).images
        assert images[-1].id == "caf\u00e9/1.png" and images[-1].label == 2
        assert all(one.path.is_file() for one in images)
    judged, _ = read_image_set(corpus_folder, "test", classes=corpus.classes)
    assert judged == corpus.test
    shutil.copytree(corpus_folder / "test" / "cafe\u0301", corpus_folder / "test" / "caf\u00e9")
    refused(corpus_folder, f"another folder's name looks the same. Put their images into one {REMEDY}")
    assert read_image_corpus(corpus_folder, on_bad_data="skip").test == corpus.test


def test_an_absent_folder_and_images_without_a_class(corpus_folder, tmp_path):
    refused(tmp_path / "nowhere", "nowhere: no train/ is there")
    for name in ("10", "cat"):
        shutil.rmtree(corpus_folder / "train" / name)
    (corpus_folder / "train" / "Dog" / "1.png").rename(corpus_folder / "train" / "1.png")
    shutil.rmtree(corpus_folder / "train" / "Dog")
    refused(corpus_folder, rf"{corpus_folder}/train: no class folder .* such as 1\.png.*a folder of images")


@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_class_folder(corpus_folder, split):
    empty = corpus_folder / split / "cow"
    empty.mkdir()
    (empty / ".DS_Store").write_text("")
    refused(corpus_folder, f"^{empty}: holds no image. .*remove the folder {REMEDY}")
    corpus = read_image_corpus(corpus_folder, on_bad_data="skip")
    assert corpus.classes == ("10", "Dog", "cat") and len(corpus.split(split)) == 6
    assert list(corpus.skipped) == [f"{split}/cow"]


def test_classes_that_only_training_or_only_another_set_has(corpus_folder, make_images):
    make_images({"test": ["horse"]})
    message = f"^{corpus_folder}/test: horse that the training set lacks. .*{REMEDY}"
    refused(corpus_folder, message)
    corpus = read_image_corpus(corpus_folder, on_bad_data="skip")
    assert all(one.id.split("/")[0] in corpus.classes for one in corpus.test.images)
    assert re.search("horse", " ".join(corpus.skipped.values()))
    shutil.rmtree(corpus_folder / "test" / "horse")
    shutil.rmtree(corpus_folder / "test" / "cat")
    refused(corpus_folder, f"^{corpus_folder}/test: lacks cat of the training set. .*{REMEDY}")
    corpus = read_image_corpus(corpus_folder, on_bad_data="skip")
    assert {one.label for one in corpus.test.images} == {0, 1} and {
        one.label for one in corpus.train.images
    } == {
        0,
        1,
        2,
    }


def test_many_missing_classes_are_counted(make_images):
    names = [f"c{number}" for number in range(8)]
    folder = make_images({"train": names, "dev": names, "test": names[:1]}, number=1)
    refused(folder, r"lacks c1, c2, c3, c4, c5 … \(7 in all\)")


def test_nothing_left(make_images):
    folder = make_images({"train": ["a"], "dev": ["b"], "test": ["a"]})
    with pytest.raises(BadDataError, match=f"{folder}/dev: no image is left. The first was skipped because"):
        read_image_corpus(folder, on_bad_data="skip")


def test_other_files_are_mentioned(corpus_folder, caplog):
    (corpus_folder / "train" / "cat" / "labels.csv").write_text("")
    assert len(read_image_corpus(corpus_folder).train) == 6
    assert "1 files or links to folders are not used: labels.csv" in caplog.text


def test_a_folder_that_a_link_leads_to_is_mentioned(corpus_folder, tmp_path, caplog):
    (corpus_folder / "train" / "cat" / "more").symlink_to(corpus_folder / "dev" / "cat")
    (corpus_folder / "train" / "cow").symlink_to(corpus_folder / "dev" / "cat")  # a class may be one
    (corpus_folder / "dev" / "cow").symlink_to(corpus_folder / "dev" / "cat")
    (corpus_folder / "test" / "cow").symlink_to(corpus_folder / "dev" / "cat")
    assert len(read_image_corpus(corpus_folder).train) == 8
    assert "not used: more/" in caplog.text


def test_names_that_cannot_be_written_down(corpus_folder):
    cat = corpus_folder / "train" / "cat"
    (cat / "0.png").rename(cat / os.fsdecode(b"caf\xe9.png"))
    refused(
        corpus_folder, r"train/cat/caf\\udce9.png: a name that is not UTF-8, one of 1 in its class. Rename"
    )
    corpus = read_image_corpus(corpus_folder, on_bad_data="skip")
    assert len(corpus.train) == 5 and list(corpus.skipped) == [r"train/cat/caf\udce9.png"]
