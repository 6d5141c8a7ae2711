import json
import shutil

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from seqdsd.engine import NesterovSettings
from seqdsd.recipes import ds1
from seqdsd.recipes.trained import load_trained
from seqdsd.records import RunFolder
from seqdsd.tasks import BatchSettings
from seqdsd.text import SubwordTokenizer

TEXTS = ("one two", "two three", "three one")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunFolder:
    """Three phases of one epoch on three noises: nothing is learnt, all is written."""
    data = tmp_path_factory.mktemp("data")
    noise = np.random.default_rng(0).standard_normal(16_000)
    soundfile.write(data / "noise.wav", 0.1 * noise, 16_000)
    lines = [
        json.dumps({"audio_filepath": "noise.wav", "duration": 1.0, "text": text, "id": text})
        for text in TEXTS
    ]
    for split in ("train", "dev", "test"):
        (data / f"{split}.jsonl").write_text("\n".join(lines))
    config = ds1.Config(
        data=data,
        out=tmp_path_factory.mktemp("runs") / "run",
        iters=1,
        epochs=(1,),
        hidden_size=8,
        device="cpu",
        network=ds1.NetworkSettings(batch_norm=True),
        tokenizer=ds1.TokenizerSettings(kind="subwords", vocab_size=12),
        optimizer=NesterovSettings(momentum=0.9),
        batches=BatchSettings(num_workers=0),
    )
    return ds1.run(config).folder


@pytest.fixture
def run_copy(run, tmp_path) -> RunFolder:
    shutil.copytree(run.path, tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


def set_dev_wer(folder: RunFolder, rates: list[float]) -> None:
    records = folder.read_phases()
    for record, rate in zip(records, rates, strict=True):
        record["dev"]["wer"] = rate
    folder.write_phases(records)


def test_loads_network_tokenizer_and_settings(run):
    trained = load_trained(run, phase="Sparse Iter 1", device="cpu")
    saved = load_file(run.weights("Sparse Iter 1"))
    own = trained.model.module.state_dict()
    assert own.keys() == saved.keys()
    assert all(torch.equal(own[name], saved[name]) for name in saved)
    assert not trained.model.training
    assert isinstance(trained.tokenizer, SubwordTokenizer)
    assert trained.tokenizer.decode(trained.tokenizer.encode("three two")) == "three two"
    assert trained.config.hidden_size == 8
    assert trained.phase["kind"] == "sparse"
    assert trained.device == torch.device("cpu")


def test_takes_the_best_on_dev_by_default(run_copy):
    set_dev_wer(run_copy, [0.9, 0.7, 0.8])
    assert load_trained(run_copy, device="cpu").phase["name"] == "Sparse Iter 1"
    set_dev_wer(run_copy, [0.9, 0.7, 0.6])
    assert load_trained(run_copy, device="cpu").phase["name"] == "Dense Iter 1"


@pytest.mark.parametrize("name", ["Dense Iter 1", "dense iter 1", "dense-iter-1"])
def test_a_phase_goes_by_its_name_or_its_file_name(run, name):
    assert load_trained(run, phase=name, device="cpu").phase["name"] == "Dense Iter 1"


def test_an_unknown_phase_is_refused_with_those_that_are_there(run):
    with pytest.raises(ValueError, match="'Dense Iter 9'.*'Dense Iter 0', 'Sparse Iter 1', 'Dense Iter 1'"):
        load_trained(run, phase="Dense Iter 9", device="cpu")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: not a run folder"):
        load_trained(RunFolder(tmp_path), device="cpu")


def test_a_run_without_a_finished_phase_is_refused(run_copy):
    run_copy.write_phases([])
    with pytest.raises(ValueError, match="no phase is finished"):
        load_trained(run_copy, device="cpu")
    run_copy.phases.unlink()
    with pytest.raises(ValueError, match="finished phase"):
        load_trained(run_copy, device="cpu")


@pytest.mark.parametrize("recipe", ['recipe = "neuraltalk"', ""])
def test_another_recipes_run_is_refused(run_copy, recipe):
    text = run_copy.config.read_text()
    assert 'recipe = "ds1"' in text
    run_copy.config.write_text(text.replace('recipe = "ds1"', recipe))
    with pytest.raises(ValueError, match=r"config.toml: .*recipe.*ds1"):
        load_trained(run_copy, device="cpu")


def test_a_damaged_config_is_refused(run_copy):
    run_copy.config.write_text("hidden_size = \n")
    with pytest.raises(ValueError, match="config.toml: not a readable TOML file"):
        load_trained(run_copy, device="cpu")


def test_weights_of_another_network_are_refused(run_copy):
    run_copy.config.write_text(run_copy.config.read_text().replace("hidden_size = 8", "hidden_size = 9"))
    with pytest.raises(
        ValueError, match="dense-iter-0.safetensors: the weights are not those of the network"
    ):
        load_trained(run_copy, phase="Dense Iter 0", device="cpu")


def test_truncated_and_missing_weights_are_refused(run_copy):
    weights = run_copy.weights("Dense Iter 0")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="dense-iter-0.safetensors: damaged.*'Sparse Iter 1'"):
        load_trained(run_copy, phase="Dense Iter 0", device="cpu")
    weights.unlink()
    with pytest.raises(ValueError, match="dense-iter-0.safetensors: no such checkpoint"):
        load_trained(run_copy, phase="Dense Iter 0", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "abacus"])
def test_a_device_that_is_not_there_is_refused(run, device):
    with pytest.raises(ValueError, match=f"--device {device}"):
        load_trained(run, device=device)
