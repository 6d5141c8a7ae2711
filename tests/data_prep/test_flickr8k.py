import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import flickr8k
import pytest

from seqdsd.data import check_images_exist, read_captions

REPOSITORY = Path(__file__).parents[2]
SPLITS = {"train": ["30_c.jpg", "10_a.jpg"], "dev": ["20_b.jpg"], "test": ["11_d.jpg"]}
CAPTIONS = ["A dog 's ball .", "Two dogs", "A t-shirt !", "dogs", "The snow ."]


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch):
    monkeypatch.setattr(flickr8k, "OFFICIAL_IMAGES", {"train": 2, "val": 1, "test": 1})


@pytest.fixture
def corpus(tmp_path):
    """The official layout, with the official oddity: captions of an image that is in no list and has no file."""
    folder = tmp_path / "flickr8k"
    (folder / "Flicker8k_Dataset").mkdir(parents=True)
    lines = []
    for name in sorted(name for names in SPLITS.values() for name in names):
        (folder / "Flicker8k_Dataset" / name).write_bytes(b"jpeg")
        # Out of order: the numbers decide.
        lines += [f"{name}#{number}\t{CAPTIONS[number]}" for number in (1, 0, 2, 3, 4)]
    lines += [f"2258277193_586949ec62.jpg.1#{number}\tPeople ." for number in range(5)]
    (folder / "Flickr8k.token.txt").write_text("\n".join(lines) + "\n")
    for split, names in SPLITS.items():
        (folder / f"Flickr_8k.{split}Images.txt").write_text("".join(f"{name}\n" for name in names))
    return folder


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def names(out):
    corpus = read_captions(out)
    return [[image.id for image in split] for split in (corpus.train, corpus.dev, corpus.test)]


def test_the_file_and_what_is_said(corpus, tmp_path, capsys):
    flickr8k.main(corpus, tmp_path / "out")
    assert os.listdir(tmp_path / "out") == ["dataset_flickr8k.json"]
    content = json.loads((tmp_path / "out" / "dataset_flickr8k.json").read_text())
    assert content["dataset"] == "flickr8k"
    assert content["image_folder"] == str(corpus / "Flicker8k_Dataset")
    assert [image["filename"] for image in content["images"]] == [
        "30_c.jpg",
        "10_a.jpg",
        "20_b.jpg",
        "11_d.jpg",
    ]
    assert [image["split"] for image in content["images"]] == ["train", "train", "val", "test"]
    assert content["images"][1]["imgid"] == 1 and content["images"][1]["sentids"] == [5, 6, 7, 8, 9]
    assert content["images"][1]["sentences"][2] == {
        "raw": "A t-shirt !",
        "tokens": ["a", "t-shirt"],
        "imgid": 1,
        "sentid": 7,
    }
    read = check_images_exist(read_captions(tmp_path / "out"))
    assert read.train[0].captions[0] == ("a", "dog", "s", "ball")
    said = " ".join(capsys.readouterr().out.split())
    assert (
        "1 captioned images are in no split list and are not used, 2258277193_586949ec62.jpg.1 among" in said
    )
    assert "the release has no image 2258277193_586949ec62.jpg; it is not needed" in said
    assert "│ train │ 2 │ 10 │ 22 │ 9 │ 0 │" in said
    assert f"images stay in {corpus / 'Flicker8k_Dataset'} (written into the file)" in said


@pytest.mark.parametrize("text_folder", ["text", "Flickr8k_text"])
@pytest.mark.parametrize(
    "images", ["images", "Flickr8k_Dataset", "Flickr8k_Dataset/Flicker8k_Dataset", "Images"]
)
def test_other_layouts(corpus, tmp_path, text_folder, images):
    (corpus / text_folder).mkdir()
    for path in corpus.glob("*.txt"):
        path.rename(corpus / text_folder / path.name)
    (corpus / images).parent.mkdir(exist_ok=True)
    (corpus / "Flicker8k_Dataset").rename(corpus / images)
    flickr8k.main(corpus, tmp_path / "out")
    check_images_exist(read_captions(tmp_path / "out"))


def test_absent_images_are_named_and_can_be_left_out(corpus, tmp_path, capsys):
    for name in ("10_a.jpg", "30_c.jpg"):
        (corpus / "Flicker8k_Dataset" / name).rename(tmp_path / name)
    with pytest.raises(
        ValueError, match=r"2 of 4 images are absent:\n  train: 30_c.jpg\n  train: 10_a.jpg\n"
    ):
        flickr8k.main(corpus, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "10_a.jpg").rename(corpus / "Flicker8k_Dataset" / "10_a.jpg")
    flickr8k.main(corpus, tmp_path / "out", on_bad_data="skip")
    assert names(tmp_path / "out") == [["10_a.jpg"], ["20_b.jpg"], ["11_d.jpg"]]
    said = " ".join(capsys.readouterr().err.split())
    assert "left out 1 of 4 images" in said and "will not compare" in said and "train: 30_c.jpg" in said
    (corpus / "Flicker8k_Dataset" / "11_d.jpg").unlink()
    with pytest.raises(ValueError, match="no image is left for the split 'test'"):
        flickr8k.main(corpus, tmp_path / "out", on_bad_data="skip")


def test_many_absent_images_are_counted(corpus, tmp_path, monkeypatch):
    monkeypatch.setattr("caption_writing._NAMED", 2)
    for path in (corpus / "Flicker8k_Dataset").iterdir():
        path.unlink()
    (corpus / "Flicker8k_Dataset" / "other.jpg").write_bytes(b"jpeg")
    with pytest.raises(ValueError, match=r"4 of 4 images .*\n.*30_c.jpg\n.*10_a.jpg\n  and 2 more\n"):
        flickr8k.main(corpus, tmp_path / "out")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "10_a.jpg#4\tThe snow .\n",
            "",
            "'10_a.jpg' of Flickr_8k.trainImages.txt has 4 captions, expected 5",
        ),
        ("10_a.jpg#4\tThe snow .", "10_a.jpg#4\t .", "the caption ' .' of 10_a.jpg has no words"),
        ("10_a.jpg#", "10_a.jpeg#", "'10_a.jpg' of Flickr_8k.trainImages.txt has 0 captions"),
    ],
)
def test_wrong_captions_are_named_and_can_be_left_out(corpus, tmp_path, capsys, old, new, message):
    edit(corpus / "Flickr8k.token.txt", old, new)
    with pytest.raises(ValueError) as error:
        flickr8k.main(corpus, tmp_path / "out")
    assert str(error.value).startswith(f"{corpus / 'Flickr8k.token.txt'}: ") and message in str(error.value)
    flickr8k.main(corpus, tmp_path / "out", on_bad_data="skip")
    assert names(tmp_path / "out")[0] == ["30_c.jpg"]
    assert "left out 1 images for their captions" in capsys.readouterr().err


def test_lists_are_compared_with_the_official_ones(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(flickr8k, "OFFICIAL_IMAGES", {"train": 6000, "val": 1, "test": 1})
    with pytest.raises(
        ValueError, match="trainImages.txt names 2 images, the official list 6000.*Fetch it again"
    ):
        flickr8k.main(corpus, tmp_path / "out")
    flickr8k.main(corpus, tmp_path / "out", on_bad_data="skip")
    assert "scores will not compare" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("on_bad_data", ["error", "skip"])
def test_splits_that_overlap_are_never_accepted(corpus, tmp_path, on_bad_data):
    (corpus / "Flickr_8k.testImages.txt").write_text("10_a.jpg\n")
    with pytest.raises(
        ValueError, match="1 images are in more than one list, such as '10_a.jpg' .* train and test"
    ):
        flickr8k.main(corpus, tmp_path / "out", on_bad_data=on_bad_data)


def test_damaged_text_is_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="nowhere: Flickr8k.token.txt is neither there nor in"):
        flickr8k.main(tmp_path / "nowhere", tmp_path / "out")
    edit(corpus / "Flickr_8k.trainImages.txt", "30_c.jpg", "10_a.jpg")
    with pytest.raises(ValueError, match="trainImages.txt:2: '10_a.jpg' was listed at .*:1 already"):
        flickr8k.main(corpus, tmp_path / "out")
    edit(corpus / "Flickr_8k.trainImages.txt", "10_a.jpg\n10_a.jpg", "30_c.jpg\n10_a.jpg")
    tokens = corpus / "Flickr8k.token.txt"
    for old, new, message in [
        ("10_a.jpg#1\t", "10_a.jpg#1 ", r"token.txt:1: '10_a.jpg#1 Two dogs' is not"),
        ("10_a.jpg#1 ", "10_a.jpg\t", r"token.txt:1: .* is not"),
        ("10_a.jpg\t", "10_a.jpg#0\t", r"token.txt:2: 10_a.jpg#0 was given already"),
    ]:
        edit(tokens, old, new)
        with pytest.raises(ValueError, match=message):
            flickr8k.main(corpus, tmp_path / "out")
    for path in (corpus / "Flicker8k_Dataset").iterdir():
        path.unlink()
    with pytest.raises(
        ValueError, match="the images of Flickr8k: none of .*/images, .* is there, or all are empty"
    ):
        flickr8k.main(corpus, tmp_path / "out")


def test_damaged_lines_can_be_left_out(corpus, tmp_path, capsys):
    tokens = corpus / "Flickr8k.token.txt"
    edit(tokens, "30_c.jpg#1\t", "30_c.jpg#1 ")
    edit(tokens, "20_b.jpg#4\tThe snow .", "20_b.jpg#4\tThe snow .\n20_b.jpg#4\tAgain\nnonsense")
    flickr8k.main(corpus, tmp_path / "out", on_bad_data="skip")
    assert names(tmp_path / "out") == [["10_a.jpg"], ["20_b.jpg"], ["11_d.jpg"]]
    read = read_captions(tmp_path / "out")
    assert read.dev[0].captions[4] == ("the", "snow")
    said = " ".join(capsys.readouterr().err.split())
    assert "left out 3 lines" in said and "'nonsense' is not" in said and "20_b.jpg#4 was given" in said
    assert "'30_c.jpg' of Flickr_8k.trainImages.txt has 4 captions" in said


def test_runs_as_a_script_from_anywhere(tmp_path):
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, str(REPOSITORY / "data_prep" / "flickr8k.py"), "nowhere", "out"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: nowhere: Flickr8k.token.txt is neither there")
    assert "Traceback" not in done.stderr


def test_the_real_corpus_gives_karpathys_file(tmp_path, capsys, monkeypatch):
    data = Path(os.environ.get("SEQDSD_DATA", REPOSITORY.parent / "shared" / "data")) / "flickr8k"
    if not data.is_dir():
        pytest.skip("Flickr8k is not here: set SEQDSD_DATA to the folder that holds flickr8k/")
    monkeypatch.setattr(flickr8k, "OFFICIAL_IMAGES", {"train": 6000, "val": 1000, "test": 1000})
    flickr8k.main(data, tmp_path)
    ours = json.loads((tmp_path / "dataset_flickr8k.json").read_text())
    his = json.loads(gzip.decompress((data / "dataset_flickr8k.json.gz").read_bytes()))
    assert len(his["images"]) == 8000
    assert [image for image, other in zip(ours["images"], his["images"], strict=True) if image != other] == []
    assert capsys.readouterr().err == ""
