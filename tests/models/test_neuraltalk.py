"""NeuralTalk against the original's forward pass, written again in numpy, one image and one word at a time."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqdsd.decode import NextWordModel
from seqdsd.models import NeuralTalk
from seqdsd.sparsity import CAPTION_RULES, MaskSet, resolve

VOCAB, FEATURES, HIDDEN = 9, 5, 7


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def build(*, scale: float = 8.0, dropout: float = 0.0, tanh_output: bool = False) -> NeuralTalk:
    """In double precision and evaluation mode, with biases, and weights that make words differ."""
    model = NeuralTalk(
        vocab_size=VOCAB, feature_size=FEATURES, hidden_size=HIDDEN, dropout=dropout, tanh_output=tanh_output
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.1 * scale, 0.1 * scale)
    return model.double().eval()


def random_batch(batch: int = 3, words: int = 6) -> tuple[Tensor, Tensor]:
    return torch.randn(batch, FEATURES, dtype=torch.double), torch.randint(0, VOCAB, (batch, words))


def original_forward(model: NeuralTalk, feature: np.ndarray, tokens: list[int]) -> np.ndarray:
    """Its equations with its matrices: WLSTM has the bias as first row, then rows of the input, then of the state.

    Reference: karpathy/neuraltalk, imagernn/generic_batch_generator.py and lstm_generator.py, ``forward``.
    """
    weights = {name: one.detach().numpy() for name, one in model.named_parameters()}
    w_lstm = np.vstack([weights["lstm.bias"], weights["lstm.weight"].T])
    encoded = weights["image.weight"] @ feature + weights["image.bias"]
    hidden = cell = np.zeros(HIDDEN)
    outputs = []
    for x in [encoded, *weights["words.weight"][tokens]]:
        gates = np.concatenate([[1.0], x, hidden]) @ w_lstm
        i, f, o = np.split(1 / (1 + np.exp(-gates[: 3 * HIDDEN])), 3)
        cell = i * np.tanh(gates[3 * HIDDEN :]) + f * cell
        hidden = o * cell  # no tanh
        outputs.append(weights["output.weight"] @ hidden + weights["output.bias"])
    return np.array(outputs[1:])  # what follows the image alone is dropped


@pytest.mark.parametrize("vocab_size", [2, 29, 2538, 8800])
def test_the_original_has_as_many_parameters(vocab_size):
    with torch.device("meta"):
        model = NeuralTalk(vocab_size=vocab_size)
    assert sum(parameter.numel() for parameter in model.parameters()) == 1_574_144 + 513 * vocab_size
    assert model.vocab_size == vocab_size
    shapes = {name: tuple(one.shape) for name, one in model.named_parameters()}
    assert shapes == {
        "image.weight": (256, 4096),
        "image.bias": (256,),
        "words.weight": (vocab_size, 256),
        "lstm.weight": (1024, 512),
        "lstm.bias": (1024,),
        "output.weight": (vocab_size, 256),
        "output.bias": (vocab_size,),
    }


def test_the_original_s_forward_pass_gives_the_same_logits():
    model, (features, tokens) = build(), random_batch()
    logits = model(features, tokens)
    assert logits.shape == (3, 6, VOCAB)
    for item in range(3):
        expected = original_forward(model, features[item].numpy(), tokens[item].tolist())
        np.testing.assert_allclose(logits[item].detach().numpy(), expected, rtol=1e-10, atol=1e-12)


def test_the_image_and_every_word_matter():
    """Otherwise the test above would show little."""
    model, (features, tokens) = build(), random_batch()
    logits = model(features, tokens)
    assert (model(features + 1, tokens) - logits).abs().amin(dim=2).min() > 1e-6
    other = tokens.clone()
    other[:, 2] = (other[:, 2] + 1) % VOCAB
    changed = (model(features, other) - logits).abs().amax(dim=(0, 2)) > 1e-6
    assert changed.tolist() == [False, False, True, True, True, True]


@pytest.mark.parametrize("tanh_output", [False, True])
def test_word_by_word_it_gives_the_logits_of_the_whole(tanh_output):
    model, (features, tokens) = build(tanh_output=tanh_output), random_batch()
    assert isinstance(model, NextWordModel)
    state, logits = model.start(features), []
    for words in tokens.T:
        one, state = model.step(words, state)
        logits.append(one)
    torch.testing.assert_close(torch.stack(logits, dim=1), model(features, tokens))


def test_the_output_s_tanh_is_a_choice():
    plain = build()
    squashed = NeuralTalk(
        vocab_size=VOCAB, feature_size=FEATURES, hidden_size=HIDDEN, tanh_output=True
    ).double()
    squashed.load_state_dict(plain.state_dict())
    batch = random_batch()
    assert (squashed.eval()(*batch) - plain(*batch)).abs().max() > 1e-3


def test_padding_changes_nothing_before_it():
    model, (features, tokens) = build(), random_batch()
    short = model(features[:1], tokens[:1, :4])
    padded = tokens.clone()
    padded[0, 4:] = 0
    torch.testing.assert_close(model(features, padded)[:1, :4], short)


def test_weights_start_as_the_original_s():
    model = NeuralTalk(vocab_size=300, feature_size=100, hidden_size=50)
    for weight in (
        model.image.weight,
        model.words.weight,
        model.lstm.weight,
        model.lstm.bias,
        model.output.weight,
    ):
        assert weight.abs().max() <= 0.1 and weight.std().item() == pytest.approx(0.2 / 12**0.5, rel=0.15)
    assert not model.image.bias.any() and not model.output.bias.any()


def test_the_output_starts_from_how_often_words_occur():
    model, frequencies = build(), np.linspace(0, -3, VOCAB).tolist()
    model.set_output_bias(frequencies)
    torch.testing.assert_close(model.output.bias, torch.tensor(frequencies, dtype=torch.double))
    assert model.output.bias.requires_grad
    for wrong in (frequencies[:-1], [*frequencies, 0.0], [-1.0]):
        with pytest.raises(RuntimeError):
            model.set_output_bias(wrong)


def dropped_shares(model: NeuralTalk, batch: tuple[Tensor, Tensor]) -> list[float]:
    """Zeros among the numbers that enter the LSTM, and among those that enter the output layer."""
    seen: list[Tensor] = []
    hooks = [
        layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
        for layer in (model.lstm, model.output)
    ]
    model(*batch)
    for hook in hooks:
        hook.remove()
    assert seen[0].shape[0] == batch[1].shape[1] + 1 and seen[1].shape[0] == batch[1].shape[1]
    return [float((one == 0).float().mean()) for one in seen]


def test_dropout_in_training_alone_and_in_both_places():
    model = build(dropout=0.5)
    batch = random_batch(batch=40, words=12)
    assert dropped_shares(model, batch) == [0.0, 0.0]
    assert torch.equal(model(*batch), model(*batch))
    model.train()
    assert dropped_shares(model, batch) == pytest.approx([0.5, 0.5], abs=0.05)
    assert not torch.equal(model(*batch), model(*batch))
    torch.manual_seed(1)
    first = model(*batch)
    torch.manual_seed(1)
    assert torch.equal(model(*batch), first)


def test_the_image_s_encoding_is_dropped_from_too_and_what_is_kept_is_scaled():
    model = build(dropout=0.5).train()
    features, tokens = random_batch(batch=64)
    seen: list[Tensor] = []
    model.lstm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    model(features, tokens)
    kept, encoded = seen[0][0] != 0, model.image(features)
    assert 0.4 < kept.float().mean() < 0.6
    torch.testing.assert_close(seen[0][0][kept], 2 * encoded[kept])


def test_the_paper_s_rules_prune_all_but_the_word_table_and_biases():
    model = NeuralTalk(vocab_size=50, feature_size=20, hidden_size=10)
    plan = resolve(model, CAPTION_RULES, 0.8)
    assert plan.sparsities == {"image.weight": 0.8, "lstm.weight": 0.8, "output.weight": 0.8}
    MaskSet.from_magnitude(model, plan).apply_()
    for name, parameter in model.named_parameters():
        zeros = int((parameter == 0).sum())
        if name in plan.sparsities:
            assert zeros == round(0.8 * parameter.numel())
        elif name not in ("image.bias", "output.bias"):  # which start from 0
            assert zeros == 0


def test_a_copy_and_a_round_trip_of_the_weights_are_the_same_network():
    model, batch = build(), random_batch()
    copied = copy.deepcopy(model)
    loaded = NeuralTalk(vocab_size=VOCAB, feature_size=FEATURES, hidden_size=HIDDEN).double().eval()
    loaded.load_state_dict(model.state_dict())
    expected = model(*batch)
    assert torch.equal(copied(*batch), expected) and torch.equal(loaded(*batch), expected)
    nn.init.zeros_(model.output.weight)
    assert torch.equal(copied(*batch), expected)


def test_every_parameter_gets_a_gradient():
    model, (features, tokens) = build(), random_batch()
    model(features, tokens).square().sum().backward()
    assert all(parameter.grad.any() for parameter in model.parameters())
    unused = sorted(set(range(VOCAB)) - set(tokens.flatten().tolist()))
    assert not model.words.weight.grad[unused].any()


def test_there_are_no_positional_sizes():
    with pytest.raises(TypeError):
        NeuralTalk(29)
