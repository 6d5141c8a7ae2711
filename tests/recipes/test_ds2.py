"""What DeepSpeech 2's recipe has of its own; what it shares with DeepSpeech 1's is tested there."""

import io

import pytest
import torch
from rich.console import Console

from seqdsd.cli import main as seqdsd
from seqdsd.engine import NesterovSettings, load_checkpoint
from seqdsd.recipes import ds2
from seqdsd.tasks import BatchSettings

ROUND = {"iters": 1, "epochs": (6, 2, 2), "sparsities": (0.5,), "learning_rates": (1e-2, 5e-3, 2e-3)}


def tiny(data, out, **network):
    return ds2.Config(
        data=data,
        out=out,
        hidden_size=32,
        device="cpu",
        network=ds2.NetworkSettings(**{"num_recurrent_layers": 2, **network}),
        optimizer=NesterovSettings(momentum=0.9),
        batches=BatchSettings(max_batch_seconds=4.0, num_workers=0),
        **ROUND,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, write_tone_corpus):
    folder = tmp_path_factory.mktemp("trained")
    corpus = write_tone_corpus(folder / "tones", num_train=48)
    return ds2.run(tiny(corpus.folder, folder / "run"), console=Console(quiet=True))


def test_a_tiny_network_learns_the_tones(trained):
    assert [phase["name"] for phase in trained.phases] == ["Dense Iter 0", "Sparse Iter 1", "Dense Iter 1"]
    assert trained.phases[-1]["dev"]["wer"] <= 0.2


def test_recurrent_and_fc_weights_are_pruned_and_nothing_else(trained):
    tensors = load_checkpoint(trained.folder.weights("Sparse Iter 1")).tensors
    pruned = {
        name for name, tensor in tensors.items() if tensor.dim() > 1 and (tensor == 0).float().mean() > 0.4
    }
    recurrent = {f"recurrent.{i}.{name}" for i in (0, 1) for name in ("input.weight", "weight_recurrent")}
    assert pruned == {*recurrent, "fc.0.weight"}
    for name in pruned:
        assert int((tensors[name] == 0).sum()) == round(tensors[name].numel() / 2)


def test_a_trained_network_is_evaluated_and_transcribes(trained, write_tone_corpus, capsys, tmp_path):
    recording = next((trained.folder.path.parent / "tones" / "test").glob("*.wav"))
    seqdsd(["evaluate", str(trained.folder.path), "--device", "cpu"])
    assert "WER" in capsys.readouterr().out
    seqdsd(["transcribe", str(trained.folder.path), str(recording), "--device", "cpu"])
    assert capsys.readouterr().out.rstrip("\n").split("\t")[1].strip()


@pytest.mark.parametrize(
    "network", [{"cell": "gru"}, {"cell": "lstm", "bidirectional": False}, {"bidirectional": False}]
)
def test_other_networks_of_the_deepspeech_2_paper_prune_and_train(tone_corpus, tmp_path, network):
    config = tiny(tone_corpus.folder, tmp_path / "run", **network)
    result = ds2.run(config, console=Console(quiet=True))
    losses = [phase["train_loss"][-1] for phase in result.phases]
    assert losses[-1] < result.phases[0]["train_loss"][0]
    assert result.phases[1]["measured_sparsity"] == pytest.approx(0.5, abs=0.01)
    assert all(torch.isfinite(torch.tensor(losses)))


def test_a_dry_run_shows_table_8_layer_by_layer(tone_corpus, tmp_path):
    out = io.StringIO()
    config = ds2.Config(data=tone_corpus.folder, out=tmp_path / "run", device="cpu")
    ds2.dry_run(config, Console(file=out, width=200))
    for layer, count in {
        "conv1": "19,616",
        "conv2": "239,168",
        "recurrent.0": "8,507,840",
        "recurrent.6": "9,296,320",
        "fc": "3,101,120",
        "output": "51,069",
    }.items():
        assert any(layer in line and count in line for line in out.getvalue().splitlines()), layer
    assert not (tmp_path / "run").exists()


def test_table_9_is_the_default():
    schedule = ds2.Config().schedule
    assert [phase.learning_rate for phase in schedule] == [3e-4, 3e-4, 3e-5, 3e-5, 6e-6]
    assert [phase.sparsity for phase in schedule] == [0, 0.5, 0, 0.25, 0]
    assert {phase.epochs for phase in schedule} == {20}


@pytest.mark.parametrize(
    "setting",
    [{"num_recurrent_layers": 0}, {"num_recurrent_layers": 10**12}, {"future_frames": -1}, {"dropout": 1.0}],
)
def test_settings_out_of_range_are_named(setting):
    with pytest.raises(ValueError, match=next(iter(setting))):
        ds2.NetworkSettings(**setting)
