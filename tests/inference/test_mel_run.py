"""A run on log-mel features in use: loaded, scored, transcribed and exported; and runs of before there were any."""

import json
import re
import shutil
from dataclasses import replace

import jaxtyping
import pytest
import torch
from rich.console import Console

import seqdsd
from seqdsd.audio.features import mel_filters
from seqdsd.cli import main
from seqdsd.inference.trained import load_recogniser
from seqdsd.models import DeepSpeech1
from seqdsd.recipes import ds1
from seqdsd.records import RunFolder
from seqdsd.tasks import AugmentSettings, DecodingSettings, FeatureSettings
from seqdsd.text import CharacterTokenizer

MEL = FeatureSettings(kind="mel", num_mels=40, highest_hz=4000.0, normalise="utterance")


@pytest.fixture(scope="module")
def run(tmp_path_factory, write_tone_corpus, tiny_ds1) -> RunFolder:
    """Trained for some seconds, until it hears some of its tones."""
    folder = tmp_path_factory.mktemp("mel-runs")
    corpus = write_tone_corpus(folder / "tones")
    masks = AugmentSettings(spec_augment=True, freq_masks=1, freq_width_bins=8, time_masks=0)
    config = tiny_ds1(corpus.folder, folder / "run", epochs=(15, 1, 1), features=MEL, augment=masks)
    return ds1.run(config, console=Console(quiet=True)).folder


@pytest.fixture
def without_shape_checks():
    """They would be traced into the graph."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def transcripts(capsys, what, recordings) -> list:
    main(["transcribe", str(what), *map(str, recordings), "--timestamps", "json"])
    return [json.loads(line)["segments"] for line in capsys.readouterr().out.splitlines()]


def test_is_loaded_and_scored_as_it_was_trained(run):
    trained = load_recogniser(run, device="cpu")
    assert trained.config.features == MEL and trained.recogniser.features.num_bins == 40
    scored = seqdsd.load(run.path, device="cpu").evaluate(split="dev").metrics["dev"]
    assert scored["wer"] == trained.phase["dev"]["wer"] < 1
    assert scored["loss"] == pytest.approx(trained.phase["dev"]["loss"], rel=1e-4)


@pytest.mark.filterwarnings("ignore")  # of the exporter, on its own parts
def test_the_exported_file_knows_its_features(run, tmp_path, capsys, without_shape_checks):
    onnx = pytest.importorskip("onnx", reason="needs ONNX (pip install 'seqdsd[onnx]')")
    from seqdsd.inference.onnx_files import load_exported_recogniser

    path = tmp_path / "mel.onnx"
    main(["export", str(run.path), "--out", str(path)])
    capsys.readouterr()
    recordings = sorted((run.path.parent / "tones" / "test").glob("*.wav"))
    assert transcripts(capsys, path, recordings) == transcripts(capsys, run.path, recordings)

    model = onnx.load(path)
    [described] = [one for one in model.metadata_props if one.key == "seqdsd"]
    facts = json.loads(described.value)
    features = {"kind": "mel", "num_mels": 40, "normalise": "utterance"}
    assert facts.pop("features") == {**features, "highest_hz": 4000.0}
    described.value = json.dumps(
        {**facts, "features": features}
    )  # of before mel filters could end below 8 kHz
    onnx.save(model, path)
    heard = load_exported_recogniser(path, DecodingSettings()).recogniser.features
    torch.testing.assert_close(heard.filters, mel_filters(40, 8000.0))
    for features in ({}, {"features": {"kind": "mel", "num_mels": "40"}}, {"features": {"kind": "cepstra"}}):
        described.value = json.dumps({**facts, **features})
        onnx.save(model, path)
        with pytest.raises(ValueError, match=r"mel.onnx: not a recogniser that seqdsd export has written"):
            load_exported_recogniser(path, DecodingSettings())


@pytest.mark.filterwarnings("ignore")
def test_a_file_of_before_there_was_log_mel_has_linear_bins(tmp_path, without_shape_checks):
    pytest.importorskip("onnx", reason="needs ONNX (pip install 'seqdsd[onnx]')")
    from seqdsd.inference.export import write_onnx
    from seqdsd.inference.graphs import acoustic_graph
    from seqdsd.inference.onnx_files import load_exported_recogniser

    facts = {"tokenizer": CharacterTokenizer().to_json(), "frame_seconds": 0.02}
    write_onnx(acoustic_graph(DeepSpeech1(hidden_size=8).eval(), 161), tmp_path / "old.onnx", facts)
    features = load_exported_recogniser(tmp_path / "old.onnx", DecodingSettings()).recogniser.features
    assert features.num_bins == 161 and features.normalise == "bin"


def test_a_run_of_before_there_was_log_mel_has_linear_bins(tone_run, tmp_path, capsys):
    old = RunFolder(shutil.copytree(tone_run.path, tmp_path / "old"))
    without = re.sub(r"\[features\]\n(.+\n)+", "", old.config.read_text())
    assert "num_mels" in old.config.read_text() and "num_mels" not in without
    old.config.write_text(without)
    trained = load_recogniser(old, device="cpu")
    assert trained.config.features == FeatureSettings(kind="linear", num_mels=80, normalise="bin")
    resumed = ds1.run(replace(trained.config, out=old.path), resume=True, console=Console(quiet=True))
    assert len(resumed.phases) == 3
    recordings = sorted((tone_run.path.parent / "tones" / "test").glob("*.wav"))
    assert transcripts(capsys, old.path, recordings) == transcripts(capsys, tone_run.path, recordings)
