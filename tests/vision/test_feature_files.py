"""Feature files, written here as their makers write them, and read back number by number."""

import gzip
import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch

from seqdsd.vision import FeatureError, mat_files, read_feature_file

DATA = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[2] / "../shared/data")) / "flickr8k"
IDS = ["b.jpg", "a.jpg", "c.jpg", "d.jpg"]


def numbers(rows: int = 4) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((rows, 3)).astype(np.float32)


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def named(path: Path, names: list[str]) -> Path:
    path.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    return path


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", ">f4", "int32", "uint8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_by_position(tmp_path, dtype, order):
    array = np.asarray(3 * numbers() + 10, dtype=dtype, order=order)
    features = read_feature_file(saved(tmp_path / "feats.npy", array), IDS)
    assert isinstance(features.array, np.memmap)
    taken = features.take(["c.jpg", "b.jpg"])
    assert taken.dtype == torch.float32
    np.testing.assert_array_equal(taken.numpy(), array[[2, 0]].astype(np.float32))
    assert (features.feature_size, features.source, dict(features.skipped)) == (3, "feats.npy", {})


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_neuraltalks_matrix_has_a_column_for_each_imgid(tmp_path, dtype):
    columns = numbers().T.astype(dtype)
    scipy.io.savemat(tmp_path / "vgg_feats.mat", {"feats": columns, "other": np.zeros(2)})
    features = read_feature_file(tmp_path / "vgg_feats.mat", IDS)
    for imgid, name in enumerate(IDS):
        np.testing.assert_array_equal(features.take([name])[0].numpy(), columns[:, imgid].astype(np.float32))


@pytest.mark.parametrize(
    ("file", "names"),
    [
        ("feats.npy", "feats_names.txt"),
        ("feats_f16.npy", "feats_names.txt"),
        ("feats_f32.npy", "feats_names.txt"),
        ("feats_f16.npy", "feats_f16_names.txt"),
    ],
)
def test_rows_by_name(tmp_path, file, names):
    array = numbers(6)
    named(tmp_path / names, ["d.jpg", "x.jpg", "b.jpg", "c.jpg", "y.jpg", "a.jpg"])
    features = read_feature_file(saved(tmp_path / file, array), IDS)
    np.testing.assert_array_equal(features.take(IDS).numpy(), array[[2, 5, 3, 0]])


def test_names_written_on_windows(tmp_path):
    (tmp_path / "feats_names.txt").write_bytes("\ufeffa.jpg\r\nb.jpg\r\nc.jpg\r\nd.jpg\r\n\r\n".encode())
    array = numbers()
    features = read_feature_file(saved(tmp_path / "feats.npy", array), IDS)
    np.testing.assert_array_equal(features.take(IDS).numpy(), array[[1, 0, 2, 3]])


def test_places_of_images_without_a_name_or_with_a_repeated_one(tmp_path):
    array = numbers()
    features = read_feature_file(saved(tmp_path / "feats.npy", array), ["a", "", "a", "b"])
    assert dict(features.rows) == {"a": 0, "b": 3}


def test_rows_that_go_by_position_alone_are_said_to(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    path = saved(tmp_path / "feats.npy", numbers())
    read_feature_file(path, ["", *IDS[1:]])
    assert caplog.messages == [f"no names file beside {path}: row 1 is a.jpg, row 3 is d.jpg"]
    caplog.clear()
    read_feature_file(path, ["", "a.jpg", "", ""])
    assert caplog.messages == [f"no names file beside {path}: row 1 is a.jpg"]
    caplog.clear()
    named(tmp_path / "feats_names.txt", IDS)
    read_feature_file(path, IDS)
    assert caplog.messages == []


def test_the_wrong_number_of_rows(tmp_path):
    path = saved(tmp_path / "feats.npy", numbers(5))
    with pytest.raises(
        FeatureError, match=r"feats\.npy: 5 rows, but the split file has 4 images\. .*feats_names\.txt"
    ):
        read_feature_file(path, IDS, on_bad_data="skip")
    named(tmp_path / "feats_names.txt", IDS)
    with pytest.raises(FeatureError, match=r"feats_names\.txt: 4 lines, but feats\.npy has 5 rows"):
        read_feature_file(path, IDS, on_bad_data="skip")


def test_a_repeated_name(tmp_path):
    named(tmp_path / "feats_names.txt", ["a.jpg", "b.jpg", "a.jpg", "d.jpg"])
    with pytest.raises(FeatureError, match=r"feats_names\.txt:3: 'a\.jpg' again, after line 1"):
        read_feature_file(saved(tmp_path / "feats.npy", numbers()), IDS)


def test_images_without_a_row(tmp_path, caplog):
    named(tmp_path / "feats_names.txt", ["a.jpg", "x.jpg", "c.jpg", "y.jpg"])
    path = saved(tmp_path / "feats.npy", numbers())
    with pytest.raises(FeatureError, match=r"feats\.npy: no row for image b\.jpg \(and 1 other images\)\. "):
        read_feature_file(path, IDS)
    features = read_feature_file(path, IDS, on_bad_data="skip")
    assert dict(features.rows) == {"a.jpg": 0, "c.jpg": 2}
    assert list(features.skipped) == ["b.jpg", "d.jpg"]
    assert "no row for image b.jpg" in caplog.text
    with pytest.raises(FeatureError, match=r"no image is left; the first was .*image z"):
        read_feature_file(path, ["z"], on_bad_data="skip")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 1500, 2999])
def test_rows_that_are_not_finite(tmp_path, bad, row):
    array = np.ones((3000, 2), np.float16)
    array[row, 1] = bad
    ids = [f"{number}.jpg" for number in range(3000)]
    path = saved(tmp_path / "feats.npy", array)
    with pytest.raises(FeatureError, match=rf"feats\.npy: NaN or infinity in row {row}, image {row}\.jpg\. "):
        read_feature_file(path, ids)
    features = read_feature_file(path, ids, on_bad_data="skip")
    assert list(features.skipped) == [f"{row}.jpg"]
    assert len(features.rows) == 2999


def test_unused_rows_may_hold_anything(tmp_path):
    array = numbers()
    array[3] = np.nan
    named(tmp_path / "feats_names.txt", ["a.jpg", "b.jpg", "c.jpg", "unused.jpg"])
    assert len(read_feature_file(saved(tmp_path / "feats.npy", array), IDS[:3]).rows) == 3


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros(4, np.float32), r"an array of shape \(4,\)"),
        (np.zeros((4, 2, 2), np.float32), r"an array of shape \(4, 2, 2\)"),
        (np.zeros((4, 0), np.float32), r"an array of shape \(4, 0\)"),
        (np.array([["a"]] * 4), "holds <U1, not real numbers"),
        (np.zeros((4, 2), complex), "holds complex128, not real numbers"),
        (np.zeros((4, 2), bool), "holds bool, not real numbers"),
        (np.array([[{}]] * 4), "not a .npy file of numbers"),
    ],
)
def test_arrays_of_another_kind(tmp_path, array, reason):
    with pytest.raises(FeatureError, match=rf"feats\.npy: .*{reason}.*\. \w+"):
        read_feature_file(saved(tmp_path / "feats.npy", array), IDS)


def test_files_that_are_damaged_or_something_else(tmp_path):
    whole = saved(tmp_path / "whole.npy", numbers()).read_bytes()
    (tmp_path / "cut.npy").write_bytes(whole[:-1])
    (tmp_path / "header.npy").write_bytes(whole[:20])
    (tmp_path / "empty.npy").touch()
    (tmp_path / "text.npy").write_text("not features")
    np.savez(tmp_path / "archive.npz", numbers())
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    (tmp_path / "text.csv").write_text("1,2,3\n")
    scipy.io.savemat(tmp_path / "whole.mat", {"feats": numbers()}, do_compression=True)
    (tmp_path / "cut.mat").write_bytes((tmp_path / "whole.mat").read_bytes()[:-20])
    (tmp_path / "text.mat").write_text("not features")
    (tmp_path / "empty.mat").touch()
    scipy.io.savemat(tmp_path / "nameless.mat", {"features": numbers()})
    scipy.io.savemat(tmp_path / "cells.mat", {"feats": np.array([["a", 1]], dtype=object)})
    (tmp_path / "hdf5.mat").write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(400))
    reasons = {
        **dict.fromkeys(
            ("cut.npy", "header.npy", "empty.npy", "text.npy", "archive.npy"), "truncated, or not a .npy"
        ),
        **dict.fromkeys(("cut.mat", "text.mat", "empty.mat"), "damaged, or not a .mat file"),
        "nameless.mat": "holds no matrix 'feats'",
        "cells.mat": "not real numbers",
        "hdf5.mat": r"v7\.3 format",
        "text.csv": r"feature files are \.npy or \.mat",
        "absent.npy": "no such feature file",
    }
    for name, reason in reasons.items():
        with pytest.raises(FeatureError, match=rf"{name}: .*{reason}.*\. \w+"):
            read_feature_file(tmp_path / name, IDS)


def test_a_file_from_python_2(tmp_path):
    path = saved(tmp_path / "feats.npy", numbers())
    path.write_bytes(path.read_bytes().replace(b"(4, 3), }  ", b"(4L, 3L), }"))
    np.testing.assert_array_equal(read_feature_file(path, IDS).take(IDS).numpy(), numbers())


def test_fingerprints_follow_numbers_and_names(tmp_path):
    path = saved(tmp_path / "feats.npy", numbers())
    first = read_feature_file(path, IDS).fingerprint
    assert read_feature_file(path, IDS).fingerprint == first
    moved = saved(tmp_path / "moved.npy", numbers())
    assert read_feature_file(moved, IDS).fingerprint == first
    named(tmp_path / "moved_names.txt", sorted(IDS))
    assert read_feature_file(moved, IDS).fingerprint != first
    changed = numbers()
    changed[3, 2] += 1
    assert read_feature_file(saved(path, changed), IDS).fingerprint != first


@pytest.mark.skipif(not DATA.is_dir(), reason="Flickr8k is not here; set SEQDSD_DATA to its parent folder")
def test_the_given_flickr8k_features():
    with gzip.open(DATA / "dataset_flickr8k.json.gz") as file:
        ids = [image["filename"] for image in json.load(file)["images"]]
    features = read_feature_file(DATA / "efficientnet_lite0_feats_f16.npy", ids)
    assert (len(features.rows), features.feature_size) == (8000, 1280)
    names = (DATA / "efficientnet_lite0_feats_names.txt").read_text().split()
    row = names.index(ids[1234])
    expected = np.load(DATA / "efficientnet_lite0_feats_f16.npy")[row].astype(np.float32)
    np.testing.assert_array_equal(features.take([ids[1234]])[0].numpy(), expected)


def test_matrices_that_unpack_to_far_more_than_features_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(mat_files, "_SMALL_BYTES", 100_000)
    for size, path in ((10_000, tmp_path / "small.mat"), (1_000_000, tmp_path / "bomb.mat")):
        scipy.io.savemat(path, {"feats": np.zeros((size, 1))}, do_compression=True)
    assert read_feature_file(tmp_path / "small.mat", ["a.jpg"]).take(["a.jpg"]).shape == (1, 10_000)
    with pytest.raises(FeatureError, match=r"bomb\.mat: damaged.*unpacks to more than 100 times its size"):
        read_feature_file(tmp_path / "bomb.mat", ["a.jpg"])
