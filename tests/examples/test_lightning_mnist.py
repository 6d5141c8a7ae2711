"""The example of Lightning's Trainer runs as it is, on the small digits and on files in MNIST's own format."""

import gzip
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits


def write_idx(path: Path, array: np.ndarray) -> None:
    header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}i", *array.shape)
    path.write_bytes(gzip.compress(header + array.astype(np.uint8).tobytes()))


@pytest.fixture
def mnist(tmp_path):
    digits = load_digits()
    for name, part in {"train": slice(0, 1297), "t10k": slice(1297, None)}.items():
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", digits.images[part] * 15)
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", digits.target[part])
    return tmp_path


@pytest.mark.parametrize("has_files", [False, True])
def test_it_learns_by_dsd_and_by_its_control(run_example, mnist, has_files):
    flags = ["--data", str(mnist)] if has_files else []
    said = run_example("lightning_mnist.py", *flags, python_flags=[])
    zeros = [float(found) for found in re.findall(r"([\d.]+)% of the weights that DSD", said)]
    dsd, control = zeros[:12], zeros[12:]
    assert dsd[:6] == [0.0] * 6 and dsd[6:9] == [50.0] * 3
    assert max(dsd[9:]) < 25  # what no digit's ink reaches has no gradient, and stays at 0
    assert control == [0.0] * 12
    errors = [float(found) for found in re.findall(r"([\d.]+)% of 500 test digits wrong", said)]
    assert len(errors) == 2 and max(errors) < 20
