"""Rules resolved against small models, the parameters that each preset prunes read off by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import DataParallel
from torch.optim.swa_utils import AveragedModel

from seqdsd.models import DeepSpeech1
from seqdsd.sparsity import CAPTION_RULES, SPEECH_RULES, VISION_RULES, FirstOf, MaskSet, Rule, resolve

EVERYTHING = Rule("*", why="the rest")
VECTOR = "a vector: bias, norm or scale"

compiled = partial(torch.compile, backend="eager")


@pytest.fixture
def model() -> nn.Sequential:
    """Parameters 0.weight, 0.bias, 1.weight, 1.bias, 2.weight, 2.bias: linear 4x3, norm of 4, linear 2x4."""
    return nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))


class Captioner(nn.Module):
    """NeuralTalk's parts with a frozen image encoder."""

    def __init__(self) -> None:
        super().__init__()
        self.cnn = nn.Conv2d(3, 8, 3)
        self.cnn.requires_grad_(False)
        self.image = nn.Linear(8, 6)
        self.words = nn.Embedding(11, 6)
        self.lstm = nn.LSTM(6, 6)
        self.decoder = nn.Linear(6, 11)


class ImageClassifier(nn.Module):
    """Laid out like torchvision's networks."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Sequential(nn.Conv2d(8, 8, 3), nn.ReLU())
        )
        self.classifier = nn.Linear(8, 10)


def test_the_first_match_wins(model):
    plan = resolve(model, [Rule("0.weight", 0.2), Rule("*.weight", 0.7, nn.Linear), EVERYTHING], 0.5)
    assert plan.sparsities == {"0.weight": 0.2, "2.weight": 0.7}
    assert [row.rule.match for row in plan.rows] == ["0.weight", "*", "*", "*", "*.weight", "*"]


def test_an_earlier_keep_rule_wins(model):
    plan = resolve(model, [Rule("2.*", 0, why="the last layer"), EVERYTHING], 0.5)
    assert plan.sparsities == {"0.weight": 0.5}
    assert plan.rows[4].why == "the last layer"


def test_names_match_with_case_and_as_a_whole(model):
    model.add_module("Head", nn.Linear(2, 2))
    others = [Rule("h*", 0, optional=True), Rule("weight", 0, optional=True)]
    plan = resolve(model, [Rule("H*", 0), *others, EVERYTHING], 0.5)
    assert plan.sparsities == {"0.weight": 0.5, "2.weight": 0.5}


def test_what_no_rule_matches_stays_dense(model):
    plan = resolve(model, [Rule("2.weight")], 0.5)
    assert plan.sparsities == {"2.weight": 0.5}
    assert [row.why for row in plan.rows[:4]] == ["no rule matches"] * 4


def test_biases_and_norms_stay_dense(model):
    model.append(nn.LayerNorm((2, 2)))  # a norm whose scale and shift are matrices
    assert set(resolve(model, [EVERYTHING], 0.5).sparsities) == {"0.weight", "2.weight"}
    assert set(resolve(model, [Rule("0.*", 0.25), EVERYTHING], 0.5).sparsities) == {"0.weight", "2.weight"}


def test_a_vector_is_pruned_only_by_its_full_name_and_a_given_sparsity(model):
    assert resolve(model, [Rule("0.bias", 0.25), EVERYTHING], 0.5).sparsities["0.bias"] == 0.25
    assert "0.bias" not in resolve(model, [Rule("0.bias"), EVERYTHING], 0.5).sparsities


def test_frozen_parameters_stay_dense(model):
    model[0].requires_grad_(False)
    plan = resolve(model, [EVERYTHING], 0.5)
    assert plan.sparsities == {"2.weight": 0.5}
    assert plan.rows[0].why.startswith("frozen")


def test_by_module_type():
    captioner = Captioner()
    plan = resolve(captioner, [Rule("*", module=(nn.LSTM, nn.Linear))], 0.5)
    assert set(plan.sparsities) == {
        "image.weight",
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
        "decoder.weight",
    }
    assert set(resolve(captioner, [Rule("*", module=nn.RNNBase)], 0.5).sparsities) == {
        "lstm.weight_ih_l0",
        "lstm.weight_hh_l0",
    }


def test_the_first_module_of_a_type():
    plan = resolve(ImageClassifier(), [Rule("*", 0.9, FirstOf(nn.Conv2d)), EVERYTHING], 0.5)
    assert plan.sparsities == {"features.0.weight": 0.9, "features.3.0.weight": 0.5, "classifier.weight": 0.5}
    with pytest.raises(ValueError, match="matches no parameter"):
        resolve(ImageClassifier(), [Rule("*", 0.9, FirstOf(nn.Conv1d)), EVERYTHING], 0.5)


def test_rules_that_can_be_walked_once_decide_for_every_parameter(model):
    assert resolve(model, iter([EVERYTHING]), 0.5) == resolve(model, [EVERYTHING], 0.5)


@pytest.fixture
def tied() -> nn.ModuleDict:
    """Two layers that share a weight, and a third."""
    layers = nn.ModuleDict({name: nn.Linear(4, 4, bias=False) for name in ("first", "second", "third")})
    layers["second"].weight = layers["first"].weight
    return layers


@pytest.mark.parametrize("match", ["first.*", "second.*"])
def test_a_tied_parameter_is_kept_dense_by_any_of_its_names(tied, match):
    plan = resolve(tied, [Rule(match, 0, why="kept"), EVERYTHING], 0.5)
    assert [(row.name, row.aliases, row.why) for row in plan.rows] == [
        ("first.weight", ("second.weight",), "kept"),
        ("third.weight", (), "the rest"),
    ]
    assert "first.weight = second.weight  4x4" in str(plan)


def test_a_tied_parameter_is_pruned_by_any_of_its_names_once(tied):
    assert resolve(tied, [Rule("second.weight", 0.25)], 0.5).sparsities == {"first.weight": 0.25}


def test_what_is_tied_to_an_embedding_stays_dense():
    for rules in (CAPTION_RULES, [EVERYTHING]):
        model = Captioner()
        model.decoder.weight = model.words.weight
        plan = resolve(model, rules, 0.5)
        assert set(plan.sparsities) == {"image.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0"}
        model.words, model.decoder = model.decoder, model.words  # now the embedding has the second name
        assert set(resolve(model, rules, 0.5).sparsities) == set(plan.sparsities)


@pytest.mark.parametrize("wrap", [compiled, AveragedModel, lambda model: DataParallel(compiled(model))])
def test_names_are_the_bare_models(wrap):
    model = ImageClassifier()
    rules = [Rule("classifier.*", 0), *VISION_RULES]
    expected = resolve(model, rules, 0.5)
    assert expected.sparsities == {"features.3.0.weight": 0.5}
    assert str(resolve(wrap(model), rules, 0.5)) == str(expected)
    model.features = compiled(model.features)
    model.classifier = compiled(model.classifier)
    assert str(resolve(wrap(model), rules, 0.5)) == str(expected)


@pytest.mark.parametrize("sparsity", [0, None, 0.3])
def test_an_optional_rule_may_match_or_decide_nothing(model, sparsity):
    rules = [Rule("rnn.*", sparsity, optional=True), EVERYTHING, Rule("0.*", sparsity, optional=True)]
    assert resolve(model, rules, 0.5).sparsities == {"0.weight": 0.5, "2.weight": 0.5}


def test_a_wrong_name_is_told_close_ones():
    for wrong, close in (
        ("clasifier.*", r"'classifier\.\*'"),
        ("features.0.0.weight", r"'features\.3\.0\.weight'"),
        ("*.wieght", r"'\*\.weight'"),
    ):
        with pytest.raises(
            ValueError, match=rf"matches no parameter; did you mean [^?]*{close}.*optional=True"
        ):
            resolve(ImageClassifier(), [Rule(wrong, 0), EVERYTHING], 0.5)


def test_a_wrong_type_is_told_the_types(model):
    with pytest.raises(ValueError, match=r"matches no parameter.*with parameters are: LayerNorm, Linear$"):
        resolve(model, [Rule("*", 0, nn.Conv1d), EVERYTHING], 0.5)


def test_a_keep_rule_behind_others_is_harmless(model):
    assert resolve(model, [Rule("0.*"), Rule("0.bias", 0)], 0.5).sparsities == {"0.weight": 0.5}


@pytest.mark.parametrize(("shape", "sparsity"), [((1, 1), 0.6), ((2, 1), 0.8)])
def test_a_plan_that_prunes_all_weights_of_a_parameter(shape, sparsity):
    model = nn.Sequential(nn.Linear(4, shape[0]), nn.Linear(*shape))
    with pytest.raises(ValueError, match=rf"1\.weight: sparsity {sparsity} .*\bRule\('1\.weight', 0\) first"):
        resolve(model, [EVERYTHING], sparsity)
    assert resolve(model, [Rule("1.weight", 0), EVERYTHING], sparsity).sparsities == {"0.weight": sparsity}


@pytest.mark.parametrize("sparsity", [None, 0.3])
def test_a_pruning_rule_that_matches_nothing(model, sparsity):
    with pytest.raises(ValueError, match=r"'rnn\.\*'.*matches no parameter.*: 0\.weight, 0\.bias, 1\.weight"):
        resolve(model, [Rule("rnn.*", sparsity), EVERYTHING], 0.5)


def test_a_rule_behind_others_that_decide_all_it_matches(model):
    with pytest.raises(ValueError, match=r"'0\.weight'.*earlier rules decide.*\(0\.weight\)"):
        resolve(model, [EVERYTHING, Rule("0.weight", 0.3)], 0.5)


@pytest.mark.parametrize(
    ("rules", "sparsity"),
    [
        ([], 0.5),
        ([Rule("*", 0)], 0.5),
        ([EVERYTHING], 0.0),
        ([Rule("*.bias")], 0.5),
        ([Rule("*.bias", 0.3)], 0.5),
        ([EVERYTHING], 0.01),  # less than one weight of each tensor
    ],
)
def test_a_plan_that_prunes_nothing(model, rules, sparsity):
    with pytest.raises(ValueError, match=r"prunes nothing(.|\n)*0\.weight"):
        resolve(model, rules, sparsity)


def test_a_model_without_parameters():
    with pytest.raises(ValueError, match="the model's parameters are: none"):
        resolve(nn.ReLU(), [EVERYTHING], 0.5)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 50])
def test_sparsity_out_of_range(model, sparsity):
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        Rule("*", sparsity)
    with pytest.raises(ValueError, match=r"\[0, 1\)"):
        resolve(model, [EVERYTHING], sparsity)


def test_the_plan_as_a_table(model):
    lines = str(resolve(model, [Rule("2.weight", 0.25, why="the last"), EVERYTHING], 0.5)).splitlines()
    assert [line.split() for line in lines] == [
        ["parameter", "shape", "weights", "sparsity", "kept", "rule", "why"],
        ["0.weight", "4x3", "12", "50.0%", "6", "*", "the", "rest"],
        ["0.bias", "4", "4", "dense", "4", "*", *VECTOR.split()],
        ["1.weight", "4", "4", "dense", "4", "*", *VECTOR.split()],
        ["1.bias", "4", "4", "dense", "4", "*", *VECTOR.split()],
        ["2.weight", "2x4", "8", "25.0%", "6", "2.weight", "the", "last"],
        ["2.bias", "2", "2", "dense", "2", "*", *VECTOR.split()],
        *[[*"34 weights, 23.5% of them pruned".split()]],  # 8 of 34
    ]
    assert len({line.index(word) for line, word in zip(lines, ["shape", "4x3"], strict=False)}) == 1


def test_the_plan_tells_the_count_that_the_mask_keeps(model):
    plan = resolve(model, [EVERYTHING], 0.3)
    masks = MaskSet.from_magnitude(model, plan).masks
    assert {row.name: row.kept for row in plan.rows if row.sparsity} == {
        name: int(mask.sum()) for name, mask in masks.items()
    }


@pytest.mark.parametrize("batch_norm", [False, True])
def test_speech_rules(batch_norm):
    plan = resolve(DeepSpeech1(hidden_size=8, batch_norm=batch_norm), SPEECH_RULES, 0.5)
    assert plan.sparsities == dict.fromkeys(
        ["fc1.0.weight", "fc2.0.weight", "rnn.weight_recurrent", "rnn.input.weight", "fc3.0.weight"], 0.5
    )


def test_speech_rules_at_the_papers_size():
    with torch.device("meta"):
        plan = resolve(DeepSpeech1(), SPEECH_RULES, 0.5)
    assert sum(row.numel - row.kept for row in plan.rows) == 6 * 1024**2 // 2  # 3 FC and 3 recurrent matrices


def test_caption_rules():
    plan = resolve(Captioner(), CAPTION_RULES, 0.8)
    assert plan.sparsities == dict.fromkeys(
        ["image.weight", "lstm.weight_ih_l0", "lstm.weight_hh_l0", "decoder.weight"], 0.8
    )


def test_vision_rules():
    plan = resolve(ImageClassifier(), VISION_RULES, 0.3)
    assert plan.sparsities == dict.fromkeys(["features.3.0.weight", "classifier.weight"], 0.3)
