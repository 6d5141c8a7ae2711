"""What is pruned of well-known networks, counted by hand from their papers' layers; and single cases.

The networks have their published sizes but no memory: they stand on the meta device.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations

from seqdsd.sparsity import VISION_RULES, Rule, resolve

EVERYTHING = (Rule("*"),)


@dataclass(frozen=True)
class Case:
    """A network, its rules, and what a reader of its paper expects of every parameter that is not a vector.

    ``pruned`` is glob to count; ``dense`` is glob to count and a part of the reason.
    """

    make: Callable[[], nn.Module]
    pruned: Mapping[str, int]
    dense: Mapping[str, tuple[int, str]] = field(default_factory=dict)
    rules: tuple[Rule, ...] = EVERYTHING


def hugging_face(name: str) -> Callable[[], nn.Module]:
    """A network of transformers by its class, at its configuration's default size."""

    def make() -> nn.Module:
        network = getattr(pytest.importorskip("transformers"), name)
        return network(network.config_class())

    return make


CASES = {
    "ResNet-18": Case(
        torchvision.models.resnet18,
        {"layer?.?.conv?.weight": 16, "layer[234].0.downsample.0.weight": 3, "fc.weight": 1},
        {"conv1.weight": (1, "first convolution")},
        VISION_RULES,
    ),
    "ConvNeXt-T": Case(  # 3 + 3 + 9 + 3 blocks
        torchvision.models.convnext_tiny,
        {
            "features.?.*.block.[035].weight": 3 * 18,
            "features.[246].1.weight": 3,
            "classifier.2.weight": 1,
        },
        {"features.0.0.weight": (1, "first convolution"), "*.layer_scale": (18, "name says scale")},
        VISION_RULES,
    ),
    "EfficientNet-B0": Case(  # 16 blocks; the first does not widen; two layers squeeze and excite
        torchvision.models.efficientnet_b0,
        {
            "features.[1-7].?.block.?.0.weight": 15 + 2 * 16,
            "features.[1-7].?.block.?.fc[12].weight": 2 * 16,
            "features.8.0.weight": 1,
            "classifier.1.weight": 1,
        },
        {"features.0.0.weight": (1, "first convolution")},
        VISION_RULES,
    ),
    "ViT-B/16": Case(
        torchvision.models.vit_b_16,
        {
            "encoder.layers.*.self_attention.in_proj_weight": 12,
            "encoder.layers.*.self_attention.out_proj.weight": 12,
            "encoder.layers.*.mlp.[03].weight": 24,
            "heads.head.weight": 1,
        },
        {
            "conv_proj.weight": (1, "first convolution"),
            "class_token": (1, "name says token"),
            "encoder.pos_embedding": (1, "name says pos"),
        },
        VISION_RULES,
    ),
    "Swin-T": Case(  # 2 + 2 + 6 + 2 blocks, three mergings of patches
        torchvision.models.swin_t,
        {
            "features.?.?.attn.qkv.weight": 12,
            "features.?.?.attn.proj.weight": 12,
            "features.?.?.mlp.[03].weight": 24,
            "features.[246].reduction.weight": 3,
            "head.weight": 1,
        },
        {
            "features.0.0.weight": (1, "first convolution"),
            "*.relative_position_bias_table": (12, "name says position"),
        },
        VISION_RULES,
    ),
    "Swin-T v2": Case(  # positions by a small network of two layers; a temperature for each head
        torchvision.models.swin_v2_t,
        {
            "features.?.?.attn.*.weight": 4 * 12,
            "features.?.?.mlp.[03].weight": 24,
            "features.[246].reduction.weight": 3,
            "head.weight": 1,
        },
        {"features.0.0.weight": (1, "first convolution"), "*.logit_scale": (12, "name says scale")},
        VISION_RULES,
    ),
    "GPT-2": Case(
        hugging_face("GPT2LMHeadModel"),
        {"transformer.h.*.attn.c_*.weight": 24, "transformer.h.*.mlp.c_*.weight": 24},
        {"transformer.w[tp]e.weight": (2, "embedding table")},
    ),
    "BERT": Case(
        hugging_face("BertForMaskedLM"),
        {
            "bert.encoder.layer.*.attention.self.*.weight": 36,
            "bert.encoder.layer.*.attention.output.dense.weight": 12,
            "bert.encoder.layer.*.intermediate.dense.weight": 12,
            "bert.encoder.layer.*[0-9].output.dense.weight": 12,
            "cls.predictions.transform.dense.weight": 1,
        },
        {"bert.embeddings.*_embeddings.weight": (3, "embedding table")},
    ),
    "Wav2Vec 2.0": Case(
        hugging_face("Wav2Vec2ForPreTraining"),
        {
            "wav2vec2.feature_extractor.conv_layers.?.conv.weight": 7,
            "wav2vec2.feature_projection.projection.weight": 1,
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1": 1,
            "wav2vec2.encoder.layers.*.attention.*_proj.weight": 48,
            "wav2vec2.encoder.layers.*.feed_forward.*_dense.weight": 24,
            "quantizer.weight_proj.weight": 1,
            "project_*.weight": 2,
        },
        {
            "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original0": (1, "a scale"),
            "quantizer.codevectors": (1, "does not say weight"),
        },
    ),
    "Whisper": Case(  # 4 + 4 layers
        hugging_face("WhisperForConditionalGeneration"),
        {
            "model.encoder.conv[12].weight": 2,
            "model.encoder.layers.?.self_attn.*_proj.weight": 16,
            "model.encoder.layers.?.fc[12].weight": 8,
            "model.decoder.layers.?.*_attn.*_proj.weight": 32,
            "model.decoder.layers.?.fc[12].weight": 8,
        },
        {
            "model.encoder.embed_positions.weight": (1, "frozen"),
            "model.decoder.embed_*.weight": (2, "embedding table"),
        },
    ),
    "attention with learnt extra keys": Case(
        lambda: nn.MultiheadAttention(8, 2, add_bias_kv=True),
        {"in_proj_weight": 1, "out_proj.weight": 1},
        {"bias_[kv]": (2, "name says bias")},
    ),
    "attention with other keys and values": Case(
        lambda: nn.MultiheadAttention(8, 2, kdim=4, vdim=6), {"?_proj_weight": 3, "out_proj.weight": 1}
    ),
    "weight norm": Case(
        lambda: nn.Sequential(
            parametrizations.weight_norm(nn.Linear(8, 4)), parametrizations.weight_norm(nn.Conv1d(4, 2, 3))
        ),
        {"?.parametrizations.weight.original1": 2},
        {"?.parametrizations.weight.original0": (2, "a scale")},
    ),
    "orthogonal": Case(
        lambda: nn.Sequential(parametrizations.orthogonal(nn.Linear(8, 4)), nn.Linear(4, 4)),
        {"1.weight": 1},
        {"0.parametrizations.weight.original": (1, "zeros would not last: _Orthogonal")},
    ),
    "spectral norm": Case(
        lambda: nn.Sequential(parametrizations.spectral_norm(nn.Linear(8, 4))),
        {"0.parametrizations.weight.original": 1},
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_what_is_pruned_and_why_the_rest_is_not(case: Case):
    with torch.device("meta"):
        plan = resolve(case.make(), case.rules, 0.5)
    left = {row.name: row for row in plan.rows if len(row.shape) > 1}
    expected = {glob: (count, None) for glob, count in case.pruned.items()} | dict(case.dense)
    for glob, (count, why) in expected.items():
        rows = [left.pop(name) for name in list(left) if fnmatchcase(name, glob)]
        assert len(rows) == count, glob
        for row in rows:
            assert row.sparsity == (0.5 if why is None else 0), row
            assert why is None or why in row.why, row
    assert not left
    assert all(row.sparsity == 0 for row in plan.rows if len(row.shape) < 2)


class Holder(nn.Module):
    """A module that torch does not know, with one parameter."""

    def __init__(self, name: str, *shape: int) -> None:
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.randn(shape)))


class FieldNorm(Holder):
    """A norm whose scale is a matrix."""


class NormedLinear(Holder):
    """A layer whose weight is normalised, of a class that torch does not know."""


class Centred(nn.LayerNorm):
    """A norm by its base, not by its name."""


class Widened(nn.Linear):
    """A layer with a gain of its own, shaped like its weight."""

    def __init__(self) -> None:
        super().__init__(3, 4)
        self.gain = nn.Parameter(torch.ones(4, 3))


class Listed(nn.Module):
    """Parameters in lists."""

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([torch.randn(3, 4)])
        self.positions = nn.ParameterDict({"w": torch.randn(3, 4)})


def decided(module: nn.Module, rule: Rule = EVERYTHING[0]) -> dict[str, str]:
    """What is not pruned of a module, and why."""
    plan = resolve(nn.Sequential(module, nn.Linear(4, 4)), [rule, Rule("1.weight", optional=True)], 0.5)
    return {row.name: row.why for row in plan.rows if not row.sparsity and len(row.shape) > 1}


@pytest.mark.parametrize(
    ("module", "dense"),
    [
        (nn.Linear(16, 1), {}),
        (nn.Conv2d(8, 1, 1), {}),
        (nn.LSTM(2, 1), {}),
        (Holder("weight", 4, 4), {}),
        (Holder("W_hidden", 4, 4), {}),
        (Holder("gate_up_proj", 2, 3, 4), {}),
        (Holder("kernel1", 4, 4), {}),
        (Holder("posterior_weight", 4, 4), {}),
        (NormedLinear("weight", 4, 4), {}),
        (Holder("weight", 1, 1, 4), {"0.weight": "a scale: varies along one dimension"}),
        (Holder("gate_up_proj_bias", 4, 4), {"0.gate_up_proj_bias": "its name says bias"}),
        (Holder("embedding_weight", 4, 4), {"0.embedding_weight": "its name says embedding"}),
        (Holder("wpe", 4, 4), {"0.wpe": "its name does not say weight"}),
        (Holder("latents", 4, 4), {"0.latents": "its name does not say weight"}),
        (Holder("positions_w", 4, 4), {"0.positions_w": "its name says position"}),
        (Holder("Token_weight", 4, 4), {"0.Token_weight": "its name says token"}),
        (FieldNorm("weight", 4, 4), {"0.weight": "norm parameter"}),
        (Centred((4, 4), bias=False), {"0.weight": "norm parameter"}),
        (nn.RMSNorm((4, 4)), {"0.weight": "norm parameter"}),
        (nn.EmbeddingBag(4, 4), {"0.weight": "embedding table"}),
        (Widened(), {"0.gain": "its name says gain"}),
        (Listed(), {"0.positions.w": "its name says position"}),
        (
            parametrizations.weight_norm(nn.Linear(1, 4)),
            {"0.parametrizations.weight.original0": "a scale: varies along one dimension"},
        ),
    ],
)
def test_weights_by_layer_name_and_shape(module: nn.Module, dense: dict[str, str]):
    assert decided(module) == dense


@pytest.mark.parametrize("name", "W w W1 w_q Wq WQ Wih W_hh Wqkv wx U V Uf U_ih Kernel filters".split())
def test_what_people_call_a_weight(name: str):
    assert not decided(Holder(name, 4, 4))


@pytest.mark.parametrize("name", "We wte wpe u v window value key query theta A T".split())
def test_what_may_be_something_else(name: str):
    assert decided(Holder(name, 4, 4)) == {f"0.{name}": "its name does not say weight"}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def test_the_older_weight_norm():
    assert decided(nn.utils.weight_norm(nn.Conv1d(2, 3, 4))) == {
        "0.weight_g": "a scale: varies along one dimension"
    }


@pytest.mark.parametrize("module", [nn.Embedding(4, 4), Holder("latents", 4, 4), Holder("weight", 1, 4)])
def test_what_is_no_weight_is_pruned_only_by_its_full_name_and_a_given_sparsity(module: nn.Module):
    (name,) = decided(module)
    for rule in (Rule(name), Rule("0.*", 0.25), Rule("*", 0.25, type(module))):
        assert decided(module, rule), rule
    assert not decided(module, Rule(name, 0.25))


def test_the_full_name_may_be_any_of_a_tied_parameter():
    model = nn.ModuleDict({"words": nn.Embedding(4, 4), "out": nn.Linear(4, 4)})
    model["out"].weight = model["words"].weight
    assert resolve(model, [Rule("out.weight", 0.25)], 0.5).sparsities == {"words.weight": 0.25}
