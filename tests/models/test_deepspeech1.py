"""DeepSpeech 1 against Table 6, against its equations written out, and against itself in other batches."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqdsd.models import DeepSpeech1
from seqdsd.models.clipped_relu import ClippedReLU

TABLE_6 = {
    "conv": 1_814_528,
    "fc1": 1_049_600,
    "fc2": 1_049_600,
    "rnn": 3_146_752,
    "fc3": 1_049_600,
    "output": 29_725,
}
LENGTHS = [23, 1, 40, 12, 2, 11]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def small(**options) -> DeepSpeech1:
    return DeepSpeech1(vocab_size=5, num_bins=7, hidden_size=16, **options)


def convolved(model: DeepSpeech1, item: Tensor) -> Tensor:
    """An utterance [frames, bins] by torch's convolution: [out_frames, hidden]."""
    layer = model.conv
    return F.conv1d(item.T.unsqueeze(0), layer.weight, layer.bias, layer.stride, layer.padding)[0].T


def batch_of(items: list[Tensor], *, filling: float, extra_frames: int = 0) -> tuple[Tensor, Tensor]:
    """A padded batch and its lengths, with ``filling`` in the padding."""
    padded = nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=filling)
    return F.pad(padded, (0, 0, 0, extra_frames), value=filling), torch.tensor([len(item) for item in items])


def utterances(lengths: list[int]) -> list[Tensor]:
    return [torch.randn(length, 7) for length in lengths]


def test_clipped_relu():
    inputs = torch.tensor([-1.0, 0.0, 0.5, 2.0, 3.0], requires_grad=True)
    outputs = ClippedReLU(2.0)(inputs)
    outputs.sum().backward()
    assert outputs.tolist() == [0, 0, 0.5, 2, 2]
    assert inputs.grad.tolist() == [0, 0, 1, 0, 0]  # at the edges as the recurrent layer's


def test_table_6():
    with torch.device("meta"):
        model = DeepSpeech1()
    counts = {
        name: sum(parameter.numel() for parameter in child.parameters())
        for name, child in model.named_children()
    }
    assert {name: count for name, count in counts.items() if count} == TABLE_6
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_139_805


def test_without_its_last_fc_layer_it_has_that_many_parameters_less():
    with torch.device("meta"):
        model = DeepSpeech1(last_fc=False)
    assert sum(parameter.numel() for parameter in model.parameters()) == 8_139_805 - TABLE_6["fc3"]


def test_output_frames_are_the_convolutions():
    model = small()
    for num_frames in range(1, 50):
        out_frames = convolved(model, torch.zeros(num_frames, 7)).shape[0]
        assert DeepSpeech1.output_frames(num_frames) == out_frames
        assert DeepSpeech1.output_frames(torch.tensor([num_frames])).tolist() == [out_frames]


def slow_recurrence(projected: Tensor, weight: Tensor, clip: float) -> Tensor:
    states, state = [], torch.zeros(projected.shape[1])
    for x in projected:
        state = (x + weight @ state).clamp(0, clip)
        states.append(state)
    return torch.stack(states)


def slow_deepspeech1(parameters: dict[str, Tensor], features: Tensor, clip: float) -> Tensor:
    """The network without batch norm for one utterance [frames, bins], in the equations' own words."""
    p = parameters

    def fully_connected(hidden: Tensor, name: str) -> Tensor:
        return (hidden @ p[f"{name}.0.weight"].T + p[f"{name}.0.bias"]).clamp(0, clip)

    framed = F.pad(features, (0, 0, 5, 5)).unfold(0, 11, 2)  # [out_frames, bins, 11]
    hidden = (torch.einsum("tbk,hbk->th", framed, p["conv.weight"]) + p["conv.bias"]).clamp(0, clip)
    hidden = fully_connected(fully_connected(hidden, "fc1"), "fc2")
    projected = hidden @ p["rnn.input.weight"].T + p["rnn.input.bias"]
    forward = slow_recurrence(projected, p["rnn.weight_recurrent"][0], clip)
    backward = slow_recurrence(projected.flip(0), p["rnn.weight_recurrent"][1], clip).flip(0)
    hidden = forward + backward
    if "fc3.0.weight" in p:
        hidden = fully_connected(hidden, "fc3")
    return (hidden @ p["output.weight"].T + p["output.bias"]).log_softmax(-1)


@pytest.mark.parametrize("last_fc", [True, False])
@pytest.mark.parametrize("scale", [1, 30])  # at 30 the clip at 20 acts
def test_against_the_equations(scale, last_fc):
    model, items = small(last_fc=last_fc), [scale * item for item in utterances(LENGTHS)]
    log_probs, out_lengths = model(*batch_of(items, filling=math.nan))
    assert out_lengths.tolist() == [12, 1, 20, 6, 1, 6]
    for item, output, length in zip(items, log_probs, out_lengths, strict=True):
        expected = slow_deepspeech1(dict(model.named_parameters()), item, clip=20)
        torch.testing.assert_close(output[:length], expected, atol=1e-4, rtol=1e-4)
        assert (output[length:] == 0).all()


def test_every_hidden_layer_is_clipped_at_20():
    model = small()
    largest: dict[str, float] = {}

    def note(name: str):
        return lambda module, inputs, output: largest.update({name: float(output.detach().max())})

    for name in ("conv_nonlinearity", "fc1", "fc2", "rnn", "fc3"):
        layer = model.get_submodule(name)
        layer.register_forward_hook(note(name))
        for parameter in layer.parameters():
            parameter.data *= 100
    model(1000 * torch.randn(2, 30, 7), torch.tensor([30, 20]))
    assert largest == {"conv_nonlinearity": 20, "fc1": 20, "fc2": 20, "rnn": 40, "fc3": 20}


@pytest.mark.parametrize("filling", [0.0, 5.0, math.nan, math.inf])
@pytest.mark.parametrize("batch", [1, 3, 32])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_neither_batch_nor_padding_changes_log_probs(batch, filling, batch_norm):
    model = small(batch_norm=batch_norm)
    items = utterances([11, *torch.randint(1, 60, (31,)).tolist()])
    if batch_norm:
        model(*batch_of(items, filling=0.0))  # gives the norms statistics
    model.eval()
    alone, _ = model(items[0].unsqueeze(0), torch.tensor([11]))
    together, out_lengths = model(*batch_of(items[:batch], filling=filling, extra_frames=9))
    assert out_lengths[0] == 6
    torch.testing.assert_close(together[0, :6], alone[0], atol=1e-5, rtol=1e-5)


def ctc_gradients(model: DeepSpeech1, features: Tensor, num_frames: Tensor) -> dict[str, Tensor]:
    log_probs, out_lengths = model(features, num_frames)
    tokens = torch.tensor([[1, 2]] * len(num_frames))
    loss = F.ctc_loss(
        log_probs.transpose(0, 1), tokens, out_lengths, torch.tensor([2] * len(num_frames)), reduction="sum"
    )
    model.zero_grad()
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}


@pytest.mark.parametrize("filling", [5.0, math.nan])
@pytest.mark.parametrize("batch_norm", [False, True])
def test_padding_changes_neither_loss_nor_gradients_in_training(filling, batch_norm):
    model = small(batch_norm=batch_norm).train()
    items = utterances([23, 8, 40, 12])
    tight = ctc_gradients(model, *batch_of(items, filling=0.0))
    wide = ctc_gradients(model, *batch_of(items, filling=filling, extra_frames=33))
    assert tight["loss"].isfinite()
    torch.testing.assert_close(wide, tight, atol=1e-4, rtol=1e-4)


def test_batch_norm_statistics_are_of_valid_frames_only():
    model = small(batch_norm=True).train()
    items = utterances(LENGTHS)
    model(*batch_of(items, filling=5.0, extra_frames=10))
    frames = torch.cat([convolved(model, item) for item in items])  # an utterance at a time
    norm = model.conv_nonlinearity[0]
    torch.testing.assert_close(norm.running_mean, 0.1 * frames.mean(0))  # from 0, with momentum 0.1
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * frames.var(0))  # from 1


def test_batch_norm_takes_the_place_of_hidden_biases():
    biases = {name for name, _ in small(batch_norm=True).named_parameters() if name.endswith("bias")}
    norms = {"conv_nonlinearity.0.bias", "fc1.1.0.bias", "fc2.1.0.bias", "rnn.norm.bias", "fc3.1.0.bias"}
    assert biases == {*norms, "output.bias"}


def test_log_probs_are_normalised():
    log_probs, out_lengths = small()(torch.randn(2, 30, 7), torch.tensor([30, 17]))
    for output, length in zip(log_probs, out_lengths, strict=True):
        torch.testing.assert_close(output[:length].exp().sum(-1), torch.ones(int(length)))


def test_dropout_acts_in_training_only():
    model, batch = small(dropout=0.5), (torch.randn(2, 30, 7), torch.tensor([30, 17]))
    assert not torch.equal(model.train()(*batch)[0], model(*batch)[0])
    assert torch.equal(model.eval()(*batch)[0], model(*batch)[0])


@pytest.mark.parametrize("num_frames", [[0, 5], [5, 6], [5, 7], [-3, 5]])
def test_lengths_out_of_range(num_frames):
    with pytest.raises(ValueError, match=r"num_frames must be in \[1, 5\]"):
        small()(torch.randn(2, 5, 7), torch.tensor(num_frames))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_the_gpu():
    model, items = small().eval(), utterances(LENGTHS)
    features, num_frames = batch_of(items, filling=math.nan)
    expected, _ = model(features, num_frames)
    model.cuda()
    for lengths in (num_frames, num_frames.cuda()):
        actual, _ = model(features.cuda(), lengths)
        torch.testing.assert_close(actual.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_blank_may_begin_more_likely_and_nothing_else_changes():
    """Item by item, against the plain network of the same seed: e^3 times the odds of blank."""
    torch.manual_seed(0)
    plain = DeepSpeech1(num_bins=24, hidden_size=8)
    torch.manual_seed(0)
    model = DeepSpeech1(num_bins=24, hidden_size=8, blank_bias=3.0)
    features, num_frames = torch.randn(2, 30, 24), torch.tensor([30, 30])
    before, after = (one.eval()(features, num_frames)[0].double() for one in (plain, model))
    odds = torch.stack([one[..., 0] - one[..., 1:].logsumexp(-1) for one in (before, after)])
    torch.testing.assert_close(odds[1] - odds[0], torch.full_like(odds[0], 3.0), rtol=0, atol=1e-4)
    others = (after - before)[..., 1:]
    torch.testing.assert_close(others, others[..., :1].expand_as(others), rtol=0, atol=1e-4)
