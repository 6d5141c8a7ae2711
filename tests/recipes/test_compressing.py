"""Which steps a compression takes, by scores made up for them, and what may be asked of one."""

from typing import Any

import msgspec
import pytest
from torch import nn

from seqdsd.config import to_values
from seqdsd.kinds import BLEU, CLASSIFICATION, SPEECH, TOP1_ERROR
from seqdsd.recipes import ds1
from seqdsd.recipes.compressing.search import Search, Step, Tensors
from seqdsd.recipes.compressing.settings import CompressSettings
from seqdsd.sparsity.sensitivity import Sensitivity


class Net(nn.Module):
    """A convolution, a table, a layer, and one that is too small."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(10, 20, 5)
        self.words = nn.Embedding(50, 8)
        self.norm = nn.LayerNorm([20, 8])
        self.fc = nn.Linear(100, 50)
        self.tiny = nn.Linear(7, 9)


def search_for(metric=TOP1_ERROR, **asked: Any) -> Search:
    settings = CompressSettings(**asked).resolved(ds1.Config(), CLASSIFICATION)
    return Search(settings, metric, Tensors.of(Net(), settings))


def walk(search: Search, score_of, *, key: str = "top1_error", first_bits: int = 5):
    """All steps, where ``score_of(step)`` is the score on dev that each comes to; the dense network has 0.1 or 10."""
    records = [{"name": "Dense", "dev": {key: 0.1 if key == "top1_error" else 10.0}}]
    steps: list[Step] = []
    scan = [
        Sensitivity(name, count, {1.0: 0.1, 0.5: 0.2, 0.1: 1.0, 0.015: 3.0})
        for name, count in search.tensors.weights.items()
        if name in search.tensors.free
    ]

    def advance() -> Step | None:
        return search.next_step(steps, records, scan=lambda: scan, first_bits=lambda name: first_bits)

    while (step := advance()) is not None:
        steps.append(step)
        kind = {"sparse": "Pruned", "shared": "Shared"}[step.kind]
        number = sum(one.kind == step.kind for one in steps)
        records.append({"name": f"{kind} {number}", "dev": {key: score_of(step)}})
        assert len(steps) < 40
    return steps, search.chosen(steps, records)


def bits_of(steps):
    return [step.bits["fc.weight"] for step in steps if step.kind == "shared"]


def test_pruning_goes_on_while_the_score_holds_and_sharing_begins_with_the_last_that_does():
    search = search_for(max_loss=0.2)
    steps, _ = walk(search, lambda step: 0.1 + (0.003 if step.sparsity > 0.85 else 0.0))
    pruned = [step for step in steps if step.kind == "sparse"]
    assert [step.sparsity > 0.85 for step in pruned] == [False, False, True, True]
    assert [step.begin_with for step in pruned] == ["Dense", "Pruned 1", "Pruned 2", "Pruned 3"]
    assert {step.begin_with for step in steps if step.kind == "shared"} == {"Pruned 2"}


def test_one_unlucky_step_does_not_end_it():
    steps, _ = walk(
        search_for(), lambda step: 0.2 if 0.75 < step.sparsity < 0.82 or step.sparsity > 0.9 else 0.1
    )
    pruned = [step for step in steps if step.kind == "sparse"]
    assert len(pruned) == 5 and steps[5].begin_with == "Pruned 3"


def test_where_no_pruning_holds_the_dense_weights_are_shared():
    steps, _ = walk(search_for(), lambda step: 0.2 if step.sparsity else 0.1)
    assert [step.begin_with for step in steps][:3] == ["Dense", "Pruned 1", "Dense"]


def test_a_loss_of_as_many_points_as_are_allowed_holds():
    search = search_for(max_loss=0.1)
    reference = {"dev": {"top1_error": 0.0088}}
    assert search.holds({"dev": {"top1_error": 0.0098}}, reference)
    assert not search.holds({"dev": {"top1_error": 0.0099}}, reference)


def test_of_a_score_that_is_better_when_higher_less_is_a_loss():
    search = search_for(BLEU[3], max_loss=0.3)
    assert search.points_lost({"dev": {"bleu4": 16.0}}, {"dev": {"bleu4": 16.4}}) == pytest.approx(0.4)
    _, (step, _) = walk(search, lambda step: 9.9 if step.bits.get("fc.weight", 9) >= 4 else 9.0, key="bleu4")
    assert step.bits["fc.weight"] == 4


@pytest.mark.parametrize(
    ("first", "least", "tried"),
    [(5, 2, [4, 3, 2]), (5, 4, [4, 3]), (5, 6, [4, 5, 6]), (5, 9, [4, 5, 6, 7, 8]), (2, 2, [2])],
)
def test_bits_are_searched_from_one_below_what_holds_untrained(first, least, tried):
    def score(step):
        return 0.1 if step.sparsity or step.bits["fc.weight"] >= least else 0.2 - step.bits["fc.weight"] / 100

    steps, (chosen, _) = walk(search_for(), score, first_bits=first)
    assert bits_of(steps) == tried
    assert chosen.bits["fc.weight"] == min(least, 8)


def test_what_is_given_is_not_searched():
    steps, (chosen, record) = walk(search_for(sparsity=0.8, bits=(8, 5)), lambda step: 0.9)
    assert [step.kind for step in steps] == ["sparse"] * 3 + ["shared"]
    assert [round(step.sparsity, 2) for step in steps[:3]] == pytest.approx([0.42, 0.66, 0.8], abs=0.01)
    assert steps[3].begin_with == "Pruned 3" and chosen is steps[3] and record["name"] == "Shared 1"
    assert chosen.bits == {"conv.weight": 8, "words.weight": 5, "fc.weight": 5}


def test_layers_have_their_own_sparsity_and_come_to_it_in_steps():
    search = search_for(layers=("fc=0.9", "conv.weight=0"), sparsity=0.5, steps=2)
    steps, _ = walk(search, lambda step: 0.1)
    one, two = (step.layers for step in steps[:2])
    assert one["fc.weight"] == pytest.approx(1 - 0.1**0.5) and two["fc.weight"] == pytest.approx(0.9)
    assert one["conv.weight"] == two["conv.weight"] == 0.0
    assert 0.4 < two["words.weight"] < 0.6  # the only one left


def test_nothing_is_pruned_where_all_layers_say_so():
    steps, _ = walk(search_for(layers=("*=0",)), lambda step: 0.1)
    assert {step.kind for step in steps} == {"shared"} and steps[0].begin_with == "Dense"


def test_weights_and_tables_are_compressed_and_nothing_else():
    settings = CompressSettings()
    tensors = Tensors.of(Net(), settings)
    assert tensors.weights == {"conv.weight": 1000, "words.weight": 400, "fc.weight": 5000}
    assert tensors.convolutions == {"conv.weight"}


def test_tensors_have_bits_of_their_own():
    search = search_for(sparsity=0.5, steps=1, bits=(8, 4), layer_bits=("fc=3", "[cf]*=6"))
    assert search.said()[1] == "Shared weights: of 8 and 4 bits; bits of conv.weight 6, fc.weight 3"
    [_, shared], _ = walk(search, lambda step: 0.1)
    assert {name: shared.bits[name] for name in ("conv.weight", "words.weight", "fc.weight")} == {
        "conv.weight": 6,
        "words.weight": 4,
        "fc.weight": 3,
    }


def test_where_some_have_bits_those_of_the_others_are_found():
    search = search_for(sparsity=0.5, steps=1, layer_bits=("conv=8",))
    steps, (chosen, _) = walk(
        search, lambda step: 0.1 if step.sparsity or step.bits["fc.weight"] >= 3 else 0.2
    )
    assert bits_of(steps) == [4, 3, 2] and chosen.bits["fc.weight"] == 3
    assert all(step.bits["conv.weight"] == 8 for step in steps if step.kind == "shared")
    assert search.said()[1].endswith("loses no more; bits of conv.weight 8")


def test_where_all_have_bits_none_are_found():
    search = search_for(sparsity=0.5, steps=1, layer_bits=("*=2",))
    steps, _ = walk(search, lambda step: 0.9)
    assert search.said()[1] == "Shared weights: bits of conv.weight 2, words.weight 2, fc.weight 2"
    assert [step.kind for step in steps] == ["sparse", "shared"] and set(steps[1].bits.values()) == {2}


def test_bits_for_no_tensor_are_refused():
    search = search_for(bits=(4,), layer_bits=("*=3",))
    with pytest.raises(ValueError, match=r"bits: 4 is for tensors that layer_bits does not name"):
        search.tensors.check(search.settings)


def test_of_a_pattern_that_stands_twice_the_first_decides():
    settings = CompressSettings(layer_bits=("fc=3", "fc=8"), layers=("fc=0.5", "fc=0.9"))
    assert settings.bits_by_pattern == {"fc": 3} and settings.layer_sparsities == {"fc": 0.5}


def test_a_sparsity_for_no_tensor_is_refused():
    search = search_for(sparsity=0.9, layers=("*=0.5",))
    with pytest.raises(ValueError, match=r"sparsity: 0\.9 is for tensors that layers does not name"):
        search.tensors.check(search.settings)


def test_the_plan_says_what_all_tensors_come_to():
    said = search_for(sparsity=0.9, layers=("fc=0",)).said()[0]
    weights = search_for().tensors.weights
    together = 0.9 * (1 - weights["fc.weight"] / sum(weights.values()))
    assert said == f"Pruning: in 3 steps, until {together:.1%} of the weights that may be pruned are 0"


def test_a_layer_that_matches_nothing_is_named():
    with pytest.raises(ValueError, match=r"layers: 'fx\.\*' matches no tensor .* there are conv.weight"):
        search_for(layers=("fx.*=0.5",))
    with pytest.raises(ValueError, match="layers: 'norm' matches no tensor"):
        search_for(layers=("norm=0.5",))


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"max_loss": -1.0}, r"max_loss must be in \[0, 100\] points, got -1.0"),
        ({"max_loss": float("nan")}, "max_loss"),
        ({"sparsity": 1.0}, r"must be in \(0, 0\.995\], got 1.0"),
        ({"layer_bits": ("fc=9",)}, "PATTERN=BITS, with 1 to 8 bits, got 'fc=9'"),
        ({"layer_bits": ("=4",)}, "PATTERN=BITS"),
        ({"sparsity": 0.999}, r"got 0\.999; name the tensors that are to lose more \(--layers\)"),
        ({"sparsity": 92.0}, "share of pruned weights"),
        ({"bits": (0,)}, r"bits must be in \[1, 8\], got 0"),
        ({"bits": (5, 9)}, "got 5 9"),
        ({"bits": (1, 2, 3)}, "one for convolutions and one for the others"),
        ({"layers": ("fc",)}, "PATTERN=SPARSITY"),
        ({"layers": ("fc=1.0",)}, "PATTERN=SPARSITY"),
        ({"layers": ("fc=x",)}, "PATTERN=SPARSITY"),
        ({"steps": 0}, "steps must be in"),
        ({"epochs": 0}, "epochs must be in"),
        ({"learning_rate": 0.0}, "learning_rate must be in"),
        ({"shared_learning_rate": float("inf")}, "shared_learning_rate must be in"),
    ],
)
def test_what_cannot_be_is_refused_with_its_range(asked, message):
    with pytest.raises(ValueError, match=message):
        CompressSettings(**asked)


def test_what_is_not_asked_is_the_runs_own():
    run = ds1.Config(epochs=(30, 12, 5), learning_rates=(0.4, 0.2, 0.1))
    settings = CompressSettings().resolved(run, SPEECH)
    assert (settings.epochs, settings.learning_rate, settings.shared_learning_rate) == (12, 0.4, 0.2)
    assert settings.max_loss == 0.3
    alone = CompressSettings().resolved(ds1.Config(epochs=(30,), learning_rates=(0.4,), iters=0), SPEECH)
    assert (alone.epochs, alone.shared_learning_rate) == (30, pytest.approx(0.04))


def test_settings_come_back_as_they_were_noted_and_changes_are_told():
    noted = to_values(CompressSettings(bits=(8, 5), layers=("fc=0.5",)).resolved(ds1.Config(), SPEECH))
    assert to_values(msgspec.convert(noted, CompressSettings)) == noted
    assert CompressSettings(bits=(8, 5)).other_than(noted) == []
    assert CompressSettings().other_than(noted) == []
    assert CompressSettings(bits=(4,)).other_than(noted) == ["bits: [8, 5] -> [4]"]
