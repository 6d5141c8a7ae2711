import gc
import multiprocessing
import os
import signal

import numpy as np
import pytest
import soundfile
import torch

from seqdsd.audio import reading
from seqdsd.data import (
    BadDataError,
    BadExample,
    BucketBatchSampler,
    Manifest,
    SpeechDataset,
    Utterance,
    check_transcripts,
    load_batches,
    read_corpus,
    read_manifest,
)
from seqdsd.data import speech as speech_module
from seqdsd.text import CharacterTokenizer

TOKENIZER = CharacterTokenizer()


def utterance(text="bad", *, seconds=1.0, line=1, path="/nowhere.wav"):
    return Utterance(f"u{line}", str(path), seconds, text, None, f"train.jsonl:{line}")


def manifest(tmp_path, *utterances):
    return Manifest(tmp_path / "train.jsonl", list(utterances), [])


def check(given, **options):
    frames = options.pop("output_frames", lambda seconds: round(50 * seconds))
    return check_transcripts(given, TOKENIZER, output_frames=frames, **options)


def test_read_corpus_takes_every_test_set(tone_corpus):
    corpus = read_corpus(tone_corpus.folder)
    assert len(corpus.train.utterances) == 24 and len(corpus.dev.utterances) == 6
    assert list(corpus.test) == ["test"]
    (tone_corpus.folder / "test.jsonl").rename(tone_corpus.folder / "test_clean.jsonl")
    tone_corpus.write("test_other", ["bad"])
    assert list(read_corpus(tone_corpus.folder).test) == ["test_clean", "test_other"]


def test_without_test_no_test_set_is_opened_or_needed(tone_corpus):
    path = tone_corpus.folder / "test.jsonl"
    path.write_text("damaged")
    assert read_corpus(tone_corpus.folder, with_test=False).test == {}
    path.unlink()
    corpus = read_corpus(tone_corpus.folder, with_test=False)
    assert corpus.test == {} and (len(corpus.train.utterances), len(corpus.dev.utterances)) == (24, 6)


@pytest.mark.parametrize("missing", ["train", "dev", "test"])
def test_a_missing_manifest_is_named_with_the_remedy(tone_corpus, missing):
    (tone_corpus.folder / f"{missing}.jsonl").unlink()
    with pytest.raises(BadDataError, match=rf"{missing}\.jsonl.*"):
        read_corpus(tone_corpus.folder)


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (utterance("naïve", line=7), r"'ï'"),
        (utterance("BAD", line=7), r"upper-case.*Lower-case them"),
        (utterance("beef", seconds=0.08, line=7), r"it needs 5 frames\) in 4 output frames of 0\.08 s"),
        (
            utterance("bad", seconds=9.0, line=7),
            r"9\.0 s, longer than the 5 s that a batch may be; split.*max_batch_seconds",
        ),
    ],
)
def test_bad_transcripts_are_named_by_manifest_line(tmp_path, bad, what, caplog):
    given = manifest(tmp_path, utterance(), bad)
    with pytest.raises(BadDataError, match=rf"^train\.jsonl:7: utterance u7: .*{what}.*--on-bad-data skip"):
        check(given, longest_seconds=5.0)
    checked = check(given, longest_seconds=5.0, on_bad_data="skip")
    assert [one.id for one in checked.utterances] == ["u1"]
    assert len(checked.skipped) == 1 and checked.skipped[0].startswith("train.jsonl:7: utterance u7: ")
    assert checked.skipped[0] in caplog.text


def test_ctc_needs_a_frame_a_token_and_one_between_equals(tmp_path):
    fits = utterance("egg", seconds=4 / 50)  # e, g, blank, g
    assert check(manifest(tmp_path, fits)).utterances == [fits]
    with pytest.raises(BadDataError, match="needs 4 frames"):
        check(manifest(tmp_path, utterance("egg", seconds=3 / 50)))


def test_skipped_lines_of_the_manifest_are_kept_and_nothing_left_is_an_error(tmp_path):
    given = Manifest(tmp_path / "train.jsonl", [utterance("BAD", line=2)], ["train.jsonl:1: not JSON"])
    with pytest.raises(BadDataError, match=r"no utterance is left.*not JSON"):
        check(given, on_bad_data="skip")
    some = Manifest(given.path, [utterance(), utterance("BAD", line=2)], given.skipped)
    assert [message[:13] for message in check(some, on_bad_data="skip").skipped] == [
        "train.jsonl:1",
        "train.jsonl:2",
    ]


def test_the_dataset_gives_samples_tokens_and_text(tone_corpus):
    utterances = read_manifest(tone_corpus.folder / "train.jsonl").utterances
    example = SpeechDataset(utterances, TOKENIZER)[3]
    expected, rate_hz = soundfile.read(utterances[3].audio_path, dtype="float32")
    assert rate_hz == 16_000 and np.array_equal(example.samples.numpy(), expected)
    assert example.id == utterances[3].id and example.text == utterances[3].text
    assert TOKENIZER.decode(example.tokens) == utterances[3].text


def damage(path, how):
    if how == "missing":
        path.unlink()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(b"this is no audio" * 100)
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    else:
        samples, rate_hz = soundfile.read(path)
        samples[100] = np.nan
        soundfile.write(path, samples if how == "nan" else samples[:200], rate_hz, subtype="FLOAT")


@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "truncated", "nan"])
def test_what_cannot_be_read_comes_back_as_a_message_with_line_and_file(tone_corpus, how):
    utterances = read_manifest(tone_corpus.folder / "train.jsonl").utterances
    path = tone_corpus.folder / "train" / "train03.wav"
    damage(path, how)
    bad = SpeechDataset(utterances, TOKENIZER)[3]
    assert isinstance(bad, BadExample) and bad.id == "train03"
    assert bad.message.startswith("train.jsonl:4: utterance train03: ") and str(path) in bad.message


def test_a_file_that_the_system_refuses_is_bad_data_too(tone_corpus, monkeypatch):
    def refuse(path, **_):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(speech_module, "read_audio", refuse)
    bad = SpeechDataset(read_manifest(tone_corpus.folder / "dev.jsonl").utterances, TOKENIZER)[0]
    assert isinstance(bad, BadExample)
    assert "dev.jsonl:1: utterance dev00: " in bad.message and "Permission denied" in bad.message


def test_less_than_a_feature_window_is_bad_data(tmp_path):
    soundfile.write(tmp_path / "short.wav", np.zeros(319), 16_000)
    short = utterance(seconds=319 / 16_000, path=tmp_path / "short.wav")
    bad = SpeechDataset([short], TOKENIZER, min_samples=320)[0]
    assert isinstance(bad, BadExample) and "319 samples" in bad.message
    assert not isinstance(SpeechDataset([short], TOKENIZER, min_samples=319)[0], BadExample)


def test_speed_is_drawn_anew_in_each_epoch_and_decided_by_seed_and_index(tone_corpus):
    utterances = read_manifest(tone_corpus.folder / "train.jsonl").utterances
    speeds = (0.9, 1.0, 1.1)

    def drawn(seed):
        dataset = SpeechDataset(utterances, TOKENIZER, speed_factors=speeds, seed=seed)
        ratios = [dataset[i].samples.numel() / 16_000 / utterances[i].duration_seconds for i in range(24)]
        return [min(speeds, key=lambda speed, ratio=ratio: abs(1 / speed - ratio)) for ratio in ratios]

    first = drawn((0, 1))
    assert drawn((0, 1)) == first and set(first) == set(speeds)
    assert drawn((0, 2)) != first and drawn((1, 1)) != first


@pytest.mark.parametrize("what", [{"stretch": 0.2}, {"pitch_semitones": 3.0}])
def test_tempo_and_pitch_are_decided_by_seed_epoch_and_index(tone_corpus, what):
    utterances = read_manifest(tone_corpus.folder / "train.jsonl").utterances[:4]

    def drawn(seed, **more):
        dataset = SpeechDataset(utterances, TOKENIZER, seed=seed, **more)
        return [dataset[index].samples for index in (3, 0, 2, 1)]  # any order

    first, plain = drawn((0, 1), **what), drawn((0, 1))
    assert all(map(torch.equal, first, drawn((0, 1), **what)))
    for other in (plain, drawn((0, 2), **what), drawn((1, 1), **what)):
        assert not any(map(torch.equal, first, other))
    ratios = [len(one) / len(other) for one, other in zip(first, plain, strict=True)]
    assert all(1 / 1.2 - 0.01 < ratio < 1 / 0.8 + 0.01 for ratio in ratios)
    assert (len(set(ratios)) == 4) == ("stretch" in what)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_batches_are_the_samplers_and_leave_the_global_generator_alone(tone_corpus, num_workers):
    utterances = read_manifest(tone_corpus.folder / "dev.jsonl").utterances
    sampler = BucketBatchSampler([one.duration_seconds for one in utterances], max_batch_seconds=3.0, epoch=1)
    state = torch.get_rng_state()
    batches = list(load_batches(SpeechDataset(utterances, TOKENIZER), sampler, num_workers=num_workers))
    assert [list(batch.ids) for batch in batches] == [
        [utterances[i].id for i in chosen] for chosen in sampler
    ]
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_workers_leave_signals_to_the_trainer(tone_corpus, number):
    """Terminals and clusters send them to every process; a worker's death would raise in the trainer."""
    utterances = read_manifest(tone_corpus.folder / "train.jsonl").utterances
    sampler = BucketBatchSampler([one.duration_seconds for one in utterances], max_batch_seconds=1.2)
    batches = load_batches(SpeechDataset(utterances, TOKENIZER), sampler, num_workers=1)
    ids = list(next(batches).ids)
    [worker] = multiprocessing.active_children()
    os.kill(worker.pid, number)
    ids += [id_ for batch in batches for id_ in batch.ids]
    assert sorted(ids) == [one.id for one in utterances]


def test_no_batches_left_needs_no_workers(tone_corpus):
    utterances = read_manifest(tone_corpus.folder / "dev.jsonl").utterances
    sampler = BucketBatchSampler([1.0] * 6, max_batch_seconds=3.0, first=99)
    assert list(load_batches(SpeechDataset(utterances, TOKENIZER), sampler, num_workers=1)) == []


def numbers_in_memory() -> int:
    """Elements of all tensors that are alive."""
    gc.collect()
    return sum(one.numel() for one in gc.get_objects() if type(one) is torch.Tensor)


def test_memory_does_not_grow_with_the_audio(tone_corpus, monkeypatch):
    """A hundred thousand lines: nothing is opened on construction, and reading leaves nothing behind."""
    one = read_manifest(tone_corpus.folder / "train.jsonl").utterances[0]
    monkeypatch.setattr(reading, "_opened", None)  # would fail if called
    dataset = SpeechDataset([one] * 100_000, TOKENIZER)
    assert len(dataset) == 100_000
    monkeypatch.undo()
    before = numbers_in_memory()
    lengths = [dataset[index].samples.numel() for index in range(20)]
    assert min(lengths) > 1000 and numbers_in_memory() - before < 1000
