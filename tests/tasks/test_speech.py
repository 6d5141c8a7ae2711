import json
import math
import re

import jiwer
import numpy as np
import pytest
import soundfile
import torch

from seqdsd.audio import LogSpectrogram
from seqdsd.data import BadDataError, BucketBatchSampler, read_corpus
from seqdsd.engine import Processes
from seqdsd.models import DeepSpeech1
from seqdsd.tasks import AugmentSettings, BatchSettings, FeatureSettings, SpeechTask
from seqdsd.text import CharacterTokenizer

CPU = torch.device("cpu")


@pytest.fixture
def model() -> DeepSpeech1:
    """An untrained network that says a lot: large output weights, and batch norm that has seen something."""
    torch.manual_seed(0)
    model = DeepSpeech1(vocab_size=29, hidden_size=16, batch_norm=True)
    with torch.no_grad():
        model.output.weight.mul_(20)
        for _ in range(20):
            model(torch.randn(4, 100, 161), torch.full((4,), 100))
    return model


@pytest.fixture
def make_task(tone_corpus, model):
    def make(*, max_batch_seconds=8.0, on_bad_data="error", **options):
        options.setdefault(
            "batches_settings", BatchSettings(max_batch_seconds=max_batch_seconds, num_workers=0)
        )
        corpus = read_corpus(tone_corpus.folder, on_bad_data=on_bad_data)
        return SpeechTask(model, CharacterTokenizer(), corpus, on_bad_data=on_bad_data, **options)

    return make


THREE_WORDS = ["beef beef beef", "bad cab fed", "bad egg beef", "hag age dab"] * 8  # 0.88 to 1.12 s each


def test_a_score_does_not_depend_on_the_batch_size(make_task, model, tone_corpus):
    """At budgets that give 1, 3 and 32 utterances a batch: the same hypotheses, and losses to rounding."""
    tone_corpus.write("train", THREE_WORDS)
    judged = {}
    for size, max_batch_seconds in {1: 1.2, 3: 3.4, 32: 100.0}.items():
        task = make_task(max_batch_seconds=max_batch_seconds)
        assert max(len(batch) for (batch,) in task.batches(0, first=0)) == size
        judged[size] = task.evaluate(model, "train", CPU)
    hyps = [[row["hyp"] for row in one.hypotheses] for one in judged.values()]
    assert hyps[0] == hyps[1] == hyps[2] and len(set(hyps[0])) > 12
    assert judged[1].metrics["wer"] == judged[3].metrics["wer"] == judged[32].metrics["wer"]
    for one in judged.values():
        assert one.loss == pytest.approx(judged[1].loss, rel=1e-5)


def test_log_probs_do_not_depend_on_the_batch_size(make_task, model):
    task = make_task(max_batch_seconds=100.0)
    model.eval()
    [[batch]] = task.batches(0, first=0)
    with torch.no_grad():
        together, num_frames = task.recogniser.log_probs(model, batch.waveforms, batch.num_samples)
        for item in range(len(batch)):
            samples = batch.num_samples[item : item + 1]
            alone, frames = task.recogniser.log_probs(
                model, batch.waveforms[item : item + 1, : int(samples)], samples
            )
            assert int(frames) == int(num_frames[item]) == alone.shape[1]
            torch.testing.assert_close(together[item, : int(frames)], alone[0], rtol=1e-4, atol=1e-4)


def test_the_loss_is_ctc_summed_over_frames_and_averaged_over_utterances(make_task, model):
    task = make_task(max_batch_seconds=4.0)
    model.eval()
    [batch] = next(task.batches(1, first=0))
    assert len(batch) > 1
    features, start = LogSpectrogram(), 0
    losses = []
    for item, length in enumerate(batch.num_tokens.tolist()):
        waveform = batch.waveforms[item : item + 1, : int(batch.num_samples[item])]
        log_probs, frames = model(*features(waveform, batch.num_samples[item : item + 1]))
        tokens = batch.tokens[start : start + length]
        start += length
        assert task.tokenizer.decode(tokens.tolist()) == batch.texts[item]
        one = torch.nn.CTCLoss(blank=0, reduction="sum")(
            log_probs[0], tokens, frames[0], torch.tensor(length)
        )
        losses.append(one.item())
    assert task.loss(model, batch).item() == pytest.approx(np.mean(losses), rel=1e-5)


def test_metrics_are_jiwer_s_with_their_counts(make_task, model):
    evaluation = make_task().evaluate(model, "test", CPU)
    refs, hyps = ([row[key] for row in evaluation.hypotheses] for key in ("ref", "hyp"))
    metrics, words = evaluation.metrics, jiwer.process_words(refs, hyps)
    assert metrics["wer"] == evaluation.score == words.wer and metrics["cer"] == jiwer.cer(refs, hyps)
    for name in ("hits", "substitutions", "deletions", "insertions"):
        assert metrics[name] == getattr(words, name)
    assert metrics["utterances"] == 6 and metrics["loss"] == evaluation.loss
    assert metrics["ref_words"] == sum(len(ref.split()) for ref in refs)
    assert evaluation.headline == f"WER {100 * words.wer:.2f} %"
    json.dumps(metrics, allow_nan=False)


def test_hypotheses_come_in_the_manifest_s_order(make_task, model, tone_corpus):
    rows = make_task().evaluate(model, "test", CPU).hypotheses
    assert [(row["id"], row["ref"]) for row in rows] == [
        (entry["id"], entry["text"]) for entry in tone_corpus.read_manifest("test")
    ]


def test_hypotheses_say_who_speaks_where_the_manifest_does(make_task, model, tone_corpus):
    entries = tone_corpus.read_manifest("test")
    assert not any("speaker" in row for row in make_task().evaluate(model, "test", CPU).hypotheses)
    for number, entry in enumerate(entries[:2]):
        entry["speaker"] = f"speaker {number}"
    tone_corpus.write_manifest("test", entries)
    rows = make_task().evaluate(model, "test", CPU).hypotheses
    assert [row.get("speaker") for row in rows] == ["speaker 0", "speaker 1", *[None] * (len(rows) - 2)]


def test_blank_collapse_is_said_in_words(make_task, model):
    [untrained] = make_task().evaluate(model, "test", CPU).notes
    assert untrained.text.startswith("hardly a word is right: 0 of 13. If ")
    with torch.no_grad():
        model.output.bias[0] = 1e4  # nothing but blanks
    evaluation = make_task().evaluate(model, "test", CPU)
    assert evaluation.score == 1.0 and all(row["hyp"] == "" for row in evaluation.hypotheses)
    assert "blank collapse: 100%" in str(evaluation.notes[0]) and "learning rate" in str(evaluation.notes[0])


def test_no_word_right_is_usual_for_600_steps_or_3_epochs(make_task, model):
    [note] = make_task().evaluate(model, "test", CPU).notes
    assert note.epochs == math.ceil(600 / make_task().num_batches) > 3 and note.share == 1 / 3
    task = make_task()
    task.num_batches = 5000
    assert task.evaluate(model, "test", CPU).notes[0].epochs == 3
    judged_alone = make_task()
    del judged_alone._splits["train"]
    assert judged_alone.evaluate(model, "test", CPU).notes[0].epochs == 1


def test_of_words_that_come_right_nothing_is_said(make_task, model, monkeypatch):
    task = make_task()
    refs = iter([row["ref"] for row in task.evaluate(model, "test", CPU).hypotheses])
    monkeypatch.setattr(
        task.recogniser, "texts", lambda log_probs, num_frames: [next(refs) for _ in num_frames]
    )
    assert not task.evaluate(model, "test", CPU).notes


def test_silent_recordings_are_counted_and_the_first_is_named(make_task, model, tone_corpus):
    """Of dev, and with it those of training that an epoch has come across; those of faint noise are silent, too."""
    for split, silent in {"train": [3], "dev": [1, 2]}.items():
        for number in silent:
            path = tone_corpus.folder / tone_corpus.read_manifest(split)[number]["audio_filepath"]
            samples, rate_hz = soundfile.read(path)
            faint = 9e-5 * np.random.default_rng(number).uniform(-1, 1, len(samples))
            soundfile.write(path, faint if number == 1 else 0 * samples, rate_hz)
    task = make_task()
    *of_dev, _ = task.evaluate(model, "dev", CPU).notes
    assert [note.kind for note in of_dev] == ["silent in dev"]
    assert re.match(r"2 of \d+ recordings of dev are silent .*dev.jsonl:2: ", of_dev[0].text)
    assert "leave them out" in of_dev[0].text and of_dev[0].epochs_of(100) == 1
    list(task.batches(0, first=0))
    of_train, *_ = task.evaluate(model, "dev", CPU).notes
    assert re.match(
        r"1 of \d+ recordings of train, of those read so far, are silent .*train.jsonl:4: ", of_train.text
    )
    assert not any("silent in" in note.kind for note in task.evaluate(model, "test", CPU).notes)


def test_an_epoch_s_batches_are_a_function_of_the_epoch(make_task):
    augment = AugmentSettings(speed_factors=(0.9, 1.0, 1.1), stretch=0.1, pitch_semitones=1.0)
    whole = [batch for (batch,) in make_task(augment=augment).batches(3, first=0)]
    torch.manual_seed(99)
    rest = [batch for (batch,) in make_task(augment=augment).batches(3, first=2)]
    assert [batch.ids for batch in rest] == [batch.ids for batch in whole[2:]]
    assert all(
        torch.equal(one.waveforms, other.waveforms) for one, other in zip(rest, whole[2:], strict=True)
    )
    other_epoch = [batch for (batch,) in make_task(augment=augment).batches(4, first=0)]
    assert [batch.ids for batch in other_epoch] != [batch.ids for batch in whole]


@pytest.mark.parametrize("sorta_grad", [True, False])
def test_only_the_run_s_first_epoch_goes_by_length(make_task, sorta_grad):
    task = make_task(
        batches_settings=BatchSettings(max_batch_seconds=4.0, sorta_grad=sorta_grad, num_workers=0)
    )
    for epoch in (0, 1):
        longest = [int(batch.num_samples.max()) for (batch,) in task.batches(epoch, first=0)]
        assert (longest == sorted(longest)) == (sorta_grad and epoch == 0)
    assert task.num_batches == len(longest)


def test_masks_vary_training_and_never_evaluation(make_task, model):
    plain, masked = make_task(), make_task(augment=AugmentSettings(spec_augment=True))
    model.eval()
    [batch] = next(plain.batches(1, first=0))
    torch.manual_seed(0)
    first = masked.loss(model, batch)
    assert masked.loss(model, batch) != first != plain.loss(model, batch) == plain.loss(model, batch)
    torch.manual_seed(0)
    assert masked.loss(model, batch) == first
    assert masked.evaluate(model, "dev", CPU).loss == plain.evaluate(model, "dev", CPU).loss


def test_masks_are_as_wide_on_log_mel_as_on_linear_bins():
    augment = AugmentSettings(spec_augment=True, freq_width_bins=20)
    widths = [
        augment.masks(FeatureSettings(kind=kind).num_bins).freq_width_bins for kind in ("linear", "mel")
    ]
    assert widths == [20, 10]


def spoil(tone_corpus, split, line, **changes):
    entries = tone_corpus.read_manifest(split)
    entries[line - 1].update(changes)
    tone_corpus.write_manifest(split, entries)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"text": "bad €"}, "'€'"),
        ({"text": "BAD"}, "case mismatch"),
        ({"text": "beef " * 40}, "CTC cannot emit"),
        ({"duration": 0.01}, "CTC cannot emit"),
        ({"duration": 999.0}, "longer than the 300 s that a batch may be"),
    ],
)
def test_bad_lines_of_any_split_are_found_before_training(make_task, tone_corpus, split, changes, what):
    spoil(tone_corpus, split, 2, **changes)
    with pytest.raises(BadDataError, match=rf"^{split}\.jsonl:2: utterance {split}01: .*{what}"):
        make_task()
    task = make_task(on_bad_data="skip")
    assert list(task.skipped) == [f"{split}.jsonl:2"] and what in task.skipped[f"{split}.jsonl:2"]


def test_the_fastest_speed_decides_what_ctc_can_emit(make_task, tone_corpus):
    """0.64 s give 32 output frames as they are, but 21 when played at 1.5 times the speed."""
    tone_corpus.write("train", ["bad beef", "cab"])
    spoil(tone_corpus, "train", 1, text="badcafed" * 3)
    make_task()
    with pytest.raises(BadDataError, match=r"train\.jsonl:1.*CTC cannot emit"):
        make_task(augment=AugmentSettings(speed_factors=(1.0, 1.5)))
    with pytest.raises(BadDataError, match=r"train\.jsonl:1.*CTC cannot emit"):
        make_task(augment=AugmentSettings(stretch=0.5))


def test_the_slowest_tempo_decides_the_largest_batch(make_task):
    (plain,) = make_task().largest_batch()
    (slow,) = make_task(augment=AugmentSettings(speed_factors=(0.8, 1.0), stretch=0.5)).largest_batch()
    assert slow.waveforms.shape[1] == pytest.approx(plain.waveforms.shape[1] / 0.4, abs=1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_unreadable_audio_is_an_error_naming_the_line(make_task, tone_corpus, num_workers):
    (tone_corpus.folder / "train" / "train07.wav").write_bytes(b"RIFF")
    settings = BatchSettings(max_batch_seconds=4.0, num_workers=num_workers)
    with pytest.raises(BadDataError, match=r"^train\.jsonl:8: utterance train07: .*train07\.wav.*--resume"):
        list(make_task(batches_settings=settings).batches(0, first=0))


def test_unreadable_audio_is_skipped_and_counted_once(make_task, tone_corpus, model, caplog):
    """Also where two splits use the same id."""
    for split in ("dev", "test"):
        spoil(tone_corpus, split, 1, id="same")
        (tone_corpus.folder / split / f"{split}00.wav").write_bytes(b"RIFF")
    (tone_corpus.folder / "train" / "train07.wav").write_bytes(b"")
    task = make_task(on_bad_data="skip")
    for epoch in (0, 1):
        ids = [id_ for (batch,) in task.batches(epoch, first=0) for id_ in batch.ids]
        assert len(ids) == 23 and "train07" not in ids
        for split in ("dev", "test"):
            assert task.evaluate(model, split, CPU).metrics["utterances"] == 5
    assert list(task.skipped) == ["train.jsonl:8", "dev.jsonl:1", "test.jsonl:1"]
    assert caplog.text.count("train07: ") == 1


def test_a_split_of_which_nothing_can_be_read_cannot_be_scored(make_task, tone_corpus, model):
    for path in (tone_corpus.folder / "dev").iterdir():
        path.write_bytes(b"RIFF")
    with pytest.raises(BadDataError, match=r"dev\.jsonl: none of its utterances can be read"):
        make_task(on_bad_data="skip").evaluate(model, "dev", CPU)


def test_a_batch_of_bad_audio_alone_is_empty_and_keeps_its_place(make_task, tone_corpus):
    tone_corpus.write("train", THREE_WORDS)
    (tone_corpus.folder / "train" / "train00.wav").write_bytes(b"RIFF")
    bad_task = make_task(on_bad_data="skip", max_batch_seconds=1.2)
    batches = [batch for (batch,) in bad_task.batches(0, first=0)]
    assert sorted(map(len, batches)) == [0, *[1] * 31]


def test_manifests_alone_can_be_judged(make_task, model):
    whole = make_task()
    alone = SpeechTask(model, whole.tokenizer, {"test": whole.corpus.test["test"]})
    assert (
        alone.evaluate(model, "test", CPU).metrics["wer"] == whole.evaluate(model, "test", CPU).metrics["wer"]
    )
    assert alone.test_splits == ["test"]


def test_seconds_of_the_splits(make_task, tone_corpus):
    expected = sum(soundfile.info(path).duration for path in (tone_corpus.folder / "train").iterdir())
    assert make_task().seconds["train"] == pytest.approx(expected)


def test_the_budget_bounds_every_batch(make_task):
    for (batch,) in make_task(max_batch_seconds=3.0).batches(2, first=0):
        assert batch.waveforms.numel() <= 3.0 * 16_000


def test_nothing_is_read_before_it_is_needed(make_task, monkeypatch):
    monkeypatch.setattr(
        "seqdsd.data.speech.read_audio", lambda *args, **options: pytest.fail("audio was read")
    )
    task = make_task()
    assert task.num_batches and isinstance(task._training_sampler(), BucketBatchSampler)


@pytest.mark.parametrize(
    "make",
    [
        lambda: BatchSettings(max_batch_seconds=0.0),
        lambda: BatchSettings(num_workers=-1),
        lambda: FeatureSettings(kind="mel", num_mels=23),
        lambda: FeatureSettings(num_mels=192),
        lambda: FeatureSettings(num_mels=149, highest_hz=4000.0),
        lambda: FeatureSettings(highest_hz=9000.0),
        lambda: AugmentSettings(speed_factors=()),
        lambda: AugmentSettings(speed_factors=(1.0, 3.0)),
        lambda: AugmentSettings(stretch=0.6),
        lambda: AugmentSettings(pitch_semitones=-1.0),
        lambda: AugmentSettings(max_time_share=2.0),
        lambda: AugmentSettings(freq_masks=-1),
    ],
)
def test_settings_out_of_range(make):
    with pytest.raises(ValueError, match="got"):
        make()


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_come_in_micro_batches(make_task, rank):
    """Two of each process's share, but for batches too small for it; together the whole batch."""
    whole = [batch for (batch,) in make_task(max_batch_seconds=6.0).batches(2, first=0)]
    task = make_task(max_batch_seconds=6.0, processes=Processes(rank, 2), accumulate=2)
    shares = list(task.batches(2, first=0))
    assert len(shares) == len(whole) and any(len(share) == 2 for share in shares)
    for batch, share in zip(whole, shares, strict=True):
        ids = tuple(id_ for one in share for id_ in one.ids)
        assert ids == (batch.ids if len(batch) < 2 else batch.ids[rank::2])
        assert len(share) == min(2, max(1, len(batch) // 2)) and all(len(one) for one in share)


@pytest.mark.parametrize("accumulate", [1, 2, 5])
@pytest.mark.parametrize("count", [1, 2, 5])
def test_no_process_computes_more_at_once_than_of_the_largest_batch(make_task, count, accumulate):
    def task_of(rank):
        options = {"processes": Processes(rank, count), "accumulate": accumulate}
        return make_task(max_batch_seconds=6.0, augment=AugmentSettings(speed_factors=(0.9, 1.0)), **options)

    largest = [task_of(rank).largest_batch() for rank in range(count)]
    assert len({len(micro_batches) for micro_batches in largest}) == 1  # all wait for each other
    task = task_of(0)
    assert torch.isfinite(task.loss(task.model, largest[0][0]))
    bound = max(one.waveforms.numel() for micro_batches in largest for one in micro_batches)
    sizes = [
        one.waveforms.numel()
        for rank in range(count)
        for epoch in range(2)
        for micro_batches in task_of(rank).batches(epoch, first=0)
        for one in micro_batches
    ]
    # Below it by what a batch of one length is larger than one of several.
    assert max(sizes) <= bound <= 1.3 * max(sizes)


@pytest.mark.parametrize(("count", "accumulate"), [(1, 1), (2, 1), (2, 4)])
def test_evaluation_takes_no_more_at_once_than_training(make_task, count, accumulate):
    task = make_task(max_batch_seconds=8.0, processes=Processes(0, count), accumulate=accumulate)
    longest = max(one.duration_seconds for one in task.utterances("dev"))
    allowed = max(8.0 / (count * accumulate), longest)
    batches = [batch for batch, _ in task.outputs(task.model, "dev", CPU)]
    assert max(batch.waveforms.numel() for batch in batches) <= 16_000 * allowed
