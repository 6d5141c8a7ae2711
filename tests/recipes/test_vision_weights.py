"""Classifiers that begin with trained weights: of their own classes, or of others."""

import io
import logging
import shutil
import tomllib
import urllib.error
from pathlib import Path

import pytest
import torch
from rich.console import Console
from torchvision import models

from seqdsd.config import read_config
from seqdsd.engine import CheckpointError, GivenWeights, load_checkpoint
from seqdsd.models import make_classifier
from seqdsd.recipes import vision
from seqdsd.recipes.command import parse_command
from seqdsd.reports.comparison.arms import compare_runs
from seqdsd.reports.runs.reading import read_runs

FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "googlenet": "googlenet-1378be20.pth",
    "squeezenet1_1": "squeezenet1_1-b8a52dc0.pth",
}
"""As torchvision names them."""
HEADS = {
    "resnet18": ("fc.",),
    "googlenet": ("fc.", "aux1.", "aux2."),
    "squeezenet1_1": ("classifier.1.",),
}
IMAGENET = Path("imagenet")


@pytest.fixture(autouse=True)
def cache(monkeypatch, feature_cache):
    monkeypatch.setenv("SEQDSD_CACHE", str(feature_cache))


@pytest.fixture
def classes(tmp_path, write_classes):
    return write_classes(tmp_path / "classes")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Where torch.hub keeps files; there is no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    return tmp_path / "hub" / "checkpoints"


def no_network(*arguments, **options):
    raise urllib.error.URLError("no network")


def imagenet_weights(network):
    """Random ones of torchvision's own names and shapes, for 1000 classes; GoogLeNet's hold auxiliary classifiers."""
    torch.manual_seed(1)
    options = {"init_weights": False, "aux_logits": True} if network == "googlenet" else {}
    state = models.get_model(network, weights=None, **options).state_dict()
    return {name: one + 0.01 if one.is_floating_point() else one for name, one in state.items()}


def run(config, **options):
    return vision.run(config, console=Console(quiet=True), **options)


def weights(folder, phase):
    return load_checkpoint(folder.weights(phase)).tensors


@pytest.fixture
def of_imagenet(tiny_vision, classes, tmp_path):
    """Settings of a network for ImageNet on small images of 8 classes."""

    def make(network="squeezenet1_1", **changes):
        images = vision.ImageSettings(size=48)
        return tiny_vision(
            changes.pop("data", classes),
            tmp_path / "run",
            **{"network": network, "hidden_size": None, "images": images, "epochs": (1,), **changes},
        )

    return make


# Of other classes: --weights.


@pytest.mark.parametrize("network", FILES)
def test_all_but_the_head_is_taken_and_the_head_is_fresh(of_imagenet, hub, network):
    theirs = imagenet_weights(network)
    torch.save(theirs, hub / FILES[network])
    config = of_imagenet(network, weights=IMAGENET)
    own = vision.make_task(config).model.state_dict()
    found = vision.make_task(
        config, given=GivenWeights.read(config.weights_by_name("imagenet"))
    ).model.state_dict()
    assert found.keys() == own.keys()
    for name, tensor in found.items():
        is_head = name.startswith(HEADS[network])
        assert torch.equal(tensor, own[name] if is_head else theirs[name]), name
    assert any(name.startswith(HEADS[network]) and one.shape[:1] == (8,) for name, one in found.items())
    assert [(phase.epochs, phase.is_given) for phase in config.schedule] == [(1, False)] * 3


def test_a_googlenet_saved_without_its_auxiliary_classifiers(of_imagenet, tmp_path):
    theirs = imagenet_weights("googlenet")
    torch.save({name: one for name, one in theirs.items() if "aux" not in name}, tmp_path / "mine.pt")
    config = of_imagenet("googlenet", weights=tmp_path / "mine.pt")
    task = vision.make_task(config, given=GivenWeights.read(tmp_path / "mine.pt"))
    assert torch.equal(task.model.state_dict()["conv1.conv.weight"], theirs["conv1.conv.weight"])


def test_the_first_phase_trains_them_and_the_run_says_and_notes_whose_they_are(of_imagenet, hub, caplog):
    theirs = imagenet_weights("squeezenet1_1")
    torch.save(theirs, hub / FILES["squeezenet1_1"])
    config = of_imagenet(weights=IMAGENET, learning_rates=(1e-7, 1e-7, 1e-7))
    with caplog.at_level(logging.INFO):
        result = run(config)
    said = f"training begins with {hub / FILES['squeezenet1_1']}, and with fresh weights in classifier.1"
    assert caplog.messages.count(said) == 1
    assert [record["epochs"] for record in result.phases] == [1, 1, 1] and "given" not in result.phases[0]
    assert len(result.phases[0]["train_loss"]) == 1
    dense = weights(result.folder, "Dense Iter 0")
    for name, one in theirs.items():  # moved a little
        if not name.startswith("classifier.1."):
            torch.testing.assert_close(dense[name], one, rtol=0, atol=1e-5)
    assert not torch.equal(dense["features.0.weight"], theirs["features.0.weight"])
    noted = tomllib.loads(result.folder.config.read_text())["provenance"]["start_weights"]
    assert noted == {
        "file": str(hub / FILES["squeezenet1_1"]),
        "sha256": GivenWeights.read(hub / FILES["squeezenet1_1"]).sha256,
    }
    assert read_config(result.folder.config, vision.Config()) == config


def test_the_weights_of_a_run_with_other_classes_bring_its_network(class_run, classes, tiny_vision, tmp_path):
    for split in ("train", "dev", "test"):
        shutil.rmtree(classes / split / "red circle")
    config = tiny_vision(classes, tmp_path / "run", hidden_size=8, weights=class_run.path, epochs=(1,))
    with pytest.raises(
        ValueError, match=r"bring .* back, or begin with --weights in place of --start-weights"
    ):
        run(tiny_vision(classes, tmp_path / "other", hidden_size=8, start_weights=class_run.path))
    result = run(config)
    assert weights(result.folder, "Dense Iter 0")["output.weight"].shape[0] == 7
    asked = parse(["--data", str(classes), "--weights", str(class_run.path)])
    assert (asked.network, asked.hidden_size, asked.images.size) == ("resnet8", 8, 16)


def parse(argv):
    return parse_command(
        vision.Config,
        prog="",
        description="",
        without_data=vision.embedded_settings,
        recipe="vision",
        argv=argv,
    ).settings


def test_weights_of_another_network_are_refused(of_imagenet, hub):
    torch.save(imagenet_weights("resnet18"), hub / FILES["squeezenet1_1"])
    with pytest.raises(CheckpointError, match="not the weights of this network .missing: features.0.weight"):
        run(of_imagenet(weights=IMAGENET))


def test_both_are_refused():
    with pytest.raises(ValueError, match="start_weights stand for it; leave one of them out"):
        vision.Config(network="resnet18", weights=IMAGENET, start_weights=IMAGENET)


def test_runs_are_compared_by_the_weights_not_by_the_name_of_their_file(class_run, tmp_path):
    for name, seed, digest in (("a", 0, "1234"), ("b", 1, "1234"), ("c", 2, "5678")):
        shutil.copytree(class_run.path, tmp_path / name)
        settings = tmp_path / name / "config.toml"
        text = settings.read_text().replace("seed = 0", f"seed = {seed}")
        given = f'[provenance.start_weights]\nfile = "{name}.pt"\nsha256 = "{digest}"\n'
        settings.write_text(f'weights = "{name}.pt"\n{text}\n{given}')
    groups = compare_runs(read_runs([tmp_path]).runs)
    assert sorted(len(one.seeds) for one in groups) == [1, 2]
    settings.write_text(settings.read_text().replace('sha256 = "5678"', "sha256 = 5678"))
    [refusal] = read_runs([tmp_path]).refused
    assert "sha256" in refusal.message


# What is wrong with them is said before any image is read.


@pytest.mark.parametrize("changes", [{"weights": IMAGENET}, {"start_weights": IMAGENET}])
def test_a_failed_download_is_said_first(of_imagenet, classes, hub, changes):
    (classes / "train" / "red circle" / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"cannot download https://\S+ .*no network.* put it at"):
        run(of_imagenet(**changes))


def test_weights_that_do_not_fit_are_named_first(of_imagenet, classes, hub):
    (classes / "train" / "red circle" / "3.png").write_bytes(b"no picture")
    torch.save(imagenet_weights("squeezenet1_1"), hub / FILES["squeezenet1_1"])
    with pytest.raises(
        CheckpointError, match=r"of another shape: classifier.1.weight \[1000, 512.*--weights in place of"
    ):
        run(of_imagenet(start_weights=IMAGENET))


# A plan.


def plan(config):
    console = Console(file=io.StringIO(), width=150)
    vision.dry_run(config, console)
    return console.file.getvalue()


def test_a_plan_says_what_begins_fresh(of_imagenet, hub):
    torch.save(imagenet_weights("squeezenet1_1"), hub / FILES["squeezenet1_1"])
    said = plan(of_imagenet(weights=IMAGENET))
    assert "they fit the network; fresh: classifier.1" in said and "Dense Iter 0" in said


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"weights": IMAGENET}, "the run downloads them; fresh: classifier.1"),
        ({"start_weights": IMAGENET}, "the run downloads them"),
        (
            {"weights": Path("gone.pt")},
            "Start weights gone.pt: not at gone.pt; the plan needs none, but a run",
        ),
        ({"start_weights": Path("gone.pt")}, "the plan needs none, but a run that begins does"),
    ],
)
def test_a_plan_does_not_need_the_file(of_imagenet, hub, changes, said):
    printed = plan(of_imagenet(**changes))
    assert said in printed and "Sparse Iter 1 prunes" in printed
    assert not list(hub.iterdir())


# Of the same classes: --start-weights.


def test_the_weights_of_another_run_stand_for_the_first_phase(class_run, tiny_vision, tmp_path):
    data = read_config(class_run.config, vision.Config()).data
    result = run(
        tiny_vision(data, tmp_path / "run", hidden_size=8, batch_size=8, start_weights=class_run.path)
    )
    best = min(class_run.read_phases(), key=lambda one: one["dev_score"][one["best_epoch"] - 1])
    assert result.phases[0]["epochs"] == 0 and result.phases[0]["test"] == best["test"]
    assert (result.folder.path / "classes.json").read_bytes() == (
        class_run.path / "classes.json"
    ).read_bytes()


def test_torchvisions_weights_by_name(of_imagenet, hub):
    """From where torch.hub keeps them; here a file of the network's own layout, with as few classes as the data."""
    network = make_classifier("squeezenet1_1", num_classes=8)
    torch.save(network.state_dict(), hub / FILES["squeezenet1_1"])
    config = of_imagenet(start_weights=IMAGENET)
    given = weights(run(config).folder, "Dense Iter 0")
    assert all(torch.equal(given[name], one) for name, one in network.state_dict().items())
    assert run(config, resume=True).phases[0]["epochs"] == 0


def test_a_network_of_which_nobody_publishes_weights_is_named(classes, tiny_vision, tmp_path):
    with pytest.raises(ValueError, match="publishes no weights of resnet8, but of googlenet, vgg16"):
        run(tiny_vision(classes, tmp_path / "run", weights=IMAGENET))
