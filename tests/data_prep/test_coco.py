import gzip
import json

import coco
import pytest

from seqdsd.data import check_images_exist, read_captions

TRAIN, VAL = [9, 25, 30], [42, 73, 74, 133, 136, 139]


@pytest.fixture(autouse=True)
def small_numbers(monkeypatch):
    monkeypatch.setattr(coco, "HELD_OUT", 2)
    monkeypatch.setattr(coco, "KARPATHY_IMAGES", {"train": 5, "val": 2, "test": 2})


def filename(folder, id_):
    return f"COCO_{folder}_{id_:012d}.jpg"


def release(folder, ids):
    """``captions_FOLDER.json`` as COCO writes it: images and captions each in an order of their own."""
    images = [
        {"license": 3, "file_name": filename(folder, id_), "height": 480, "id": id_} for id_ in ids[::-1]
    ]
    annotations = [
        {"image_id": id_, "id": 100 * id_ + number, "caption": f"A photo of number {number}.\n"}
        for number in (4, 2, 0, 3, 1)
        for id_ in ids
    ]
    return {"info": {}, "images": images, "licenses": [], "annotations": annotations}


@pytest.fixture
def corpus(tmp_path):
    root = tmp_path / "coco"
    (root / "annotations").mkdir(parents=True)
    for folder, ids in (("train2014", TRAIN), ("val2014", VAL)):
        (root / folder).mkdir()
        for id_ in ids:
            (root / folder / filename(folder, id_)).write_bytes(b"jpeg")
        path = root / "annotations" / f"captions_{folder}.json"
        path.write_text(json.dumps(release(folder, ids)))
    return root


@pytest.fixture
def karpathys(tmp_path):
    """His file, whose order and split are his own."""
    splits = [("val2014", 139, "test"), ("train2014", 9, "train"), ("val2014", 42, "restval")]
    splits += [("val2014", 73, "val"), ("val2014", 74, "val"), ("train2014", 25, "train")]
    splits += [("val2014", 133, "test"), ("train2014", 30, "train"), ("val2014", 136, "restval")]
    images = [
        {
            "filepath": folder,
            "filename": filename(folder, id_),
            "cocoid": id_,
            "imgid": imgid,
            "split": split,
            "sentids": [700 + imgid],
            "sentences": [
                {"tokens": ["his", "words"], "raw": "His words.", "imgid": imgid, "sentid": 700 + imgid}
            ],
        }
        for imgid, (folder, id_, split) in enumerate(splits)
    ]
    path = tmp_path / "dataset_coco.json"
    path.write_text(json.dumps({"images": images, "dataset": "coco"}))
    return path


def read_written(out):
    return json.loads((out / "dataset_coco.json").read_text())


def rewrite(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_karpathys_file_is_taken_as_it_is(corpus, karpathys, tmp_path, capsys):
    coco.main(corpus, tmp_path / "out", splits=karpathys)
    written = read_written(tmp_path / "out")
    assert written.pop("image_folder") == str(corpus)
    assert written == json.loads(karpathys.read_text())
    read = check_images_exist(read_captions(tmp_path / "out"))
    assert [len(split) for split in (read.train, read.dev, read.test)] == [5, 2, 2]
    captured = capsys.readouterr()
    assert captured.err == "" and "restval" in captured.out


def test_karpathys_file_may_be_compressed_and_images_one_folder_down(corpus, karpathys, tmp_path):
    (corpus / "images").mkdir()
    for folder in ("train2014", "val2014"):
        (corpus / folder).rename(corpus / "images" / folder)
    compressed = tmp_path / "dataset_coco.json.gz"
    compressed.write_bytes(gzip.compress(karpathys.read_bytes()))
    coco.main(corpus, tmp_path / "out", splits=compressed)
    assert read_written(tmp_path / "out")["image_folder"] == str(corpus / "images")


def test_bad_images_of_karpathys_file(corpus, karpathys, tmp_path, capsys):
    rewrite(karpathys, lambda content: content["images"][2].update(sentences=[]))
    (corpus / "train2014" / filename("train2014", 25)).unlink()
    with pytest.raises(ValueError, match=r"dataset_coco.json: image 2 \('val2014/COCO_.*no captions"):
        coco.main(corpus, tmp_path / "out", splits=karpathys)
    coco.main(corpus, tmp_path / "out", splits=karpathys, on_bad_data="skip")
    images = read_written(tmp_path / "out")["images"]
    assert [image["cocoid"] for image in images] == [139, 9, 73, 74, 133, 30, 136]
    assert [image["imgid"] for image in images] == list(range(7))
    assert images[2]["sentences"][0]["imgid"] == 2 and images[2]["sentids"] == [703]
    said = " ".join(capsys.readouterr().err.split())
    assert "the splits have {'train': 4, 'val': 2, 'test': 2} images" in said
    assert "left out 1 images" in said and "train: train2014/COCO_train2014_000000000025.jpg" in said


def test_the_file_to_be_written_cannot_be_the_one_to_read(corpus, karpathys):
    before = karpathys.read_bytes()
    with pytest.raises(ValueError, match="--splits is the file that would be written"):
        coco.main(corpus, karpathys.parent, splits=karpathys)
    assert karpathys.read_bytes() == before


def test_an_own_split(corpus, tmp_path, capsys):
    coco.main(corpus, tmp_path / "out")
    images = read_written(tmp_path / "out")["images"]
    assert [image["cocoid"] for image in images] == [*TRAIN, *VAL]
    assert [image["split"] for image in images[:3]] == ["train"] * 3
    assert sorted(image["split"] for image in images[3:]) == ["restval"] * 2 + ["test"] * 2 + ["val"] * 2
    assert {image["filepath"] for image in images[3:]} == {"val2014"}
    assert images[1]["sentids"] == [2500, 2501, 2502, 2503, 2504]
    assert images[1]["sentences"][2] == {
        "tokens": ["a", "photo", "of", "number", "2"],
        "raw": "A photo of number 2.\n",
        "imgid": 1,
        "sentid": 2502,
    }
    read = check_images_exist(read_captions(tmp_path / "out"))
    assert [len(split) for split in (read.train, read.dev, read.test)] == [5, 2, 2]
    said = " ".join(capsys.readouterr().err.split())
    assert "this split is our own, drawn with seed 0: scores will not compare" in said
    assert "feature files whose rows follow his do not fit this one" in said


def test_an_own_split_depends_on_the_seed_alone(corpus, tmp_path):
    def split(seed):
        coco.main(corpus, tmp_path / "out", seed=seed)
        return [image["split"] for image in read_written(tmp_path / "out")["images"]]

    assert split(1) == split(1)
    assert len({tuple(split(seed)) for seed in range(5)}) > 1


def test_bad_captions_are_named_and_can_be_left_out(corpus, tmp_path, capsys):
    path = corpus / "annotations" / "captions_train2014.json"
    rewrite(path, lambda content: content["annotations"].pop(0) and None)
    rewrite(
        path,
        lambda content: [row.update(caption=" . ") for row in content["annotations"] if row["id"] == 900],
    )
    with pytest.raises(
        ValueError, match="captions_train2014.json: image 9: the caption ' . ' of .* has no words"
    ):
        coco.main(corpus, tmp_path / "out")
    coco.main(corpus, tmp_path / "out", on_bad_data="skip")
    assert [image["cocoid"] for image in read_written(tmp_path / "out")["images"]] == [25, 30, *VAL]
    rewrite(path, lambda content: content["images"].append({"id": 5, "file_name": "x.jpg"}))
    with pytest.raises(ValueError, match=r"image 5 \(x.jpg\) has no caption"):
        coco.main(corpus, tmp_path / "out")
    assert "left out 1 images for their captions" in capsys.readouterr().err


def test_absent_images_are_named_and_can_be_left_out(corpus, tmp_path):
    (corpus / "train2014" / filename("train2014", 9)).unlink()
    with pytest.raises(
        ValueError, match="1 of 9 images are absent:\n  train: train2014/COCO_train2014_0{11}9.jpg"
    ):
        coco.main(corpus, tmp_path / "out")
    coco.main(corpus, tmp_path / "out", on_bad_data="skip")
    assert len(read_written(tmp_path / "out")["images"]) == 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content.pop("images"), "has no list 'images'"),
        (lambda content: content.pop("annotations"), "has no list 'annotations'"),
        (lambda content: content["images"][1].pop("file_name"), r"'file_name' of images\[1\] is None"),
        (lambda content: content["images"][1].update(id="25"), r"'id' of images\[1\] is '25'"),
        (lambda content: content["annotations"][3].update(caption=3), r"'caption' of annotations\[3\] is 3"),
        (
            lambda content: content["annotations"][3].update(image_id=8),
            "annotation 902 .* image 8, which is not",
        ),
    ],
)
def test_a_damaged_release_is_named(corpus, tmp_path, change, message):
    path = corpus / "annotations" / "captions_train2014.json"
    rewrite(path, change)
    with pytest.raises(ValueError, match=f"captions_train2014.json: .*{message}"):
        coco.main(corpus, tmp_path / "out", on_bad_data="skip")


def test_what_is_missing_is_named(corpus, tmp_path):
    path = corpus / "annotations" / "captions_val2014.json"
    path.write_text(path.read_text()[:-30])
    with pytest.raises(ValueError, match="captions_val2014.json: not JSON"):
        coco.main(corpus, tmp_path / "out")
    path.unlink()
    with pytest.raises(ValueError, match="captions_val2014.json is neither there nor in annotations/"):
        coco.main(corpus, tmp_path / "out")
    path.write_text(json.dumps(release("val2014", VAL[:3])))
    with pytest.raises(ValueError, match="has 3 usable images, fewer than the 4 of val and test"):
        coco.main(corpus, tmp_path / "out")
    (corpus / "val2014").rename(corpus / "val")
    with pytest.raises(ValueError, match="the images of COCO: none of .*/val2014 is there"):
        coco.main(corpus, tmp_path / "out")
