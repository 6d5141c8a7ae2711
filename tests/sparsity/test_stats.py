"""Measured sparsity, counted by hand; weight statistics against NumPy on the list of the weights."""

import copy
import json
import math
from dataclasses import asdict, replace
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from seqdsd.sparsity import MaskSet, Rule, magnitude_mask, measured_sparsity, resolve
from seqdsd.sparsity.stats import LayerStatistics, Moment, weight_statistics

CENTRE = 50  # of 101 bins
FLOAT_TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def model() -> nn.Linear:
    layer = nn.Linear(3, 2)
    layer.weight.data = torch.tensor([[0.0, 1.0, -0.0], [1e-30, 2.0, 0.0]])
    layer.bias.data = torch.zeros(2)
    return layer


@pytest.mark.parametrize(
    ("names", "share"), [(["weight"], 3 / 6), (["weight", "bias"], 5 / 8), (["bias"], 1), ([], 0)]
)
def test_by_hand(model, names, share):
    assert measured_sparsity(model, names) == share
    assert measured_sparsity(model, iter(names)) == share


def test_a_name_that_the_model_does_not_have(model):
    with pytest.raises(ValueError, match="no parameters 'wait'"):
        measured_sparsity(model, ["weight", "wait"])


def test_names_are_the_bare_models_in_a_wrapper_and_of_tied_weights_any():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    masks = MaskSet.from_magnitude(model, resolve(model, [Rule("1.weight")], 0.5))
    masks.apply_()
    wrapped = torch.compile(AveragedModel(model), backend="eager")
    assert measured_sparsity(wrapped, ["0.weight"]) == measured_sparsity(wrapped, ["1.weight"]) == 4 / 9
    assert weight_statistics(wrapped, masks) == weight_statistics(model, masks)


class Holder(nn.Module):
    """Parameters and nothing else."""

    def __init__(self, **weights: Tensor) -> None:
        super().__init__()
        for name, weight in weights.items():
            self.register_parameter(name, nn.Parameter(weight))


def pruned_by(sparsity: float, **weights: Tensor) -> tuple[Holder, MaskSet]:
    """A model of these weights, and masks that would prune a share of each."""
    model = Holder(**weights)
    masks = {name: magnitude_mask(weight, sparsity) for name, weight in weights.items()}
    return model, MaskSet(model, masks)


def describe(weight: Tensor, sparsity: float = 0.5) -> LayerStatistics:
    (statistics,) = weight_statistics(*pruned_by(sparsity, w=weight))
    return statistics


def numpy_statistics(
    weight: Tensor, mask: Tensor, *, high: float | None = None, threshold: float | None = None
) -> dict[str, object]:
    """The slow way, in float64 on the host; histograms over edges that are made here."""
    values, kept = weight.detach().double().flatten().numpy(), mask.flatten().numpy()
    magnitude = np.abs(values)
    high = float(magnitude.max()) if high is None else high
    threshold = float(magnitude[~kept].max()) if threshold is None else threshold
    edges = np.linspace(-high, high, 102)
    return {
        "name": "w",
        "shape": tuple(weight.shape),
        "weights": len(values),
        "low": -high,
        "high": high,
        "histogram": tuple(np.histogram(np.clip(values, -high, high), edges)[0].tolist()),
        "threshold": threshold,
        "zeros": sum(1 for value in values if value == 0),
        "mean": pytest.approx(values.mean(), rel=1e-5, abs=1e-6 * high),
        "sd": pytest.approx(values.std(), rel=1e-5, abs=1e-6 * high),
        "mean_abs": pytest.approx(magnitude.mean(), rel=1e-5),
        "pruned": sum(1 for keep in kept if not keep),
        "pruned_mean_abs": pytest.approx(magnitude[~kept].mean(), rel=1e-5),
        "kept_mean_abs": pytest.approx(magnitude[kept].mean(), rel=1e-5),
        "pruned_near_zero": sum(1 for value in magnitude[~kept] if value <= threshold),
    }


def test_six_weights_by_hand():
    """Of 101 bins over [-10.1, 10.1] each is 0.2 wide: bin 50 is [-0.1, 0.1), 55 is [0.9, 1.1)."""
    model, masks = pruned_by(0.5, w=torch.tensor([[10.1, -1.0, 4.0], [0.0, 2.0, -6.0]]))
    (before,) = weight_statistics(model, masks)
    assert before.low == pytest.approx(-10.1)
    assert before.high == pytest.approx(10.1)
    assert bins(before) == {20: 1, 45: 1, 50: 1, 60: 1, 70: 1, 100: 1}
    assert (before.weights, before.zeros, before.pruned, before.threshold) == (6, 1, 3, 2.0)
    assert before.mean == pytest.approx(9.1 / 6)
    assert before.mean_abs == pytest.approx(23.1 / 6)
    assert before.sd == pytest.approx(math.sqrt((102.01 + 1 + 16 + 0 + 4 + 36) / 6 - (9.1 / 6) ** 2))
    assert before.pruned_mean_abs == pytest.approx(1.0)
    assert before.kept_mean_abs == pytest.approx(20.1 / 3)
    assert (before.pruned_near_zero, before.near_zero_share) == (3, 1.0)

    # As if retrained: an outlier on either side, a pruned weight within the threshold, at it, and beyond it.
    model.w.data = torch.tensor([[30.0, 1.0, -20.0], [-2.0, 2.2, -6.0]])
    (after,) = weight_statistics(model, masks, earlier=[before])
    assert (after.low, after.high, after.threshold) == (before.low, before.high, before.threshold)
    assert bins(after) == {0: 1, 20: 1, 40: 1, 55: 1, 61: 1, 100: 1}
    assert (after.zeros, after.pruned, after.pruned_near_zero) == (0, 3, 2)
    assert after.near_zero_share == pytest.approx(2 / 3)
    assert after.pruned_mean_abs == pytest.approx(5.2 / 3)
    assert after.kept_mean_abs == pytest.approx(56 / 3)


def bins(statistics: LayerStatistics) -> dict[int, int]:
    """The bins that are not empty."""
    assert len(statistics.histogram) == 101
    return {index: count for index, count in enumerate(statistics.histogram) if count}


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_random_weights_against_numpy(dtype):
    weight = (torch.randn(300, 70) * 0.03 + 0.002).to(dtype)
    model, masks = pruned_by(0.3, w=weight)
    (before,) = weight_statistics(model, masks)
    assert asdict(before) == numpy_statistics(weight, masks.masks["w"])
    model.w.data = (torch.randn(300, 70) * 0.05).to(dtype)
    (after,) = weight_statistics(model, masks, earlier=[before])
    frame = {"high": before.high, "threshold": before.threshold}
    assert asdict(after) == numpy_statistics(model.w, masks.masks["w"], **frame)
    assert 0 < after.pruned_near_zero < after.pruned
    assert model.w.dtype == dtype


# Squares of weights below 1e-19 underflow in float32, and with them the standard deviation.
sizes = st.floats(2.0**-50, 1000, width=32)
weight_lists = st.lists(
    st.sampled_from([0.0, -0.0, 0.25, -0.25, 0.5]) | sizes | sizes.map(float.__neg__), min_size=2, max_size=40
)


@settings(deadline=None)
@given(weight_lists.filter(any), st.floats(0.26, 0.74), weight_lists)
def test_any_weights_against_numpy(first, sparsity, later):
    later = (later * len(first))[: len(first)]
    model, masks = pruned_by(sparsity, w=torch.tensor(first))
    (before,) = weight_statistics(model, masks)
    assert asdict(before) == numpy_statistics(torch.tensor(first), masks.masks["w"])
    model.w.data = torch.tensor(later)
    (after,) = weight_statistics(model, masks, earlier=[before])
    frame = {"high": before.high, "threshold": before.threshold}
    assert asdict(after) == numpy_statistics(torch.tensor(later), masks.masks["w"], **frame)


@settings(deadline=None)
@given(st.floats(2.0**-20, 2.0**20, width=32), st.sampled_from([np.float32, np.float64]))
def test_weights_at_and_beside_the_edges(high, dtype):
    """Compared exactly with the edges in float64, and not with these rounded to the weights' type."""
    edges = np.linspace(-high, high, 102)[1:-1].astype(dtype)
    below, above = np.nextafter(edges, dtype(-np.inf)), np.nextafter(edges, dtype(np.inf))
    values = np.concatenate([edges, below, above, np.array([high, -high], dtype)])
    expected = np.histogram(values.astype(np.float64), np.linspace(-high, high, 102))[0]
    statistics = describe(torch.from_numpy(values))
    assert statistics.histogram == tuple(expected.tolist())
    assert statistics.edges == tuple(np.linspace(-high, high, 102).tolist())


def test_counts_past_what_float32_can_count():
    weight = torch.zeros(2**24 + 3)
    weight[0] = 1.0
    model = Holder(w=weight)
    (statistics,) = weight_statistics(model, MaskSet(model, {"w": weight > 0}))
    assert bins(statistics) == {CENTRE: 2**24 + 2, 100: 1}
    assert (statistics.zeros, statistics.pruned) == (2**24 + 2, 2**24 + 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sums_of_16_bit_weights_do_not_stall(dtype):
    statistics = describe(torch.full((500, 200), 0.5, dtype=dtype))
    assert (statistics.mean, statistics.mean_abs, statistics.sd) == (0.5, 0.5, 0.0)


@pytest.mark.parametrize("sparsity", [0.25, 0.5, 0.8])
def test_a_round(sparsity):
    """The five moments in the order of Figure 2, with a real optimizer between them."""
    model = nn.Sequential(nn.Linear(20, 40), nn.Tanh(), nn.Linear(40, 3))
    masks = MaskSet.from_magnitude(model, resolve(model, [Rule("*")], sparsity))
    untouched = copy.deepcopy(model.state_dict())
    first = weight_statistics(model, masks)
    assert all(torch.equal(model.state_dict()[name], weight) for name, weight in untouched.items())
    moments = {"before pruning": first}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    handle = masks.attach(optimizer)
    moments["after pruning"] = weight_statistics(model, masks, earlier=first)
    train(model, optimizer)
    moments["after sparse retraining"] = weight_statistics(model, masks, earlier=first)
    handle.remove()
    moments["after restoring"] = weight_statistics(model, masks, earlier=first)
    train(model, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9))
    moments["after redense retraining"] = weight_statistics(model, masks, earlier=first)

    assert tuple(moments) == get_args(Moment)
    for layer, name in enumerate(["0.weight", "2.weight"]):
        rows = [statistics[layer] for statistics in moments.values()]
        assert {row.name for row in rows} == {name}
        assert len({(row.low, row.high, row.edges, row.threshold, row.pruned) for row in rows}) == 1
        assert all(sum(row.histogram) == row.weights for row in rows)
        before, pruned, sparse, restored, redense = rows
        assert before.pruned == round(before.weights * sparsity)
        assert_only_the_pruned_weights_went(before, pruned)
        assert sparse.zeros >= sparse.pruned == sparse.pruned_near_zero
        assert sparse.kept_mean_abs != pruned.kept_mean_abs
        assert restored == sparse
        assert redense.zeros < redense.pruned
        assert redense.pruned_mean_abs > 0


def assert_only_the_pruned_weights_went(before: LayerStatistics, after: LayerStatistics) -> None:
    """Into the centre, from elsewhere; and what is kept is as it was."""
    moved = [old - new for old, new in zip(before.histogram, after.histogram, strict=True)]
    edges = np.array(before.edges)
    reach = [
        bool(low <= before.threshold and high >= -before.threshold)
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    assert sum(moved) == 0
    assert moved[CENTRE] < 0
    assert all(count == 0 for count, reached in zip(moved, reach, strict=True) if not reached)
    assert all(count >= 0 for index, count in enumerate(moved) if index != CENTRE)
    assert after.zeros >= after.pruned == after.pruned_near_zero == before.pruned_near_zero
    assert after.pruned_mean_abs == 0.0
    assert after.kept_mean_abs == before.kept_mean_abs
    lost = before.pruned_mean_abs * before.pruned / before.weights
    assert after.mean_abs == pytest.approx(before.mean_abs - lost, rel=1e-5)


def test_the_centre_gains_exactly_the_pruned_weights_outside_it():
    weight = torch.randn(50, 50)
    model, masks = pruned_by(0.5, w=weight)
    (before,) = weight_statistics(model, masks)
    half_a_bin = float(weight.abs().max()) / 101
    outside = int(((weight.abs() > half_a_bin) & ~masks.masks["w"]).sum())
    masks.apply_()
    (after,) = weight_statistics(model, masks, earlier=[before])
    assert after.histogram[CENTRE] - before.histogram[CENTRE] == outside > 0


def train(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    inputs, targets = torch.randn(64, 20), torch.randn(64, 3)
    for _ in range(10):
        optimizer.zero_grad()
        nn.functional.mse_loss(model(inputs), targets).backward()
        optimizer.step()


def test_layers_come_in_the_masks_order_each_on_its_own():
    weights = {"b": torch.randn(4, 5), "a": torch.randn(7) * 100, "c": torch.randn(2, 3, 2).double()}
    model, masks = pruned_by(0.5, **weights)
    together = weight_statistics(model, masks)
    assert [one.name for one in together] == ["b", "a", "c"]
    assert [one.shape for one in together] == [(4, 5), (7,), (2, 3, 2)]
    for one in together:
        assert one == replace(describe(weights[one.name]), name=one.name)


def test_parameters_without_a_mask_are_left_out():
    model = nn.Linear(3, 2)
    (statistics,) = weight_statistics(model, MaskSet.from_magnitude(model, resolve(model, [Rule("*")], 0.5)))
    assert statistics.name == "weight"


def test_non_contiguous_weights():
    weight = torch.randn(6, 10)
    contiguous = describe(weight.T.contiguous())
    assert describe(weight.T) == contiguous
    assert describe(torch.randn(9, 4)[::2, ::3]).weights == 10


def test_a_layer_of_which_nothing_is_pruned():
    statistics = describe(torch.tensor([1.0, -2.0, 0.0]), sparsity=0.0)
    assert (statistics.pruned, statistics.pruned_near_zero) == (0, 0)
    assert statistics.threshold is statistics.pruned_mean_abs is statistics.near_zero_share is None
    assert statistics.kept_mean_abs == statistics.mean_abs == 1.0
    model, masks = pruned_by(0.0, w=torch.ones(3))
    (later,) = weight_statistics(model, masks, earlier=[statistics])
    assert later.threshold is None
    assert later.pruned_near_zero == 0


def test_a_layer_of_which_all_is_pruned():
    model = Holder(w=torch.tensor([1.0, -3.0]))
    (statistics,) = weight_statistics(model, MaskSet(model, {"w": torch.tensor([False, False])}))
    assert (statistics.threshold, statistics.pruned_mean_abs, statistics.kept_mean_abs) == (3.0, 2.0, None)


def test_a_layer_without_weights():
    statistics = describe(torch.zeros(0, 4))
    assert (statistics.shape, statistics.weights, statistics.histogram) == ((0, 4), 0, (0,) * 101)
    numbers = [statistics.mean, statistics.sd, statistics.mean_abs, statistics.threshold]
    assert [*numbers, statistics.kept_mean_abs, statistics.pruned_mean_abs] == [None] * 6


def test_a_layer_of_zeros_has_a_range_nevertheless():
    model, masks = pruned_by(0.5, w=torch.zeros(8))
    (before,) = weight_statistics(model, masks)
    assert (before.low, before.high, before.threshold, before.zeros) == (-1.0, 1.0, 0.0, 8)
    assert bins(before) == {CENTRE: 8}
    model.w.data = torch.full((8,), 0.1)
    (later,) = weight_statistics(model, masks, earlier=[before])
    assert bins(later) == {55: 8}
    assert (later.pruned, later.pruned_near_zero) == (4, 0)


def test_a_single_weight():
    assert describe(torch.tensor(-3.0), sparsity=0).sd == 0.0


def test_through_json_and_on():
    """As after a resume: what a round began with comes from the run folder."""
    model, masks = pruned_by(0.4, w=torch.randn(9, 5), dense=torch.randn(1), empty=torch.zeros(0))
    first = weight_statistics(model, masks)
    text = json.dumps([asdict(one) for one in first], allow_nan=False)
    restored = [LayerStatistics.from_json(one) for one in json.loads(text)]
    assert restored == first
    masks.apply_()
    assert weight_statistics(model, masks, earlier=restored) == weight_statistics(model, masks, earlier=first)


def test_the_fields_are_those_of_the_run_folder():
    assert list(asdict(describe(torch.randn(4)))) == [
        *("name", "shape", "weights", "low", "high", "histogram", "threshold", "zeros", "mean", "sd"),
        *("mean_abs", "pruned", "pruned_mean_abs", "kept_mean_abs", "pruned_near_zero"),
    ]


@pytest.mark.parametrize("change", [{"colour": 1}, {"zeros": None}])
def test_json_of_another_version(change):
    row = asdict(describe(torch.randn(4)))
    for name, value in change.items():
        if value is None:
            del row[name]
        else:
            row[name] = value
    with pytest.raises(ValueError, match=next(iter(change))):
        LayerStatistics.from_json(row)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("is_first", [True, False])
def test_weights_that_are_not_finite(bad, kept, is_first):
    model, masks = pruned_by(0.5, good=torch.randn(4), broken=torch.tensor([1.0, 2.0]))
    first = weight_statistics(model, masks)
    model.broken.data[int(kept)] = bad
    with pytest.raises(ValueError, match="^broken: .* NaN or infinite"):
        weight_statistics(model, masks, earlier=[] if is_first else first)


def test_earlier_statistics_of_other_layers():
    model, masks = pruned_by(0.5, w=torch.randn(4), v=torch.randn(6))
    first = weight_statistics(model, masks)
    for wrong in (first[:1], first[::-1], [replace(first[0], shape=(2, 2)), first[1]]):
        with pytest.raises(ValueError, match="the earlier statistics are of"):
            weight_statistics(model, masks, earlier=wrong)


def test_earlier_statistics_of_another_round():
    weight = torch.randn(8)
    model, masks = pruned_by(0.25, w=weight)
    with pytest.raises(ValueError, match=r"w: the masks prune 2 weights, in the earlier statistics 4;"):
        weight_statistics(model, masks, earlier=[describe(weight, sparsity=0.5)])


def test_masks_of_another_model():
    _, masks = pruned_by(0.5, w=torch.randn(4))
    with pytest.raises(ValueError, match="the model has no parameters 'w'"):
        weight_statistics(Holder(other=torch.randn(4)), masks)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_the_same_counts_on_a_gpu(dtype):
    weight = torch.randn(500, 300).to(dtype)
    on_cpu, on_gpu = describe(weight), describe(weight.cuda())
    assert on_gpu.histogram == on_cpu.histogram
    for name, value in asdict(on_cpu).items():
        assert getattr(on_gpu, name) == (
            pytest.approx(value, rel=1e-4) if isinstance(value, float) else value
        )
