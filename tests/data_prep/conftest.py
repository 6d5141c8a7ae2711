import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

DATA_PREP = Path(__file__).parents[2] / "data_prep"
# The scripts import each other as they do when run: from their own folder.
sys.path.insert(0, str(DATA_PREP))


@pytest.fixture
def make_audio():
    """Write a quiet tone of so many seconds, in the format that the suffix (or ``format``) says."""

    def make(path, seconds=0.1, format=None):
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = 0.1 * np.sin(np.arange(round(16_000 * seconds)) / 10)
        if path.suffix == ".raw":
            path.write_bytes((samples * 32767).astype("<i2").tobytes())
        else:
            soundfile.write(path, samples, 16_000, format=format)
        return path

    return make
