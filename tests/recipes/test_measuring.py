"""What is measured of a corpus, against what was written into it."""

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from seqdsd.cli import main as seqdsd
from seqdsd.data import read_corpus
from seqdsd.recipes.measuring import counted, duration, measure


@pytest.fixture
def entries(tone_corpus):
    return tone_corpus.read_manifest("train")


def measured(folder):
    return measure(read_corpus(folder, with_test=False))


def test_numbers_are_those_of_the_training_manifest(tone_corpus, entries):
    for index, entry in enumerate(entries):
        entry["speaker"] = f"s{index % 3}"
    tone_corpus.write_manifest("train", entries)
    found = measured(tone_corpus.folder)
    seconds = [entry["duration"] for entry in entries]
    assert found.hours == pytest.approx(sum(seconds) / 3600) and found.utterances == 24
    assert found.mean_seconds == pytest.approx(np.mean(seconds))
    assert found.longest_seconds == max(seconds) and found.speakers == 3
    assert found.num_to_cut == 0
    assert found.characters_a_second == pytest.approx(sum(len(e["text"]) for e in entries) / sum(seconds))
    assert found.alphabet == " abcdefgh" and found.dev_utterances == 6
    assert "24 utterances (mean 0.703 s, longest 1.04 s), 3 speakers" in str(found)
    assert str(found).endswith("sample rate 16,000 Hz; dev has 6 utterances")


def test_recordings_that_were_never_cut_are_counted_apart(tone_corpus, entries):
    entries[0]["duration"], entries[1]["duration"], entries[2]["duration"] = 300.0, 300.1, 3000
    tone_corpus.write_manifest("train", entries)
    found = measured(tone_corpus.folder)
    assert (found.longest_seconds, found.num_to_cut) == (3000, 2)


def test_sample_rates_are_those_of_the_headers_and_what_cannot_be_read_is_passed_over(tone_corpus, entries):
    assert measured(tone_corpus.folder).sample_rates_hz == (16_000,)
    assert measured(tone_corpus.folder).speakers is None
    soundfile.write(tone_corpus.folder / entries[3]["audio_filepath"], np.zeros(8_000), 8_000)
    (tone_corpus.folder / entries[0]["audio_filepath"]).write_bytes(b"RIFF")
    assert measured(tone_corpus.folder).sample_rates_hz == (8_000, 16_000)
    for entry in entries:
        (tone_corpus.folder / entry["audio_filepath"]).write_bytes(b"RIFF")
    assert measured(tone_corpus.folder).sample_rates_hz == ()
    assert "sample rate unknown" in str(measured(tone_corpus.folder))


def test_a_corpus_in_shards_is_measured_alike(tone_corpus, tmp_path):
    plain = measured(tone_corpus.folder)
    seqdsd(["shard", str(tone_corpus.folder), str(tmp_path / "shards")])
    assert replace(measured(tmp_path / "shards"), hours=plain.hours) == plain


def test_a_large_manifest_is_looked_into_at_fifty_places(tone_corpus, entries, monkeypatch):
    corpus = read_corpus(tone_corpus.folder, with_test=False)
    many = corpus.train.utterances * 102 + corpus.train.utterances[:5]
    read = []
    monkeypatch.setattr("seqdsd.recipes.measuring.audio_rate_hz", lambda path: read.append(path) or 16_000)
    assert measure(replace(corpus, train=replace(corpus.train, utterances=many))).utterances == 2453
    assert len(read) == 50 and len(set(read)) > 1
    read.clear()  # of 99, too, the last ones are looked at
    utterances = [replace(many[0], id=str(index), audio_path=f"{index}.wav") for index in range(99)]
    measure(replace(corpus, train=replace(corpus.train, utterances=utterances)))
    places = [int(path.removesuffix(".wav")) for path in read]
    assert len(places) == 50 and set(np.diff(places)) == {1, 2} and places[-1] > 95


def test_what_only_ffmpeg_reads_has_an_unknown_rate(tone_corpus):
    corpus = read_corpus(tone_corpus.folder, with_test=False)
    first, *others = corpus.train.utterances
    for utterances, rates, said in (
        (
            [first, *(replace(one, audio_path="a.m4a") for one in others)],
            (16_000,),
            "16,000 Hz and others unknown",
        ),
        ([replace(one, audio_path="a.m4a") for one in others], (), "unknown"),
    ):
        found = measure(replace(corpus, train=replace(corpus.train, utterances=utterances)))
        assert (found.sample_rates_hz, found.all_rates_known) == (rates, False)
        assert f"sample rate {said}; dev" in str(found)


@pytest.mark.parametrize(
    ("hours", "said"),
    [(0.004, "14 s"), (0.25, "15 min"), (0.999, "60 min"), (5.16, "5.16 h"), (960, "960 h")],
)
def test_a_time_is_said_in_the_unit_that_suits_it(hours, said):
    assert duration(hours) == said


def test_one_thing_is_not_several():
    assert (counted(1, "step"), counted(1200, "step")) == ("1 step", "1,200 steps")
