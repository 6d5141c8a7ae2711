"""DeepSpeech 2 against Table 8, against its equations written out, and against itself in other batches."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqdsd.models import DeepSpeech2, FramePacking, deepspeech2
from seqdsd.models.convolutions import bin_products

LENGTHS = [23, 1, 40, 12, 2, 11]
KINDS = [
    {},
    {"cell": "gru"},
    {"cell": "lstm"},
    {"cell": "gru", "recurrent_norm": False, "last_fc": False},
    {"bidirectional": False, "future_frames": 3},
    {"cell": "gru", "bidirectional": False, "future_frames": 0},
]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def small(**options) -> DeepSpeech2:
    return DeepSpeech2(
        **{"vocab_size": 5, "num_bins": 9, "hidden_size": 16, "num_recurrent_layers": 2, **options}
    )


def batch_of(items: list[Tensor], *, filling: float, extra_frames: int = 0) -> tuple[Tensor, Tensor]:
    """A padded batch and its lengths, with ``filling`` in the padding."""
    padded = nn.utils.rnn.pad_sequence(items, batch_first=True, padding_value=filling)
    return F.pad(padded, (0, 0, 0, extra_frames), value=filling), torch.tensor([len(item) for item in items])


def utterances(lengths: list[int]) -> list[Tensor]:
    return [torch.randn(length, 9) for length in lengths]


def parameters_of(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_table_8():
    with torch.device("meta"):
        model = DeepSpeech2()
    assert parameters_of(model.conv1) == 19_616
    assert parameters_of(model.conv2) == 239_168
    assert [parameters_of(layer) for layer in model.recurrent] == [8_507_840, *[9_296_320] * 6]
    assert parameters_of(model.fc) == 3_101_120
    assert parameters_of(model.output) == 51_069  # 95,054 in the table: see the class
    assert parameters_of(model) == 19_616 + 239_168 + 8_507_840 + 6 * 9_296_320 + 3_101_120 + 51_069


def test_without_norm_of_recurrent_layers_and_without_its_fc_layer_it_has_none_of_their_parameters():
    with torch.device("meta"):
        model = DeepSpeech2(recurrent_norm=False, last_fc=False)
    # A layer's scale and shift make way for a bias.
    assert [parameters_of(layer) for layer in model.recurrent] == [8_506_080, *[9_294_560] * 6]
    assert parameters_of(model.fc) == 0


def test_output_frames_are_the_convolutions():
    model = small()
    for num_frames in range(1, 50):
        out_frames = model.conv2.conv(model.conv1.conv(torch.zeros(1, 1, 9, num_frames))).shape[-1]
        assert DeepSpeech2.output_frames(num_frames) == out_frames
        assert DeepSpeech2.output_frames(torch.tensor([num_frames])).tolist() == [out_frames]


def slow_norm(rows: Tensor, norm: nn.BatchNorm1d) -> Tensor:
    """In evaluation: by the running statistics."""
    return (rows - norm.running_mean) / (norm.running_var + norm.eps).sqrt() * norm.weight + norm.bias


def slow_convolution(layer: nn.Module, image: Tensor) -> Tensor:
    """``image`` [channels, bins, frames] through one layer, a channel and bin at a time by its own norm."""
    convolved = F.conv2d(
        image[None], layer.conv.weight, stride=layer.conv.stride, padding=layer.conv.padding
    )[0]
    out = torch.empty_like(convolved)
    for channel in range(convolved.shape[0]):
        for bin_ in range(convolved.shape[1]):
            one = channel * convolved.shape[1] + bin_
            norm, values = layer.norm, convolved[channel, bin_]
            scale = norm.weight[one] / (norm.running_var[one] + norm.eps).sqrt()
            out[channel, bin_] = (values - norm.running_mean[one]) * scale + norm.bias[one]
    return out.clamp(0, 20)


def slow_recurrence(projected: Tensor, weight: Tensor) -> Tensor:
    states, state = [], torch.zeros(projected.shape[1])
    for x in projected:
        state = (x + weight @ state).clamp(0, 20)
        states.append(state)
    return torch.stack(states)


def slow_recurrent_layer(layer: nn.Module, hidden: Tensor) -> Tensor:
    projected = layer.input(hidden)
    if isinstance(layer.norm, nn.BatchNorm1d):
        projected = slow_norm(projected, layer.norm)
    output = slow_recurrence(projected, layer.weight_recurrent[0])
    if len(layer.weight_recurrent) == 2:
        output = output + slow_recurrence(projected.flip(0), layer.weight_recurrent[1]).flip(0)
    return output


def slow_row_convolution(weight: Tensor, hidden: Tensor) -> Tensor:
    """Equation (9) of the DeepSpeech 2 paper; ``weight`` [units, 1, frames ahead + 1]."""
    out = torch.zeros_like(hidden)
    for t in range(len(hidden)):
        for ahead in range(min(weight.shape[-1], len(hidden) - t)):
            out[t] += weight[:, 0, ahead] * hidden[t + ahead]
    return out


def slow_deepspeech2(model: DeepSpeech2, features: Tensor) -> Tensor:
    """The network with plain cells, in evaluation, for one utterance [frames, bins]."""
    image = slow_convolution(model.conv2, slow_convolution(model.conv1, features.T[None]))
    hidden = image.flatten(0, 1).T
    for layer in model.recurrent:
        hidden = slow_recurrent_layer(layer, hidden)
    if model.row_conv is not None:
        hidden = slow_row_convolution(model.row_conv.conv.weight, hidden)
    if isinstance(model.fc, nn.Sequential):
        hidden = slow_norm(hidden @ model.fc[0].weight.T, model.fc[1]).clamp(0, 20)
    return (hidden @ model.output.weight.T + model.output.bias).log_softmax(-1)


def with_statistics(model: DeepSpeech2) -> DeepSpeech2:
    """In evaluation, its norms with scales, shifts and running statistics that are all different."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias)
            nn.init.normal_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


@pytest.mark.parametrize(
    "options",
    [{}, {"bidirectional": False, "future_frames": 3}, {"recurrent_norm": False}, {"last_fc": False}],
)
def test_against_the_equations(options):
    model, items = with_statistics(small(**options)), utterances(LENGTHS)
    log_probs, out_lengths = model(*batch_of(items, filling=math.nan))
    assert out_lengths.tolist() == [12, 1, 20, 6, 1, 6]
    for item, output, length in zip(items, log_probs, out_lengths, strict=True):
        torch.testing.assert_close(output[:length], slow_deepspeech2(model, item), atol=1e-4, rtol=1e-4)
        assert (output[length:] == 0).all()


@pytest.mark.parametrize("filling", [0.0, math.nan])
@pytest.mark.parametrize("options", KINDS)
def test_neither_batch_nor_padding_changes_log_probs(options, filling):
    model = with_statistics(small(**options))
    items = utterances([11, *torch.randint(1, 60, (15,)).tolist()])
    alone, _ = model(items[0].unsqueeze(0), torch.tensor([11]))
    together, out_lengths = model(*batch_of(items, filling=filling, extra_frames=9))
    assert out_lengths[0] == 6
    torch.testing.assert_close(together[0, :6], alone[0], atol=1e-5, rtol=1e-5)


def ctc_gradients(model: DeepSpeech2, features: Tensor, num_frames: Tensor) -> dict[str, Tensor]:
    log_probs, out_lengths = model(features, num_frames)
    tokens = torch.tensor([[1, 2]] * len(num_frames))
    loss = F.ctc_loss(
        log_probs.transpose(0, 1), tokens, out_lengths, torch.tensor([2] * len(num_frames)), reduction="sum"
    )
    model.zero_grad()
    loss.backward()
    return {"loss": loss.detach(), **{name: p.grad.clone() for name, p in model.named_parameters()}}


@pytest.mark.parametrize("options", KINDS)
def test_padding_changes_neither_loss_nor_gradients_in_training(options):
    model = small(**options).double().train()
    items = [item.double() for item in utterances([23, 8, 40, 12])]
    tight = ctc_gradients(model, *batch_of(items, filling=0.0))
    wide = ctc_gradients(model, *batch_of(items, filling=math.nan, extra_frames=33))
    assert tight["loss"].isfinite()
    torch.testing.assert_close(
        wide, tight, atol=1e-4, rtol=1e-4
    )  # the log-probabilities are in single precision


def test_norms_of_the_convolutions_are_of_valid_frames_by_channel_and_bin():
    model = small().train()
    items = utterances(LENGTHS)
    model(*batch_of(items, filling=5.0, extra_frames=10))
    convolved = [model.conv1.conv(item.T[None, None])[0] for item in items]  # an utterance at a time
    frames = torch.cat([one.flatten(0, 1).T for one in convolved])
    norm = model.conv1.norm
    torch.testing.assert_close(norm.running_mean, 0.1 * frames.mean(0))  # from 0, with momentum 0.1
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * frames.var(0))  # from 1


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_gated_layers_are_torchs_summed_over_directions(cell):
    model = with_statistics(small(cell=cell))
    hidden = torch.randn(1, 6, 16)
    layer = model.recurrent[1]
    outputs = layer.rnn(layer.norm(hidden[0]))[0]
    packing = FramePacking.of(torch.tensor([6]), 6, hidden.device)
    torch.testing.assert_close(layer(hidden[0], packing), outputs[:, :16] + outputs[:, 16:])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("last_fc", [True, False])
def test_gated_layers_are_torchs_with_directions_concatenated(cell, last_fc):
    model = with_statistics(
        small(cell=cell, directions="concatenated", last_fc=last_fc, recurrent_norm=False)
    )
    hidden, packing = torch.randn(1, 6, 32), FramePacking.of(torch.tensor([6]), 6, torch.device("cpu"))
    outputs = model.recurrent[1].rnn(hidden[0])[0]
    torch.testing.assert_close(model.recurrent[1](hidden[0], packing), outputs)
    assert (model.fc[0] if last_fc else model.output).in_features == 32
    assert model(torch.randn(2, 30, 9), torch.tensor([30, 17]))[0].shape == (2, 15, 5)


@pytest.mark.parametrize("options", [{"cell": "relu"}, {"cell": "gru", "bidirectional": False}])
def test_directions_that_cannot_be_concatenated_are_refused(options):
    with pytest.raises(ValueError, match="directions can be concatenated of bidirectional gru or lstm"):
        small(directions="concatenated", **options)


@pytest.mark.parametrize("cell", ["relu", "gru", "lstm"])
def test_looking_ahead_ends_where_it_should(cell):
    """Without the backward direction a frame depends on no more than the convolutions and the row convolution see."""
    future = 3
    model = with_statistics(small(cell=cell, bidirectional=False, future_frames=future))
    features = torch.randn(1, 80, 9)
    changed = features.clone()
    changed[0, 60:] += 1
    before, after = (model(one, torch.tensor([80]))[0][0] for one in (features, changed))
    is_same = (before == after).all(-1)
    sees_ahead = future * 2 + 5 * 2 + 5  # in feature frames: row convolution, second and first convolution
    first_reached = next(t for t in range(40) if 2 * t + sees_ahead >= 60)
    assert is_same[:first_reached].all()
    assert not is_same[first_reached:].any()


def test_both_directions_see_everything():
    model = with_statistics(small())
    features = torch.randn(1, 80, 9)
    changed = features.clone()
    changed[0, 79] += 10
    before, after = (model(one, torch.tensor([80]))[0][0] for one in (features, changed))
    assert not torch.equal(before[0], after[0])


def test_dropout_acts_in_training_only():
    model, batch = small(dropout=0.5), (torch.randn(2, 30, 9), torch.tensor([30, 17]))
    assert not torch.equal(model.train()(*batch)[0], model(*batch)[0])
    assert torch.equal(model.eval()(*batch)[0], model(*batch)[0])


@pytest.mark.parametrize(
    "options", [{"num_recurrent_layers": 0}, {"future_frames": -1, "bidirectional": False}]
)
def test_options_out_of_range_are_named(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        small(**options)


def trained_once(model: nn.Module, features: Tensor, num_frames: Tensor) -> dict[str, Tensor]:
    """Loss, gradients and buffers after one pass in training, with dropout."""
    torch.manual_seed(1)
    log_probs, out_frames = model.train()(features, num_frames)
    labels = torch.ones(len(num_frames), 1, dtype=torch.long)
    loss = F.ctc_loss(log_probs.transpose(0, 1), labels, out_frames, torch.ones(len(num_frames)).long())
    loss.backward()
    return {
        "loss": loss.detach(),
        **{name: one.grad for name, one in model.named_parameters()},
        **dict(model.named_buffers()),
    }


@pytest.mark.parametrize("options", KINDS)
def test_recomputed_layers_change_no_gradient_and_no_statistic(options):
    kept = small(dropout=0.3, **options)
    again = small(dropout=0.3, recompute_layers=True, **options)
    again.load_state_dict(kept.state_dict())
    batch = batch_of(utterances(LENGTHS), filling=0.0)
    expected, found = trained_once(kept, *batch), trained_once(again, *batch)
    assert int(found["conv2.norm.num_batches_tracked"]) == 1
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


def test_it_trains_after_it_was_judged():
    """What is cached while a network is judged must serve training, too."""
    bin_products.cache_clear()
    model, batch = small(), batch_of(utterances(LENGTHS), filling=0.0)
    with torch.inference_mode():
        model.eval()(*batch)
    assert all(one is not None for one in trained_once(model, *batch).values())


def test_recomputed_layers_keep_less():
    """What autograd saves, counted by its own hooks."""
    batch = batch_of(utterances([200] * 4), filling=0.0)
    kept: dict[bool, int] = {}
    for recompute in (False, True):
        saved: list[int] = []

        def note(tensor: Tensor, saved: list[int] = saved) -> Tensor:
            saved.append(tensor.numel())
            return tensor

        model = small(recompute_layers=recompute, num_recurrent_layers=4).train()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model(*batch)
        kept[recompute] = sum(saved)
    assert kept[True] < kept[False] / 3


@pytest.mark.parametrize("num_frames", [[0, 5], [5, 6], [-3, 5]])
def test_lengths_out_of_range(num_frames):
    with pytest.raises(ValueError, match=r"must be in \[1, 5\]"):
        small()(torch.randn(2, 5, 9), torch.tensor(num_frames))


def test_the_same_whichever_convolution_a_processor_is_faster_at(monkeypatch):
    model, batch = small(num_bins=80), (torch.randn(2, 30, 80), torch.tensor([30, 17]))
    outcomes = []
    for on_avx2 in (False, True):
        monkeypatch.setattr(deepspeech2, "ON_AVX2", on_avx2)
        model.zero_grad()
        log_probs, _ = model(*batch)
        log_probs.square().sum().backward()
        outcomes.append((log_probs.detach(), model.conv1.conv.weight.grad.clone()))
    torch.testing.assert_close(*outcomes, rtol=1e-4, atol=1e-4)
    assert not torch.equal(outcomes[0][1], outcomes[1][1])  # two ways were taken


@pytest.mark.parametrize("options", KINDS)
def test_bfloat16_autocast_trains(options):
    model = small(**options).train()
    with torch.autocast("cpu", torch.bfloat16):
        log_probs, _ = model(torch.randn(2, 30, 9), torch.tensor([30, 17]))
    assert log_probs.dtype == torch.float32
    log_probs.sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in model.parameters())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("options", KINDS)
def test_same_on_the_gpu(options):
    model, items = with_statistics(small(**options)), utterances(LENGTHS)
    features, num_frames = batch_of(items, filling=math.nan)
    expected, _ = model(features, num_frames)
    model.cuda()
    for lengths in (num_frames, num_frames.cuda()):
        actual, _ = model(features.cuda(), lengths)
        torch.testing.assert_close(actual.cpu(), expected, atol=1e-4, rtol=1e-4)


def test_blank_may_begin_more_likely_and_nothing_else_changes():
    """Item by item, against the plain network of the same seed: e^3 times the odds of blank."""
    torch.manual_seed(0)
    plain = DeepSpeech2(num_bins=24, hidden_size=8)
    torch.manual_seed(0)
    model = DeepSpeech2(num_bins=24, hidden_size=8, blank_bias=3.0)
    features, num_frames = torch.randn(2, 30, 24), torch.tensor([30, 30])
    before, after = (one.eval()(features, num_frames)[0].double() for one in (plain, model))
    odds = torch.stack([one[..., 0] - one[..., 1:].logsumexp(-1) for one in (before, after)])
    torch.testing.assert_close(odds[1] - odds[0], torch.full_like(odds[0], 3.0), rtol=0, atol=1e-4)
    others = (after - before)[..., 1:]
    torch.testing.assert_close(others, others[..., :1].expand_as(others), rtol=0, atol=1e-4)
