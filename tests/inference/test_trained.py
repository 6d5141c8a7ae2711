import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from seqdsd.engine import CheckpointError, NesterovSettings, load_checkpoint, save_checkpoint
from seqdsd.inference.saved import SavedRun
from seqdsd.inference.trained import load_captioner, load_encoder, load_recogniser
from seqdsd.recipes import ds1, neuraltalk
from seqdsd.records import RunFolder
from seqdsd.tasks import BatchSettings, SearchSettings
from seqdsd.text import SubwordTokenizer, WordVocabulary
from seqdsd.vision import make_encoder

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


def set_dev_scores(folder: RunFolder, scores: list[float]) -> None:
    """Of the one epoch that each phase has; lower is better."""
    records = folder.read_phases()
    for record, score in zip(records, scores, strict=True):
        record["dev_score"] = [score]
    folder.write_phases(records)


def same_tensors(model: torch.nn.Module, path: Path) -> bool:
    own, saved = model.state_dict(), load_file(path)
    return own.keys() == saved.keys() and all(torch.equal(own[name], saved[name]) for name in saved)


def test_loads_network_tokenizer_and_settings(run):
    trained = load_recogniser(run, phase="Sparse Iter 1", device="cpu")
    assert same_tensors(trained.model.module, run.weights("Sparse Iter 1"))
    assert not trained.model.training
    assert isinstance(trained.tokenizer, SubwordTokenizer)
    assert trained.tokenizer.decode(trained.tokenizer.encode("three two")) == "three two"
    assert trained.config.hidden_size == 8
    assert trained.phase["kind"] == "sparse"
    assert trained.device == torch.device("cpu")


def test_takes_the_best_on_dev_by_default(run_copy):
    set_dev_scores(run_copy, [0.9, 0.7, 0.8])
    assert load_recogniser(run_copy, device="cpu").phase["name"] == "Sparse Iter 1"
    set_dev_scores(run_copy, [0.9, 0.7, 0.6])
    assert load_recogniser(run_copy, device="cpu").phase["name"] == "Dense Iter 1"


@pytest.mark.parametrize("name", ["Dense Iter 1", "dense iter 1", "dense-iter-1"])
def test_a_phase_goes_by_its_name_or_its_file_name(run, name):
    assert load_recogniser(run, phase=name, device="cpu").phase["name"] == "Dense Iter 1"


def test_an_unknown_phase_is_refused_with_those_that_are_there(run):
    with pytest.raises(ValueError, match="'Dense Iter 9'.*'Dense Iter 0', 'Sparse Iter 1', 'Dense Iter 1'"):
        load_recogniser(run, phase="Dense Iter 9", device="cpu")


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=f"{tmp_path}: not a run folder"):
        load_recogniser(RunFolder(tmp_path), device="cpu")


def test_a_run_without_a_finished_phase_is_refused(run_copy):
    run_copy.write_phases([])
    with pytest.raises(ValueError, match="no phase is finished"):
        load_recogniser(run_copy, device="cpu")
    run_copy.phases.unlink()
    with pytest.raises(ValueError, match="finished phase"):
        load_recogniser(run_copy, device="cpu")


@pytest.mark.parametrize("recipe", ['recipe = "wav2letter"', ""])
def test_an_unknown_recipes_run_is_refused(run_copy, recipe):
    text = run_copy.config.read_text()
    assert 'recipe = "ds1"' in text
    run_copy.config.write_text(text.replace('recipe = "ds1"', recipe))
    with pytest.raises(ValueError, match=r"config.toml: .*recipe.*ds1, ds2, neuraltalk"):
        load_recogniser(run_copy, device="cpu")


def test_a_run_of_the_other_kind_is_refused_with_what_it_is_for(run, caption_run):
    assert (SavedRun(run).recipe(), SavedRun(caption_run).recipe()) == ("ds1", "neuraltalk")
    with pytest.raises(ValueError, match=f"{run.path} was trained by ds1.*seqdsd transcribe"):
        load_captioner(run, device="cpu")
    with pytest.raises(ValueError, match=f"{caption_run.path} was trained by neuraltalk.*seqdsd caption"):
        load_recogniser(caption_run, device="cpu")


def test_a_damaged_config_is_refused(run_copy):
    run_copy.config.write_text("hidden_size = \n")
    with pytest.raises(ValueError, match="config.toml: not a readable TOML file"):
        load_recogniser(run_copy, device="cpu")


def test_weights_of_another_network_are_refused(run_copy):
    run_copy.config.write_text(run_copy.config.read_text().replace("hidden_size = 8", "hidden_size = 9"))
    with pytest.raises(
        ValueError, match="dense-iter-0.safetensors: the weights are not those of the network"
    ):
        load_recogniser(run_copy, phase="Dense Iter 0", device="cpu")


def test_truncated_and_missing_weights_are_refused(run_copy):
    weights = run_copy.weights("Dense Iter 0")
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match="dense-iter-0.safetensors: damaged.*'Sparse Iter 1'"):
        load_recogniser(run_copy, phase="Dense Iter 0", device="cpu")
    weights.unlink()
    with pytest.raises(ValueError, match="dense-iter-0.safetensors: no such checkpoint"):
        load_recogniser(run_copy, phase="Dense Iter 0", device="cpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "abacus"])
def test_a_device_that_is_not_there_is_refused(run, device):
    with pytest.raises(ValueError, match=f"--device {device}"):
        load_recogniser(run, device=device)


# captioners ---------------------------------------------------------------------------------------


@pytest.fixture
def caption_copy(caption_run, tmp_path) -> RunFolder:
    """To be damaged."""
    shutil.copytree(caption_run.path, tmp_path / "copy")
    return RunFolder(tmp_path / "copy")


def test_loads_a_captioner_with_vocabulary_and_settings(caption_run):
    trained = load_captioner(caption_run, phase="Sparse Iter 1", device="cpu")
    assert same_tensors(trained.model.module, caption_run.weights("Sparse Iter 1"))
    assert not trained.model.training
    assert trained.feature_size == 1280
    vocabulary = trained.captioner.vocabulary
    assert sorted(vocabulary.words[1:]) == sorted(
        "a flat plain nice simple red green blue yellow square circle on paper".split()
    )
    assert trained.captioner.search == SearchSettings(beam=1, max_words=20)
    assert trained.config.hidden_size == 64
    assert (trained.phase["kind"], trained.device) == ("sparse", torch.device("cpu"))


def test_the_search_may_be_another_than_the_runs(caption_run):
    trained = load_captioner(caption_run, device="cpu", beam=7)
    assert trained.captioner.search == SearchSettings(beam=7, max_words=20)
    trained = load_captioner(caption_run, device="cpu", max_words=5)
    assert trained.captioner.search == SearchSettings(beam=1, max_words=5)
    with pytest.raises(ValueError, match="beam must be at least 1, got 0"):
        load_captioner(caption_run, device="cpu", beam=0)


def test_a_vocabulary_of_another_network_is_refused(caption_copy):
    words = [f"word{number}" for number in range(5)]
    WordVocabulary.build([words], min_count=1).save(caption_copy.path)
    with pytest.raises(ValueError, match="safetensors: the weights are not those of the network.*vocabulary"):
        load_captioner(caption_copy, device="cpu")
    (caption_copy.path / "vocabulary.json").unlink()
    with pytest.raises(ValueError, match="vocabulary.json: no such file.*run's folder, copy it again whole"):
        load_captioner(caption_copy, device="cpu")


def test_weights_without_an_image_layer_are_refused(caption_copy):
    path = caption_copy.weights("Dense Iter 0")
    checkpoint = load_checkpoint(path)
    del checkpoint.tensors["image.weight"]
    save_checkpoint(path, checkpoint)
    with pytest.raises(ValueError, match="not those of the network(.|\n)*image.weight"):
        load_captioner(caption_copy, phase="Dense Iter 0", device="cpu")


def test_the_encoder_is_the_runs_with_the_runs_weights(caption_run):
    trained = load_captioner(caption_run, device="cpu")
    encoder = load_encoder(trained)
    assert (encoder.name, encoder.feature_size) == ("efficientnet_lite0", 1280)
    assert encoder.fingerprint == make_encoder("efficientnet_lite0").fingerprint


def test_weights_in_the_settings_are_those_of_the_cnn_in_the_settings(caption_copy, tmp_path):
    weights = {"name": "efficientnet_lite0", "weights": tmp_path / "gone.pth"}
    trained = load_captioner(caption_copy, device="cpu")
    settings = replace(trained.config, encoder=neuraltalk.EncoderSettings(**weights))
    trained = replace(trained, config=settings)
    with pytest.raises(ValueError, match="gone.pth"):
        load_encoder(trained)
    with pytest.raises(ValueError, match="other.pth"):
        load_encoder(trained, weights=tmp_path / "other.pth")
    settings = replace(settings, encoder=replace(settings.encoder, name="mobilenet_v3_large"))
    other = load_encoder(replace(trained, config=settings), "efficientnet_lite0")  # as its own weights are
    assert other.fingerprint == make_encoder("efficientnet_lite0").fingerprint


def test_weights_that_are_not_finite_are_refused_by_name(run_copy):
    path = run_copy.weights("Dense Iter 1")
    whole = load_checkpoint(path)
    name = next(name for name, one in whole.tensors.items() if one.is_floating_point())
    whole.tensors[name].view(-1)[3] = torch.nan
    save_checkpoint(path, whole)
    with pytest.raises(CheckpointError, match=rf"dense-iter-1.safetensors: '{name}' holds NaN.*--phase"):
        load_recogniser(run_copy, phase="Dense Iter 1", device="cpu")
