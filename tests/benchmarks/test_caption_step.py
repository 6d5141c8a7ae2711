"""The numpy step that ours is timed against does the same work: the same loss, gradients and trained weights.

It was written from NeuralTalk's description with nothing of ours, so it is a witness for our network as well.
"""

import numpy as np
import pytest
import torch

from benchmarks.caption_step import LEARNING_RATE, Config, Trainings, made_up_captions, spread_batches
from benchmarks.numpy_neuraltalk import NumpyNeuralTalk, NumpySettings, by_their_names
from seqdsd.data import IGNORE
from seqdsd.engine import AdaptiveSettings
from seqdsd.models import NeuralTalk

CAPTIONS = [[3, 1, 4, 1, 5], [2], [], [6, 5, 3]]
VOCAB_SIZE, FEATURE_SIZE = 7, 5


@pytest.fixture
def network() -> NeuralTalk:
    """Weights far from 0, so that gates are neither open nor shut and every gradient counts."""
    torch.manual_seed(0)
    network = NeuralTalk(
        vocab_size=VOCAB_SIZE, feature_size=FEATURE_SIZE, hidden_size=6, dropout=0.0
    ).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.uniform_(-0.7, 0.7)
    return network


@pytest.fixture
def features() -> torch.Tensor:
    return torch.rand(len(CAPTIONS), FEATURE_SIZE, dtype=torch.double)


def padded(captions: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """What the network reads and is to say, by hand."""
    words = 1 + max(map(len, captions))
    tokens, targets = torch.zeros(len(captions), words).long(), torch.full((len(captions), words), IGNORE)
    for row, caption in enumerate(captions):
        tokens[row, 1 : 1 + len(caption)] = torch.tensor(caption)
        targets[row, : 1 + len(caption)] = torch.tensor([*caption, 0])
    return tokens, targets


def test_loss_and_gradients_are_ours(network, features):
    tokens, targets = padded(CAPTIONS)
    logits = network(features, tokens)
    loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), targets, reduction="sum") / len(CAPTIONS)
    loss.backward()
    ours = by_their_names({name: parameter.grad for name, parameter in network.named_parameters()})

    theirs = NumpyNeuralTalk(
        by_their_names(network.state_dict()), NumpySettings(dropout=0.0, weight_decay=0.0)
    )
    their_loss, gradients = theirs.loss_and_gradients(list(features.numpy()), CAPTIONS)
    assert their_loss == pytest.approx(loss.item(), rel=1e-12)
    assert gradients.keys() == ours.keys() == {"We", "be", "Ws", "WLSTM", "Wd", "bd"}
    for name, gradient in gradients.items():
        assert np.abs(gradient).max() > 1e-3
        np.testing.assert_allclose(gradient, ours[name], rtol=1e-10, atol=1e-14, err_msg=name)


def test_gradients_are_slopes_of_the_loss(network, features):
    """Also of the penalty on matrices, by central differences; this needs nothing of ours but the start."""
    decay = 0.3
    theirs = NumpyNeuralTalk(
        by_their_names(network.state_dict()), NumpySettings(dropout=0.0, weight_decay=decay)
    )
    pairs = list(features.numpy()), CAPTIONS

    def loss():
        matrices = [theirs.weights[name] for name in ("We", "Ws", "WLSTM", "Wd")]
        penalty = sum((matrix**2).sum() for matrix in matrices) * decay / 2 / len(CAPTIONS)
        return theirs.loss_and_gradients(*pairs)[0] + penalty

    _, gradients = theirs.loss_and_gradients(*pairs)
    for name, weight in theirs.weights.items():
        for index in (0, weight.size // 2, weight.size - 1):
            before = weight.flat[index]
            losses = []
            for weight.flat[index] in (before + 1e-5, before - 1e-5):
                losses.append(loss())
            weight.flat[index] = before
            slope = (losses[0] - losses[1]) / 2e-5
            assert gradients[name].flat[index] == pytest.approx(slope, rel=1e-6, abs=1e-9), (name, index)


def test_dropout_is_on_and_keeps_the_mean(network, features):
    """Half of what the LSTM reads and of what it says is 0, the other half doubled."""
    theirs = NumpyNeuralTalk(by_their_names(network.state_dict()), NumpySettings(dropout=0.5))
    mask = theirs._dropout((100, 100))
    assert set(np.unique(mask)) == {0.0, 2.0} and mask.mean() == pytest.approx(1, abs=0.05)
    losses = {theirs.loss_and_gradients(list(features.numpy()), CAPTIONS)[0] for _ in range(5)}
    assert len(losses) == 5


@pytest.mark.parametrize("clip_value", [5.0, 0.01])
def test_steps_that_are_timed_train_alike(clip_value):
    """Ours by the engine's loop in single precision, theirs in double: the same losses and weights after 9 steps."""
    config = Config(hidden_size=8, batch_size=6, batches=3)
    trainings = Trainings(config, made_up_captions(num_images=8, num_words=20), 12)
    network = trainings.network(dropout=0.0)
    before = by_their_names(network.state_dict())
    settings = NumpySettings(learning_rate=LEARNING_RATE, clip_value=clip_value, dropout=0.0)
    theirs = NumpyNeuralTalk(by_their_names(network.state_dict()), settings)
    train_theirs = trainings.neuraltalk(theirs)
    train_ours = trainings.ours(network, settings=AdaptiveSettings(clip_value=clip_value))
    losses = [(train_ours(), train_theirs()) for _ in range(3)]
    assert losses[0][0] > losses[2][0]
    for ours, their in losses:
        assert ours == pytest.approx(their, rel=1e-5)
    for name, weight in by_their_names(network.state_dict()).items():
        assert np.abs(weight - before[name]).max() > 1e-3
        np.testing.assert_allclose(weight, theirs.weights[name], atol=1e-5, err_msg=name)


def test_masks_hold_while_a_sparse_step_is_timed():
    trainings = Trainings(
        Config(hidden_size=8, batch_size=6), made_up_captions(num_images=8, num_words=20), 12
    )
    network = trainings.network()
    trainings.ours(network, sparsity=0.8)()
    assert (network.lstm.weight == 0).double().mean() == pytest.approx(0.8, abs=0.01)
    assert (network.words.weight == 0).sum() == 0


def test_made_up_captions_are_as_long_as_flickr8ks():
    """Flickr8k's training captions without rare words have 10.5 words, most often 9; standard deviation 3.7."""
    num_words = made_up_captions(num_images=600).encoded.num_words
    assert num_words.mean() == pytest.approx(10.5, abs=0.2) and num_words.std() == pytest.approx(3.7, abs=0.2)
    assert np.bincount(num_words).argmax() in (8, 9, 10) and num_words.min() >= 1


def test_batches_are_spread_over_the_lengths():
    captions = made_up_captions(num_images=40, num_words=20).encoded
    chosen = spread_batches(captions, batch_size=10, count=3)
    means = [captions.num_words[batch].mean() for batch in chosen]
    assert len(chosen) == 3 and means == sorted(means)
    assert np.mean(means) == pytest.approx(captions.num_words.mean(), rel=0.05)
