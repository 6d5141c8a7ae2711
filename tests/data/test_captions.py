"""What must hold of a corpus of captioned images before it is trained on."""

import json

import pytest

from seqdsd.data import CaptionDataError, check_images_exist, check_known_words, read_captions
from seqdsd.text import WordVocabulary


def entry(index, split, /, *captions):
    """One image as Karpathy writes it."""
    sentences = [{"tokens": caption.split()} for caption in captions or ("a dog", "a cat sat")]
    return {"filename": f"{index}.jpg", "imgid": index, "split": split, "sentences": sentences}


@pytest.fixture
def images():
    """A corpus in the order of the file: train, val, train, test."""
    return [entry(0, "train"), entry(1, "val"), entry(2, "train", "the sea"), entry(3, "test")]


def write(folder, images):
    path = folder / "dataset_tiny.json"
    path.write_text(json.dumps({"images": images}))
    return path


def make_images(folder, *numbers):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number}.jpg").write_bytes(b"jpeg")


def test_absent_images_are_named_and_can_be_skipped(tmp_path, images):
    corpus = read_captions(write(tmp_path, images))
    with pytest.raises(CaptionDataError, match="image folder .*/images does not exist.*--images"):
        check_images_exist(corpus, on_bad_data="skip")
    make_images(tmp_path / "images", 0, 1, 3)
    (tmp_path / "images" / "2.jpg").mkdir()
    with pytest.raises(CaptionDataError, match=r"1 of its 4 images are not in .*: 2.jpg\. Complete"):
        check_images_exist(corpus)
    left = check_images_exist(corpus, on_bad_data="skip")
    assert [image.index for image in left.images] == [0, 1, 3]
    assert "2.jpg does not exist" in left.skipped["dataset_tiny.json: image 2"]
    assert left.skipped_of("train") == left.skipped and left.skipped_of("test") == {}
    assert left.all_filenames == corpus.all_filenames
    (tmp_path / "images" / "3.jpg").unlink()
    with pytest.raises(CaptionDataError, match="no image of the split 'test'"):
        check_images_exist(corpus, on_bad_data="skip")
    make_images(tmp_path / "images", 3)
    (tmp_path / "images" / "2.jpg").rmdir()
    make_images(tmp_path / "images", 2)
    assert check_images_exist(corpus) is corpus


def test_only_the_first_absent_images_are_named(tmp_path, images):
    images += [entry(number, "train") for number in range(4, 20)]
    corpus = read_captions(write(tmp_path, images))
    make_images(tmp_path / "images")
    with pytest.raises(CaptionDataError, match=r"20 of its 20 .*: 0.jpg, 1.jpg, 2.jpg, 3.jpg, 4.jpg, …\. C"):
        check_images_exist(corpus)


def test_training_captions_without_a_known_word(tmp_path, images):
    images[0] = entry(0, "train", "a dog", "zebra crossing", "a dog again")
    images[1] = entry(1, "val", "zebra crossing")
    images[2] = entry(2, "train", "another zebra")
    images.append(entry(4, "train", "a dog"))
    corpus = read_captions(write(tmp_path, images))
    vocabulary = WordVocabulary.build([["a", "dog"]], min_count=1, rare="unknown")
    with pytest.raises(CaptionDataError) as error:
        check_known_words(corpus, vocabulary)
    assert str(error.value).startswith("dataset_tiny.json: image 0 caption 1 ('0.jpg'): none of its words")
    assert "'zebra crossing'" in str(error.value) and "min_count" in str(error.value)
    left = check_known_words(corpus, vocabulary, on_bad_data="skip")
    assert [image.id for image in left.train] == ["0.jpg", "4.jpg"]
    assert left.train[0].captions == (("a", "dog"), ("a", "dog", "again"))
    assert left.train[0].caption_ids == ("0.jpg#0", "0.jpg#2")
    assert (left.dev, left.test) == (corpus.dev, corpus.test)
    assert left.skipped_of("train") == left.skipped and left.skipped_of("dev") == {}
    assert list(left.skipped) == [
        "dataset_tiny.json: image 0 caption 1",
        "dataset_tiny.json: image 2 caption 0",
    ]
    assert check_known_words(left, vocabulary) == left
    lions = WordVocabulary.build([["lion"]], min_count=1)
    with pytest.raises(CaptionDataError, match="no image of the split 'train'"):
        check_known_words(corpus, lions, on_bad_data="skip")
