"""What DeepSpeech 2 is timed against is as large, takes the same batches, and can be trained on them."""

import numpy as np
import pytest
import torch

from benchmarks.ctc_rivals import RIVALS, is_installed, parameters_of, rival_of_size
from benchmarks.ds2_training import an4_durations, make_batches, make_training, our_model


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.filterwarnings("ignore")  # of other toolkits
def test_rivals_are_as_large_and_train(name):
    if not is_installed(name):
        pytest.skip(f"{RIVALS[name][0]} is not installed")
    torch.manual_seed(0)
    ours = parameters_of(our_model("small"))
    rival = rival_of_size(name, ours, jit=False)
    assert parameters_of(rival) == pytest.approx(ours, rel=0.01)
    batch = make_batches(7.0, 1)[0]
    log_probs, num_frames = rival(batch.features, batch.num_frames)
    assert log_probs.shape[0] == len(num_frames) and int(num_frames.max()) == log_probs.shape[1]
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))
    before = [one.detach().clone() for one in rival.parameters()]
    make_training(rival, [batch], "fp32", "cpu")()
    # Conformer's positions of the longest distance and the like may stay as they are.
    moved = [not torch.equal(one, other) for one, other in zip(before, rival.parameters(), strict=True)]
    assert np.mean(moved) > 0.9


def test_durations_are_an4s():
    """Its training set: 0.7 to 6.4 s; quartiles 1.8, 2.5 and 3.4."""
    durations = an4_durations(2000)
    assert np.percentile(durations, (25, 50, 75)) == pytest.approx((1.8, 2.5, 3.4), abs=0.2)
    assert min(durations) >= 0.7 and max(durations) <= 6.4


def test_batches_go_from_short_to_long_within_the_budget():
    batches = make_batches(15.0, 3)
    longest = [float(batch.num_frames.max()) / 100 for batch in batches]
    assert longest == sorted(longest)
    assert all(len(one.num_frames) * length <= 15.1 for one, length in zip(batches, longest, strict=True))
