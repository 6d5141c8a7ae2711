import re
from pathlib import Path

import torch

from seqdsd.data.synthetic import SyntheticShapes, synthetic_shapes

PAGE = Path(__file__).parents[3] / "docs" / "your-own-images.md"


def test_the_notebook_of_the_page_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDSD_CACHE", str(tmp_path))
    folder = synthetic_shapes(SyntheticShapes(train_images=20, dev_images=10, test_images=10))
    code, _ = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.S)
    names: dict = {}
    exec(code.replace("data/cifar10", str(folder)), names)
    assert names["inputs"].shape == (20, 3, 32, 32) and names["inputs"].dtype == torch.float32
    assert sorted(names["labels"].tolist()) == [label for label in range(10) for _ in range(2)]
