"""Which parameters are weights, and which stay dense whatever their shape: biases, scales, embeddings, positions.

Torch's own layers say it by their type. What other modules hold is told by its name: in the models of torchvision,
timm and transformers, matrices that inputs are multiplied with are called weights, kernels or projections; tables of
tokens, positions or codes are not. What rules do with the answer is ``rules.py``.
"""

from __future__ import annotations

import re

from torch import nn

from seqdsd.sparsity.parameters import NamedParameter

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
MATRIX_NORMS = (nn.LayerNorm, nn.RMSNorm)  # the norms whose parameters may be matrices
LAYERS = (nn.Linear, nn.Bilinear, *CONVOLUTIONS, nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)

WEIGHT_NAME = re.compile(
    r"""(?:^|_)(?:
        weights? | kernels? | filters? | proj | projections? | matrix
        | w(?:[^\W\d_ept] | ih | hh | xh | qkv)?  # Wq, w_hidden; not We, wte, wpe: words, tokens, positions
        | (?-i:[UV](?:[a-z] | ih | hh)?)  # of papers' formulas; u and v are biases of relative positions
    )(?=_|\d|$)""",
    re.IGNORECASE | re.VERBOSE,
)
OTHER_NAME = re.compile(
    r"(?:^|_)(bias|scale|gain|token|embed(?:ding)?|pos(?:ition)?(?!itive|t|e(?:_|$)))", re.IGNORECASE
)
PARAMETRIZED = re.compile(r"(?:^|\.)parametrizations\.(\w+)\.")
ZERO_KEEPING = ("_WeightNorm", "_SpectralNorm")
"""Parametrizations (``torch.nn.utils.parametrize``) that make a weight of 0 from a 0."""
NORM_NAME = re.compile(r"Norm(?!.*(?:Linear|Conv|LSTM|GRU|RNN|Cell|Attention|Classifier))")
"""Of classes; a ``LayerNormLSTMCell`` and a ``NormedLinear`` hold weights."""
GAIN_NAME = re.compile(
    r"\.original0$|_g$"
)  # weight norm's, of torch.nn.utils.parametrizations and of the older hook


def why_no_weight(parameter: NamedParameter) -> str:
    """Why the parameter is not a weight, under whichever of its names; empty if it is one."""
    places = zip(parameter.aliases, parameter.holders, strict=True)
    return next(filter(None, (_why(name, holder, parameter.parameter) for name, holder in places)), "")


def _why(name: str, holder: nn.Module, parameter: nn.Parameter) -> str:
    is_layer = isinstance(holder, LAYERS)
    own_name = _own_name(name, holder)
    if parameter.ndim < 2:
        return "a vector: bias, norm or scale"
    if isinstance(holder, EMBEDDINGS):
        return "embedding table"
    if mixing := _mixing(name, holder):
        return f"zeros would not last: {mixing} makes other weights of it"
    if isinstance(holder, MATRIX_NORMS) or (NORM_NAME.search(type(holder).__name__) and not is_layer):
        return "norm parameter"
    if other := OTHER_NAME.search(own_name):
        return f"its name says {other[1].lower()}"
    if not WEIGHT_NAME.search(own_name):
        return "its name does not say weight"
    # A layer's own weight may have one row, as of a single output; elsewhere such a shape is a scale's.
    if sum(size > 1 for size in parameter.shape) < 2 and (not is_layer or GAIN_NAME.search(name)):
        return "a scale: varies along one dimension"
    return ""


def _mixing(name: str, holder: nn.Module) -> str:
    """The first parametrization of a tensor whose zeros need not be its original's, as of orthogonal matrices."""
    parametrized = PARAMETRIZED.search(name)
    chain = holder.get_submodule(f"parametrizations.{parametrized[1]}").children() if parametrized else ()
    return next((kind for one in chain if (kind := type(one).__name__) not in ZERO_KEEPING), "")


def _own_name(name: str, holder: nn.Module) -> str:
    """The last part of a name; of a parametrized tensor the tensor's, of a listed parameter with the list's before."""
    if parametrized := PARAMETRIZED.search(name):
        return parametrized[1]
    num_parts = 2 if isinstance(holder, nn.ParameterList | nn.ParameterDict) else 1
    return "_".join(name.split(".")[-num_parts:])
