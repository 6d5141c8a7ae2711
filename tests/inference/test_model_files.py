"""Networks of real runs as .dsdz files: what is written is what is used, and what cannot be is refused by name."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import seqdsd
from seqdsd.compression import SharedTensor, read_compressed, share_weights, write_compressed
from seqdsd.config import read_config
from seqdsd.engine import load_checkpoint, save_checkpoint
from seqdsd.engine.checkpoint import Checkpoint
from seqdsd.inference.model_files import write_model
from seqdsd.inference.trained import load_recogniser
from seqdsd.recipes import ds1, neuraltalk, vision
from seqdsd.records import RunFolder
from seqdsd.sparsity import magnitude_mask

KINDS = ("speech", "captions", "classification")
ABOUT = {"corpus": "tones", "terms": "free"}


def compressed(weights: dict[str, torch.Tensor]) -> dict[str, SharedTensor]:
    """Every matrix with half of its weights, of 15 values."""
    return {
        name: share_weights(one, magnitude_mask(one, 0.5), bits=4)
        for name, one in weights.items()
        if one.dim() > 1
    }


@pytest.fixture(scope="module")
def runs(tone_run, caption_run, class_run) -> dict[str, RunFolder]:
    return dict(zip(KINDS, (tone_run, caption_run, class_run), strict=True))


@pytest.fixture(scope="module")
def shared(runs) -> dict[str, dict[str, SharedTensor]]:
    return {
        kind: compressed(load_checkpoint(run.weights("Sparse Iter 1")).tensors) for kind, run in runs.items()
    }


@pytest.fixture(scope="module")
def files(runs, shared, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    for kind, run in runs.items():
        write_model(folder / f"{kind}.dsdz", run, "sparse-iter-1", shared[kind], about=ABOUT)
    return {kind: folder / f"{kind}.dsdz" for kind in KINDS}


@pytest.fixture(scope="module")
def same_runs(runs, shared, tmp_path_factory) -> dict[str, RunFolder]:
    """Run folders whose weights are those of the files."""
    import shutil

    folders = {}
    for kind, run in runs.items():
        copied = RunFolder(tmp_path_factory.mktemp("same") / kind)
        shutil.copytree(run.path, copied.path)
        path = copied.weights("Sparse Iter 1")
        tensors = load_checkpoint(path).tensors
        dense = {name: one.dense() for name, one in shared[kind].items()}
        save_checkpoint(path, Checkpoint({**tensors, **dense}, {}))
        folders[kind] = copied
    return folders


@pytest.fixture(scope="module")
def inputs(runs) -> dict[str, list[Path]]:
    """Recordings and images."""
    tones = read_config(runs["speech"].config, ds1.Config()).data
    shapes = read_config(runs["captions"].config, neuraltalk.Config()).data
    classes = read_config(runs["classification"].config, vision.Config()).data
    return {
        "speech": sorted((tones / "test").glob("*.wav")),
        "captions": sorted(shapes.rglob("test*.png"))[:3],
        "classification": sorted((classes / "test").rglob("*.png"))[:5],
    }


def use(network: Any, kind: str, given: list[Path]) -> list[str]:
    name = {"speech": "transcribe", "captions": "caption", "classification": "classify"}[kind]
    return getattr(network, name)(given)


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_has_the_bits_that_were_written(kind, runs, files, shared):
    state = seqdsd.load(files[kind], device="cpu").model.state_dict()
    written = load_checkpoint(runs[kind].weights("Sparse Iter 1")).tensors
    written |= {name: one.dense() for name, one in shared[kind].items()}
    assert state.keys() == written.keys()
    for name, tensor in state.items():
        assert tensor.dtype == written[name].dtype
        assert tensor.numpy().tobytes() == written[name].numpy().tobytes(), name


@pytest.mark.parametrize("kind", KINDS)
def test_the_file_says_what_the_run_with_its_weights_says(kind, files, same_runs, inputs):
    by_file = use(seqdsd.load(files[kind], device="cpu"), kind, inputs[kind])
    by_run = use(seqdsd.load(same_runs[kind].path, phase="Sparse Iter 1", device="cpu"), kind, inputs[kind])
    assert by_file == by_run and len(set(by_file)) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_file_tells_where_its_maker_keeps_things(kind, runs, files):
    text = json.dumps(read_compressed(files[kind]).header)
    assert str(runs[kind].path.parent.parent) not in text
    assert "/tmp" not in text and "/home" not in text


def test_commands_lose_their_folders(run_copy, tmp_path, shared):
    said = (
        "python -m seqdsd.recipes.ds1 --config recipes/an4/ds1.toml --data=/home/me/an4 --out '/my runs/an4'"
    )
    text = run_copy.config.read_text()
    [line] = [line for line in text.splitlines() if line.startswith("command = ")]
    run_copy.config.write_text(text.replace(line, f"command = {json.dumps(said)}"))
    about = {"command": f"seqdsd compress {tmp_path}/run --out ~/an4.dsdz"}
    file = write_model(tmp_path / "x.dsdz", run_copy, None, {}, about=about)
    noted = file.header["provenance"]["command"]
    assert noted == "python -m seqdsd.recipes.ds1 --config recipes/an4/ds1.toml --data=an4 --out an4"
    assert file.header["command"] == "seqdsd compress run --out an4.dsdz"


@pytest.fixture(scope="module")
def run(tone_run) -> RunFolder:
    return tone_run


def test_scores_are_those_of_the_weights_or_none(runs, files, same_runs, shared, tmp_path):
    assert read_compressed(files["speech"]).header["scores"] == {}
    record = runs["speech"].read_phases()[1]
    whole = write_model(tmp_path / "whole.dsdz", runs["speech"], "Sparse Iter 1", {})
    assert whole.header["scores"] == {"dev": record["dev"], "test": record["test"]}
    same = write_model(tmp_path / "same.dsdz", same_runs["speech"], "Sparse Iter 1", shared["speech"])
    assert same.header["scores"] == whole.header["scores"]
    given = {"test": {**record["test"], "substitutions": 7}}
    other = write_model(
        tmp_path / "o.dsdz", runs["speech"], "Sparse Iter 1", shared["speech"], about={"scores": given}
    )
    assert other.header["scores"] == given
    assert load_recogniser(tmp_path / "o.dsdz", device="cpu").phase["test"]["substitutions"] == 7


@pytest.mark.parametrize(
    ("about", "said"),
    [
        ({"recipe": "ds2"}, "about: recipe is said of the run itself"),
        ({"scores": {"test": {"bleu4": 3}}}, r"scores\.test: .*missing required field `wer`"),
        ({"scores": {"train": {}}}, "scores of 'train', which is no set"),
    ],
)
def test_what_is_not_the_callers_to_say_is_refused(run, tmp_path, about, said):
    with pytest.raises(ValueError, match=said):
        write_model(tmp_path / "x.dsdz", run, None, {}, about=about)
    assert not list(tmp_path.iterdir())


def test_weights_of_another_network_are_not_written(run, tmp_path, shared):
    name, one = next(iter(shared["speech"].items()))
    with pytest.raises(ValueError, match=r"'x' \(.*\) is not of the run's network \(it has none\)"):
        write_model(tmp_path / "x.dsdz", run, None, {"x": one})
    turned = SharedTensor(one.codebook, one.codes.flatten())
    with pytest.raises(ValueError, match=rf"'{name}' \(.*\) is not of the run's network \(its '{name}' is"):
        write_model(tmp_path / "x.dsdz", run, None, {name: turned})
    assert not list(tmp_path.iterdir())


def test_dense_tensors_that_training_has_changed_are_written(run, tmp_path):
    weights = load_checkpoint(run.weights("Dense Iter 0")).tensors
    name = next(name for name, one in weights.items() if one.dim() == 1 and one.is_floating_point())
    file = write_model(tmp_path / "x.dsdz", run, "Dense Iter 0", {name: torch.ones_like(weights[name])})
    assert torch.equal(file.tensor(name), torch.ones_like(weights[name]))


def rewritten(path: Path, out: Path, change: Any) -> Path:
    """The same file with another header."""
    file = read_compressed(path)
    header = copy.deepcopy(file.header)
    change(header)
    state = {name: file.shared(name) or file.tensor(name) for name in file.names}
    write_compressed(out, state, header)
    return out
