"""What our recognisers are compared with is as large, learns, is judged by its best epoch; no run is made twice."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from benchmarks.ctc_rivals import network_of_size, parameters_of
from benchmarks.out_of_the_box import TOLERANCE, Config, Record, Row, read, table, train_rivals, write
from benchmarks.trained_rivals import (
    RIVALS,
    LogMel,
    make_optimizer,
    missing,
    one_cycle,
    take_step,
    train_rival,
    word_error_rate,
)
from seqdsd.data import SpeechBatch, read_corpus
from seqdsd.data.manifest import Utterance, write_manifest

RECORD = Record(
    corpus="an4",
    network="gru",
    like="ds2",
    seed=0,
    parameters=1000,
    epochs=2,
    batch_seconds=8.0,
    peak=1e-3,
    dev_wer=0.5,
    test_wer=0.25,
    best_epoch=2,
    train_loss=[3.0, 2.0],
    dev_wer_by_epoch=[1.0, 0.5],
    train_seconds=90.0,
    skipped_steps=0,
    threads=1,
    origin={},
)


@pytest.mark.parametrize("name", RIVALS)
@pytest.mark.filterwarnings("ignore")  # of other toolkits
def test_rivals_are_as_large_and_take_a_step(name):
    if why := missing(name):
        pytest.skip(why)
    torch.manual_seed(0)
    model = network_of_size(RIVALS[name][2], 300_000, tolerance=TOLERANCE)
    assert parameters_of(model) == pytest.approx(300_000, rel=0.05)
    batch = SpeechBatch.noise([[1, 2, 2, 3], [4]], 8000)
    batch = replace(batch, num_samples=torch.tensor([8000, 4000]))
    log_probs, num_frames = model(*LogMel(16_000)(batch.waveforms, batch.num_samples))
    assert int(num_frames.max()) == log_probs.shape[1]
    torch.testing.assert_close(log_probs.exp().sum(-1), torch.ones(log_probs.shape[:2]))
    before = [one.detach().clone() for one in model.parameters()]
    assert take_step(model, LogMel(16_000), batch, make_optimizer(model, 1e-3)) > 0
    # Conformer's positions of the longest distance and the like may stay as they are.
    moved = [not torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True)]
    assert np.mean(moved) > 0.9


@pytest.mark.parametrize("sample_rate_hz", [8_000, 16_000])
def test_features_are_normalised_and_know_no_padding(sample_rate_hz):
    long, short = SpeechBatch.noise([[1], [1]], sample_rate_hz).waveforms
    short = short[: sample_rate_hz // 2]
    together = torch.nn.utils.rnn.pad_sequence([long, short], batch_first=True)
    features, num_frames = LogMel(sample_rate_hz)(together, torch.tensor([len(long), len(short)]))
    assert num_frames.tolist() == [101, 51] and features.shape == (2, 101, 80)
    alone, _ = LogMel(sample_rate_hz)(short[None], torch.tensor([len(short)]))
    torch.testing.assert_close(features[1, :51], alone[0])
    assert features[1, 51:].abs().max() == 0
    torch.testing.assert_close(alone[0].mean(0), torch.zeros(80), atol=1e-4, rtol=0)
    torch.testing.assert_close(alone[0].std(0, correction=0), torch.ones(80), atol=1e-2, rtol=0)


def test_the_rate_has_one_cycle():
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.ones(1))], lr=2e-3)
    cycle, rates = one_cycle(optimizer, 100), []
    for _ in range(100):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        cycle.step()
    assert rates[:3] == pytest.approx([2e-4, 4e-4, 6e-4])
    assert rates[9] == rates[10] == max(rates) == pytest.approx(2e-3)
    assert rates[55] == pytest.approx(1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True) and 0 < rates[-1] < 1e-5


@pytest.fixture
def corpus(tmp_path):
    """Noise."""
    audio = tmp_path / "noise.wav"
    soundfile.write(audio, 0.1 * np.random.default_rng(0).standard_normal(8000), 16_000)
    for split in ("train", "dev", "test"):
        utterances = [
            Utterance(
                id=f"{number}",
                audio_path=str(audio),
                duration_seconds=0.5,
                text="go",
                speaker=None,
                source="",
            )
            for number in range(2)
        ]
        write_manifest(tmp_path / f"{split}.jsonl", utterances)
    return read_corpus(tmp_path)


def test_the_best_epochs_weights_are_tested(corpus):
    """All splits are one, so its dev WER is the test WER; the last epoch's weights are spoilt."""
    torch.manual_seed(0)
    model = RIVALS["gru"][2](32)
    seen = []

    def after_epoch(now):
        seen.append(now.dev_wer[-1])
        if len(seen) == 40:
            torch.nn.utils.vector_to_parameters(torch.zeros(parameters_of(model)), list(model.parameters()))

    done = train_rival(
        model,
        corpus,
        sample_rate_hz=16_000,
        epochs=40,
        batch_seconds=0.5,
        peak=1e-2,
        seed=0,
        after_epoch=after_epoch,
    )
    assert seen == done.dev_wer and len(done.train_loss) == 40
    assert done.train_loss[-1] < 0.2 * done.train_loss[0]
    assert done.dev_wer[0] > done.test_wer == min(done.dev_wer) == 0
    assert done.dev_wer.index(0) == done.best_epoch - 1
    assert word_error_rate(model, LogMel(16_000), corpus.test["test"], 16_000) == 0


def test_the_rate_is_chosen_on_dev_and_no_run_is_made_twice(tmp_path):
    """Nothing can be trained here: there is no corpus."""
    config = Config(corpus="an4", network="gru", out=tmp_path, seeds=(0,), epochs=2)
    row = Row(config, "an4", "gru", tmp_path, 16_000, 50_000, 2)
    for peak, dev, test in ((5e-4, 0.6, 0.1), (1e-3, 0.4, 0.3), (2e-3, 0.5, 0.2)):
        write(row.candidate(peak), replace(RECORD, peak=peak, dev_wer=dev, test_wer=test))
    train_rivals(row)
    record = read(row.record(0))
    assert (record.peak, record.test_wer) == (1e-3, 0.3)
    assert record.candidates == {"0.0005": 0.6, "0.001": 0.4, "0.002": 0.5}
    train_rivals(row)
    with pytest.raises(ValueError, match="no such manifest"):
        train_rivals(replace(row, config=replace(config, seeds=(0, 1))))


def test_table():
    records = [
        RECORD,
        replace(RECORD, seed=1, dev_wer=0.52, test_wer=0.29),
        replace(RECORD, network="ds2", peak=5e-4),
        replace(RECORD, like="ds1", parameters=500),
        replace(RECORD, corpus="mine", network="ds1", like="ds1"),
    ]
    rows = [line.strip("| ").split(" | ") for line in table(reversed(records)).splitlines()]
    assert rows[2:] == [
        ["an4", "ds2", "1,000", "2", "8 s", "0.0005", "0", "50.00", "25.00"],
        ["an4", "gru, as large as ds1", "500", "2", "8 s", "0.001", "0", "50.00", "25.00"],
        ["an4", "gru", "1,000", "2", "8 s", "0.001", "0, 1", "51.00 ± 1.41", "27.00 ± 2.83"],
        ["mine", "ds1", "1,000", "2", "8 s", "0.001", "0", "50.00", "25.00"],
    ]


def test_a_damaged_record_is_named(tmp_path):
    Path(tmp_path / "one.json").write_text("{}")
    with pytest.raises(ValueError, match=r"one\.json: not a record"):
        read(tmp_path / "one.json")
