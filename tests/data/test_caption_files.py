"""Caption files: what is read, and what is refused by name or left out."""

import gzip
import json
import logging
import os
from pathlib import Path

import pytest

from seqdsd.data import CaptionDataError, check_images_exist, check_known_words, read_captions, unpacking
from seqdsd.printable import printable
from seqdsd.text import WordVocabulary, caption_words

REAL = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[3] / "shared" / "data")) / "flickr8k"


def entry(index, split, /, *captions, **changes):
    """One image as Karpathy writes it; ``ABSENT`` takes a key out."""
    sentences = [
        {"tokens": caption.split(), "raw": caption} for caption in captions or ("a dog", "a cat sat")
    ]
    whole = {"filename": f"{index}.jpg", "imgid": index, "split": split, "sentences": sentences, **changes}
    return {key: value for key, value in whole.items() if value != "ABSENT"}


@pytest.fixture
def images():
    """A corpus in the order of the file: train, val, train, test."""
    return [entry(0, "train"), entry(1, "val"), entry(2, "train", "the sea"), entry(3, "test")]


def write(folder, images, name="dataset_tiny.json", **top):
    folder.mkdir(exist_ok=True)
    path = folder / name
    content = json.dumps({"dataset": "tiny", "images": images, **top}).encode()
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("name", ["dataset_tiny.json", "dataset_tiny.json.gz"])
@pytest.mark.parametrize("as_folder", [False, True])
def test_a_corpus_is_read(tmp_path, images, name, as_folder):
    path = write(tmp_path, images, name)
    corpus = read_captions(tmp_path if as_folder else path)
    assert corpus.path == path and corpus.image_folder == tmp_path / "images"
    assert [image.id for image in corpus.train] == ["0.jpg", "2.jpg"]
    assert [image.index for image in corpus.images] == [0, 1, 2, 3]
    (dev,), (test,) = corpus.dev, corpus.test
    assert (dev.split, test.split, test.index) == ("dev", "test", 3)
    assert test.captions == (("a", "dog"), ("a", "cat", "sat"))
    assert test.caption_ids == ("3.jpg#0", "3.jpg#1")
    assert test.path == str(tmp_path / "images" / "3.jpg")
    assert test.source == f"{name}: image 3"
    assert corpus.all_filenames == ("0.jpg", "1.jpg", "2.jpg", "3.jpg")
    assert corpus.skipped == {}


def test_where_images_are(tmp_path, images, monkeypatch):
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    assert read_captions(write(tmp_path, images, image_folder="jpegs")).train[0].path == str(
        tmp_path / "jpegs" / "0.jpg"
    )
    path = write(tmp_path, images, image_folder=str(elsewhere))
    assert read_captions(path).image_folder == elsewhere
    assert read_captions(path, images=Path("given")).image_folder == tmp_path / "given"
    with pytest.raises(CaptionDataError, match="dataset_tiny.json: 'image_folder' is 3"):
        read_captions(write(tmp_path, images, image_folder=3))


def test_captions_that_are_text_alone_are_split(tmp_path, images):
    images[2]["sentences"] = [
        {"raw": "A dog's T-shirt -- in Köln, 1990 !"},
        {"tokens": ["a", "dog"], "raw": "A dog."},
    ]
    (_, image) = read_captions(write(tmp_path, images)).train
    assert image.captions == (("a", "dogs", "t-shirt", "--", "in", "köln", "1990"), ("a", "dog"))


def test_text_alone_gives_the_words_that_karpathy_gave():
    if not REAL.is_dir():
        pytest.skip("Flickr8k is not here: set SEQDSD_DATA to the folder that holds flickr8k/")
    with gzip.open(REAL / "dataset_flickr8k.json.gz", "rt", encoding="utf-8") as file:
        sentences = [one for image in json.load(file)["images"] for one in image["sentences"]]
    assert len(sentences) == 40_000
    assert all(caption_words(one["raw"]) == one["tokens"] for one in sentences)


def test_restval_is_trained_on_and_this_is_said(tmp_path, images, caplog):
    images[2]["split"] = "restval"
    with caplog.at_level(logging.INFO):
        corpus = read_captions(write(tmp_path, images))
    assert [(image.index, image.split) for image in corpus.train] == [(0, "train"), (2, "train")]
    assert "1 'restval' images count as train" in caplog.text


def test_coco_names_repeat_across_folders_only(tmp_path, images):
    for image, folder in zip(images, ("train2014", "val2014", "val2014", "val2014"), strict=True):
        image["filepath"] = folder
    images[1]["filename"] = "0.jpg"
    corpus = read_captions(write(tmp_path, images))
    assert corpus.all_filenames[:2] == ("train2014/0.jpg", "val2014/0.jpg")
    assert corpus.dev[0].path == str(tmp_path / "images" / "val2014" / "0.jpg")
    images[3]["filename"] = "0.jpg"
    with pytest.raises(
        CaptionDataError, match=r"image 3 \('val2014/0.jpg'\): image 1 has the same file name"
    ):
        read_captions(write(tmp_path, images))


def caption(tokens):
    return [{"tokens": tokens}]


BAD_IMAGES = {
    "not an object": ("text", "a JSON str, not an object"),
    "no file name": (entry(2, "train", filename="ABSENT"), "the key 'filename' is missing (found: imgid, se"),
    "no split": (entry(2, "train", split="ABSENT"), "the key 'split' is missing"),
    "no sentences": (entry(2, "train", sentences="ABSENT"), "the key 'sentences' is missing"),
    "an empty name": (entry(2, "train", filename=""), "'filename' is ''"),
    "a number as name": (entry(2, "train", filename=7), "'filename' is 7"),
    "a number as folder": (entry(2, "train", filepath=7), "'filepath' 7"),
    "unknown split": (entry(2, "dev2"), "'split' is 'dev2'. Known splits: train, restval, val, test"),
    "a list as split": (entry(2, ["train"]), "'split' is ['train']"),
    "no captions": (entry(2, "train", sentences=[]), "no captions"),
    "captions of another kind": (entry(2, "train", sentences={"0": "a"}), "no captions: 'sentences' is {"),
    "no tokens": (entry(2, "train", sentences=caption([])), "'tokens' of caption 0 are []"),
    "a text": (entry(2, "train", sentences=caption("a dog")), "'tokens' of caption 0 are 'a dog'"),
    "no tokens key": (entry(2, "train", sentences=[*caption(["a"]), {}]), "'tokens' of caption 1 are None"),
    "a text without words": (
        entry(2, "train", sentences=[{"raw": " . !"}]),
        "caption 0, ' . !', has no words",
    ),
    "no text": (entry(2, "train", sentences=[{"raw": 3}]), "'tokens' of caption 0 are None"),
    "an empty word": (entry(2, "train", sentences=caption(["a", ""])), "'tokens' of caption 0"),
    "a space in a word": (entry(2, "train", sentences=caption(["a dog"])), "'tokens' of caption 0"),
    "a number as word": (entry(2, "train", sentences=caption(["a", 1])), "'tokens' of caption 0"),
    "outside": (entry(2, "train", filename="../secret.jpg"), "points outside the image folder"),
    "outside, hidden": (entry(2, "train", filename="x/../../secret.jpg"), "points outside"),
    "outside, absolute": (entry(2, "train", filename="/etc/secret.jpg"), "points outside"),
    "outside by its folder": (entry(2, "train", filepath="../images2"), "points outside"),
    "repeated name": (entry(2, "train", filename="0.jpg"), "image 0 has the same file name"),
    "another number": (entry(2, "train", imgid=5), "'imgid' is 5, but the image is number 2"),
}


@pytest.mark.parametrize(
    "name", ["\x1b]0;x\x07.jpg", "two\nlines.jpg", "\x9b.jpg", "lone\udcff.jpg", "nul\0.jpg"]
)
def test_file_names_that_steer_a_terminal_are_refused(tmp_path, images, name):
    images[2]["filename"] = name
    with pytest.raises(CaptionDataError, match=r"image 2 .*the file name holds control characters") as error:
        read_captions(write(tmp_path, images))
    assert printable(str(error.value)) == str(error.value)


def test_words_that_cannot_be_written_are_refused(tmp_path, images):
    images[2]["sentences"][0]["tokens"] = ["a", "d\ud800g"]
    with pytest.raises(CaptionDataError, match=r"image 2 .*caption 0 are .*half a character"):
        read_captions(write(tmp_path, images))


@pytest.mark.parametrize(("bad", "message"), BAD_IMAGES.values(), ids=BAD_IMAGES.keys())
def test_a_bad_image_is_named_and_can_be_skipped(tmp_path, images, bad, message):
    images[2] = bad
    path = write(tmp_path, images)
    with pytest.raises(CaptionDataError) as error:
        read_captions(path)
    assert str(error.value).startswith(f"{path}: image 2") and message in str(error.value)
    assert str(error.value).endswith("(or --on-bad-data skip)")
    corpus = read_captions(path, on_bad_data="skip")
    assert [image.index for image in corpus.images] == [0, 1, 3]
    assert list(corpus.skipped) == ["dataset_tiny.json: image 2"]
    assert message in corpus.skipped["dataset_tiny.json: image 2"]
    # Positions stay, whatever is skipped: features are matched by them.
    assert len(corpus.all_filenames) == 4 and corpus.all_filenames[3] == "3.jpg"


def test_what_is_skipped_of_a_split(tmp_path, images):
    images += [entry(4, "test", sentences=[]), entry(5, "restval", imgid=1), entry(6, "nonsense"), "no image"]
    corpus = read_captions(write(tmp_path, images), on_bad_data="skip")
    numbers = {
        split: [int(source.split()[-1]) for source in corpus.skipped_of(split)]
        for split in ("train", "dev", "test")
    }
    assert numbers == {"train": [5, 6, 7], "dev": [6, 7], "test": [4, 6, 7]}


def test_skipped_images_keep_their_place_among_the_names(tmp_path, images):
    images[1:1] = [entry(1, "nonsense", filepath="x"), "no image", entry(3, "train", filename=7)]
    for index, image in enumerate(images[4:], start=4):
        image["imgid"] = index
    corpus = read_captions(write(tmp_path, images), on_bad_data="skip")
    assert corpus.all_filenames == ("0.jpg", "x/1.jpg", "", "", "1.jpg", "2.jpg", "3.jpg")
    assert [image.index for image in corpus.images] == [0, 4, 5, 6]


BAD_FILES = {
    "not JSON": (b"{'images': []}", "not JSON"),
    "cut": (b'{"images": [{"filename": "0.jp', "not JSON"),
    "endless nesting": (b"[" * 100_000, "not JSON"),
    "not UTF-8": (b'{"images": "\xff"}', "not valid UTF-8 at byte 12"),
    "a list": (b"[]", "not in the Karpathy split format"),
    "no images": (b'{"dataset": "x"}', "not in the Karpathy split format"),
    "images of another kind": (b'{"images": {}}', "not in the Karpathy split format"),
    "nothing in it": (b'{"images": []}', "no image of the split 'train'"),
}


@pytest.mark.parametrize(("content", "message"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_named(tmp_path, content, message):
    path = tmp_path / "dataset_x.json"
    path.write_bytes(content)
    for on_bad_data in ("error", "skip"):
        with pytest.raises(CaptionDataError, match=f"dataset_x.json: {message}"):
            read_captions(path, on_bad_data=on_bad_data)


def test_damaged_gzip_is_named(tmp_path, images):
    path = write(tmp_path, images, "dataset_tiny.json.gz")
    whole = path.read_bytes()
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0xFF
    for damaged in (whole[:-20], bytes(flipped), b"no gzip"):
        path.write_bytes(damaged)
        with pytest.raises(CaptionDataError, match="dataset_tiny.json.gz: damaged or truncated gzip"):
            read_captions(path)
    with pytest.raises(CaptionDataError, match=r"gone.json: cannot open the caption file \(No such file"):
        read_captions(tmp_path / "gone.json")


def test_gzip_files_that_unpack_to_far_more_than_text_are_refused(tmp_path, images, monkeypatch):
    monkeypatch.setattr(unpacking, "_IN_ANY_CASE_BYTES", 30_000)
    path = write(tmp_path, images, "dataset_tiny.json.gz")
    assert len(read_captions(path).images) == 4
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b" " * 100_000))
    with pytest.raises(CaptionDataError, match="gz: damaged .*it unpacks to more than 100 times its size"):
        read_captions(path)


def test_a_folder_must_hold_one_caption_file(tmp_path, images):
    with pytest.raises(CaptionDataError, match="exactly one .* found: none"):
        read_captions(tmp_path)
    write(tmp_path, images, "dataset_a.json")
    write(tmp_path, images, "other.json")
    assert read_captions(tmp_path).path.name == "dataset_a.json"
    write(tmp_path, images, "dataset_b.json.gz")
    with pytest.raises(CaptionDataError, match="found: dataset_a.json, dataset_b.json.gz"):
        read_captions(tmp_path)


@pytest.mark.parametrize(("split", "positions"), [("train", (0, 2)), ("val", (1,)), ("test", (3,))])
def test_every_split_needs_an_image(tmp_path, images, split, positions):
    for position in positions:
        images[position] = entry(position, "nonsense")
    with pytest.raises(
        CaptionDataError, match=f"no image of the split '{split}'.*skipped; the first: .*nonsense"
    ):
        read_captions(write(tmp_path, images), on_bad_data="skip")


def test_without_test_its_images_are_passed_over(tmp_path, images):
    """Whatever is wrong with them; rows of a feature file still go by the position."""
    bad = [
        entry(0, "test", filename="../x"),
        entry(1, "train"),
        entry(2, "test", sentences=3),
        entry(3, "val"),
    ]
    corpus = read_captions(write(tmp_path, bad), with_test=False)
    assert (corpus.test, corpus.splits, corpus.skipped) == ((), ("train", "dev"), {})
    assert corpus.all_filenames == ("", "1.jpg", "", "3.jpg")
    assert [image.index for image in corpus.images] == [1, 3]
    corpus.image_folder.mkdir()
    for image in corpus.images:
        Path(image.path).touch()
    assert check_images_exist(corpus) == corpus
    with pytest.raises(CaptionDataError, match="image 0"):
        read_captions(write(tmp_path, bad))
    none = [one for one in images if one["split"] != "test"]
    assert read_captions(write(tmp_path, none), with_test=False).test == ()
    with pytest.raises(CaptionDataError, match="no image of the split 'val'"):
        read_captions(write(tmp_path, [images[0], images[3]]), with_test=False)


def test_real_flickr8k():
    if not REAL.is_dir():
        pytest.skip("Flickr8k is not here: set SEQDSD_DATA to the folder that holds flickr8k/")
    corpus = check_images_exist(read_captions(REAL))
    assert [len(split) for split in (corpus.train, corpus.dev, corpus.test)] == [6000, 1000, 1000]
    assert {len(image.captions) for image in corpus.images} == {5}
    rows = (REAL / "efficientnet_lite0_feats_names.txt").read_text().split()
    assert corpus.all_filenames == tuple(rows)
    vocabulary = WordVocabulary.build(caption for image in corpus.train for caption in image.captions)
    assert vocabulary.num_words == 2537  # as NeuralTalk's own vocabulary of Flickr8k
    assert check_known_words(corpus, vocabulary) == corpus
