"""The caption task against sums and searches done by hand, a caption at a time, on images with random features."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from seqdsd.data import CaptionCorpus, CaptionedImage
from seqdsd.decode import beam_captions, greedy_captions
from seqdsd.engine import Task
from seqdsd.fabric import Fabric
from seqdsd.metrics import bleu, cider_d, rouge_l
from seqdsd.models import NeuralTalk
from seqdsd.tasks import Captioner, CaptionTask, SearchSettings
from seqdsd.text import WordVocabulary
from seqdsd.vision import ImageFeatures

CPU = torch.device("cpu")
WORDS = "a red green blue square circle big small on under left right".split()
NUM_IMAGES = {"train": 20, "dev": 9, "test": 5}
FEATURE_SIZE = 6


def random_captions(generator, count):
    return tuple(tuple(generator.choice(WORDS, generator.integers(1, 9)).tolist()) for _ in range(count))


def make_corpus(num_images=NUM_IMAGES, *, seed=0) -> CaptionCorpus:
    """Two captions an image; the splits' images alternate in the file."""
    generator = np.random.default_rng(seed)
    splits = [split for split, count in num_images.items() for _ in range(count)]
    images = [
        CaptionedImage(
            id=f"{index}.jpg",
            path=f"/images/{index}.jpg",
            index=index,
            captions=random_captions(generator, 2),
            split=splits[place],
            source=f"dataset_x.json: image {index}",
        )
        for index, place in enumerate(generator.permutation(len(splits)))
    ]
    by_split = {split: tuple(one for one in images if one.split == split) for split in num_images}
    names = tuple(one.id for one in images)
    return CaptionCorpus(Path("/c.json"), Path("/images"), **by_split, all_filenames=names)


def change(corpus, split, position, **changes) -> CaptionCorpus:
    """The corpus with one image changed."""
    images = list(corpus.split(split))
    images[position] = replace(images[position], **changes)
    return replace(corpus, **{split: tuple(images)})


def make_features(corpus, *, without=(), seed=0) -> ImageFeatures:
    """Rows in another order than the images."""
    generator = np.random.default_rng(seed)
    order = generator.permutation(len(corpus.all_filenames))
    array = generator.standard_normal((len(order), FEATURE_SIZE)).astype(np.float16)
    rows = {
        name: int(row) for name, row in zip(corpus.all_filenames, order, strict=True) if name not in without
    }
    skipped = {name: f"{name}: no row" for name in without}
    return ImageFeatures(array, rows, skipped, "x.npy", f"features {seed}")


@pytest.fixture
def corpus() -> CaptionCorpus:
    return make_corpus()


@pytest.fixture
def make_task():
    """Make a task whose network, not trained, says something else of every image."""

    def make(
        corpus, *, features=None, dropout=0.0, seed=0, vocabulary_options=None, **options
    ) -> CaptionTask:
        captions = [caption for image in corpus.train for caption in image.captions]
        vocabulary = WordVocabulary.build(captions, **{"min_count": 1, **(vocabulary_options or {})})
        torch.manual_seed(seed)
        model = NeuralTalk(
            vocab_size=vocabulary.vocab_size, feature_size=FEATURE_SIZE, hidden_size=16, dropout=dropout
        )
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.uniform_(-1.5, 1.5)
        features = features or make_features(corpus)
        return CaptionTask(model, vocabulary, corpus, features, **{"batch_size": 8, **options})

    return make


def words_and_end(task, caption) -> list[int]:
    return [*task.vocabulary.encode(caption), task.vocabulary.end_id]


def log_prob(task, image_id, caption) -> float:
    """Of one caption alone, summed over its words and END; softmax by hand."""
    targets = words_and_end(task, caption)
    with torch.no_grad():
        logits = (
            task.model.eval()(
                task.features.take([image_id]), torch.tensor([[task.vocabulary.start_id, *targets[:-1]]])
            )[0]
            .double()
            .numpy()
        )
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return float(np.log(shares[np.arange(len(targets)), targets]).sum())


def test_it_is_what_the_engine_asks_for(make_task, corpus):
    task = make_task(corpus)
    assert isinstance(task, Task) and task.test_splits == ["test"]
    assert task.num_images == NUM_IMAGES


def test_a_corpus_read_without_its_test_set(make_task, corpus):
    task = make_task(replace(corpus, test=(), splits=("train", "dev")))
    assert task.test_splits == [] and "test" not in task.num_images
    assert task.fingerprint == make_task(corpus).fingerprint


def test_the_loss_is_summed_over_words_and_end_and_averaged_over_captions(make_task, corpus):
    task = make_task(corpus)
    task.model.eval()
    captions = {
        id_: (one.id, words)
        for one in corpus.train
        for id_, words in zip(one.caption_ids, one.captions, strict=True)
    }
    lengths = set()
    for (batch,) in task.batches(0, first=0):
        expected = -np.mean([log_prob(task, *captions[id_]) for id_ in batch.ids])
        assert task.loss(task.model, batch).item() == pytest.approx(expected, rel=1e-5)
        lengths.add(len(set(batch.num_words.tolist())))
    assert max(lengths) > 1  # captions of different lengths were averaged, and padded


def test_padding_does_not_change_the_loss_nor_its_gradient(make_task, corpus):
    task = make_task(corpus)
    [batch] = next(iter(task.batches(0, first=0)))
    more = replace(
        batch,
        tokens=torch.nn.functional.pad(batch.tokens, (0, 3), value=2),
        targets=torch.nn.functional.pad(batch.targets, (0, 3), value=-100),
    )
    losses = [task.loss(task.model, one) for one in (batch, more)]
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*(torch.autograd.grad(loss, [*task.model.parameters()]) for loss in losses))


def test_the_gradient_is_that_of_the_loss_by_finite_differences(make_task, corpus):
    task = make_task(corpus)
    task.model.double()
    [batch] = next(iter(task.batches(0, first=0)))
    batch = replace(batch, image_features=batch.image_features.double())
    task.loss(task.model, batch).backward()
    for name, parameter in task.model.named_parameters():
        place = parameter.grad.abs().argmax()
        expected = float(parameter.grad.flatten()[place])
        values = []
        for change in (1e-3, -1e-3):
            with torch.no_grad():
                parameter.flatten()[place] += change  # a view: the parameter is contiguous
                values.append(float(task.loss(task.model, batch)))
                parameter.flatten()[place] -= change
        assert (values[0] - values[1]) / 2e-3 == pytest.approx(expected, rel=1e-2), name


def test_an_epoch_s_batches_are_a_function_of_the_epoch(make_task, corpus):
    whole = [batch for (batch,) in make_task(corpus).batches(3, first=0)]
    torch.manual_seed(99)
    np.random.seed(99)
    rest = [batch for (batch,) in make_task(corpus).batches(3, first=2)]
    assert [batch.ids for batch in rest] == [batch.ids for batch in whole[2:]]
    for one, other in zip(rest, whole[2:], strict=True):
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.image_features, other.image_features)
    orders = [
        [batch.ids for (batch,) in task.batches(epoch, first=0)]
        for task, epoch in ((make_task(corpus), 4), (make_task(corpus, seed=1), 3))
    ]
    assert orders[0] != [batch.ids for batch in whole]
    assert orders[1] == [batch.ids for batch in whole]  # the network's seed is not the data's
    other_seed = CaptionTask(**{**vars_of(make_task(corpus)), "seed": 1})
    assert [batch.ids for (batch,) in other_seed.batches(3, first=0)] != [batch.ids for batch in whole]


def vars_of(task):
    names = ("model", "vocabulary", "corpus", "features", "batch_size")
    return {name: getattr(task, name) for name in names}


@pytest.mark.parametrize("batch_size", [1, 8, 7, 100])
def test_an_epoch_takes_each_caption_once(make_task, corpus, batch_size):
    task = make_task(corpus, batch_size=batch_size)
    batches = [batch for (batch,) in task.batches(0, first=0)]
    ids = sorted(id_ for batch in batches for id_ in batch.ids)
    assert ids == sorted(id_ for image in corpus.train for id_ in image.caption_ids)
    assert task.num_batches == len(batches) == math.ceil(40 / batch_size)
    assert list(task.batches(0, first=len(batches))) == []


def test_a_caption_goes_with_its_own_image(make_task, corpus):
    task = make_task(corpus)
    for (batch,) in task.batches(1, first=0):
        expected = task.features.take([id_.rpartition("#")[0] for id_ in batch.ids])
        assert torch.equal(batch.image_features, expected)


def test_rows_come_in_the_corpus_order_with_all_references_as_they_are(make_task, corpus):
    """Also references with rare words, which the network cannot say, and those of no known word."""
    corpus = change(
        corpus, "dev", 2, captions=(("a", "zebra", "Crossing"), ("zebra",), ("a", "red", "square"))
    )
    task = make_task(corpus, vocabulary_options={"min_count": 3})
    rows = task.evaluate(task.model, "dev", CPU).hypotheses
    expected = [(one.id, [" ".join(caption) for caption in one.captions]) for one in corpus.dev]
    assert [(row["id"], row["refs"]) for row in rows] == expected
    assert rows[2]["refs"] == ["a zebra Crossing", "zebra", "a red square"]
    assert [set(row) for row in rows] == [{"id", "refs", "hyp"}] * 9


def test_more_images_than_are_searched_at_once_keep_their_order(make_task):
    corpus = make_corpus({"train": 5, "dev": 230, "test": 1})
    task, told = make_task(corpus), []
    rows = task.evaluate(task.model, "dev", CPU, after_images=told.append).hypotheses
    assert [row["id"] for row in rows] == [image.id for image in corpus.dev]
    assert sum(told) == 230 and len(told) > 1
    for row in rows[::23]:
        assert [row["hyp"]] == task.captioner.captions(task.model, task.features.take([row["id"]]))
    assert len({row["hyp"] for row in rows}) > 50


def test_scores_are_those_of_the_rows(make_task, corpus):
    task = make_task(corpus)
    evaluation = task.evaluate(task.model, "dev", CPU)
    metrics = evaluation.metrics
    refs, hyps = ([row[key] for row in evaluation.hypotheses] for key in ("refs", "hyp"))
    standard, neuraltalk = bleu(refs, hyps), bleu(refs, hyps, brevity_penalty=False)
    for order in (1, 2, 3, 4):
        assert metrics[f"bleu{order}"] == getattr(standard, f"bleu{order}")
        assert metrics[f"neuraltalk_bleu{order}"] == getattr(neuraltalk, f"bleu{order}")
    assert metrics["bleu1"] > 0 and evaluation.score == -standard.bleu4
    assert metrics["brevity_penalty"] == standard.brevity_penalty
    assert metrics["cider_d"] == cider_d(refs, hyps).score
    assert metrics["rouge_l"] == rouge_l(refs, hyps).score
    assert metrics["images"] == 9 and metrics["decoding"] == "greedy, at most 20 words"
    assert metrics["signature"] == standard.signature
    assert evaluation.headline == f"BLEU-4 {standard.bleu4:.2f}"
    json.dumps(metrics, allow_nan=False)


def test_brevity_is_penalised_in_one_of_the_two_which_is_the_score(make_task, corpus, monkeypatch):
    """Captions that are right but 6 words long, and not 8."""
    for position in range(NUM_IMAGES["dev"]):
        corpus = change(corpus, "dev", position, captions=(tuple(WORDS[:8]),))
    task = make_task(corpus)
    monkeypatch.setattr(
        Captioner, "captions", lambda self, model, features: [" ".join(WORDS[:6])] * len(features)
    )
    evaluation = task.evaluate(task.model, "dev", CPU)
    metrics = evaluation.metrics
    assert metrics["neuraltalk_bleu4"] == pytest.approx(100)
    assert metrics["bleu4"] == pytest.approx(100 * math.exp(1 - 8 / 6)) == 100 * metrics["brevity_penalty"]
    assert evaluation.score == -metrics["bleu4"]


@pytest.mark.parametrize("min_count", [1, 4])
def test_loss_and_perplexity_are_means_over_captions_and_over_words_with_end(make_task, corpus, min_count):
    task = make_task(corpus, vocabulary_options={"min_count": min_count})
    evaluation = task.evaluate(task.model, "dev", CPU)
    captions = [(image.id, caption) for image in corpus.dev for caption in image.captions]
    total = -sum(log_prob(task, *one) for one in captions)
    tokens = sum(len(words_and_end(task, caption)) for _, caption in captions)
    assert evaluation.loss == evaluation.metrics["loss"] == pytest.approx(total / len(captions), rel=1e-5)
    assert evaluation.metrics["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-5)


def test_a_score_does_not_depend_on_the_batch_size(make_task, corpus):
    one, *others = (
        task.evaluate(task.model, "dev", CPU)
        for task in (make_task(corpus, batch_size=size) for size in (1, 5, 100))
    )
    for other in others:
        assert other.hypotheses == one.hypotheses and other.score == one.score
        assert other.loss == pytest.approx(one.loss, rel=1e-5)
        assert other.metrics["perplexity"] == pytest.approx(one.metrics["perplexity"], rel=1e-5)


def test_evaluation_draws_nothing_and_leaves_no_trace(make_task, corpus):
    task = make_task(corpus, dropout=0.9)
    task.model.train()
    before = torch.random.get_rng_state()
    weights = {name: one.clone() for name, one in task.model.state_dict().items()}
    assert task.evaluate(task.model, "dev", CPU) == task.evaluate(task.model, "dev", CPU)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(one, weights[name]) for name, one in task.model.state_dict().items())
    assert all(parameter.grad is None for parameter in task.model.parameters())


@pytest.mark.parametrize("beam", [1, 3])
def test_captions_are_those_of_the_search_asked_for(make_task, corpus, beam):
    task = make_task(corpus, search=SearchSettings(beam=beam, max_words=6))
    evaluation = task.evaluate(task.model, "test", CPU)
    features = task.features.take([image.id for image in corpus.test])
    ends = {"start_id": 0, "end_id": 0, "max_words": 6}
    found = {
        1: lambda: greedy_captions(task.model, features, **ends),
        3: lambda: beam_captions(task.model, features, beam_width=3, **ends),
    }[beam]()
    words = [" ".join(task.vocabulary.words[id_] for id_ in one.tokens) for one in found]
    assert [row["hyp"] for row in evaluation.hypotheses] == words and len(set(words)) > 1
    assert all(len(caption.split()) <= 6 for caption in words)
    assert evaluation.metrics["decoding"].startswith("greedy" if beam == 1 else "beam 3")


def test_a_wider_beam_finds_captions_that_are_more_probable(make_task, corpus):
    totals = []  # of all images: it may lose the better beginning of one
    for beam in (1, 8):
        task = make_task(corpus, search=SearchSettings(beam=beam, max_words=50))
        with torch.no_grad():
            task.model.output.bias[task.vocabulary.end_id] += 2.0
        rows = task.evaluate(task.model, "dev", CPU).hypotheses
        assert all(len(row["hyp"].split()) < 50 for row in rows)  # each has its END
        totals.append(sum(log_prob(task, row["id"], row["hyp"].split()) for row in rows))
    assert totals[1] > totals[0] + 0.1


@pytest.mark.parametrize("rare", ["drop", "unknown"])
def test_start_and_end_apart(make_task, corpus, rare):
    options = {"share_start_end": False, "rare": rare, "min_count": 4}
    task = make_task(corpus, vocabulary_options=options)
    with torch.no_grad():
        task.model.output.bias[task.vocabulary.start_id] = 50.0  # what would be said, if it could be
    evaluation = task.evaluate(task.model, "dev", CPU)
    assert all("<start>" not in row["hyp"] for row in evaluation.hypotheses)
    with torch.no_grad():
        task.model.output.bias[task.vocabulary.start_id] = 0.0
    captions = [(image.id, caption) for image in corpus.dev for caption in image.captions]
    expected = -np.mean([log_prob(task, *one) for one in captions])
    assert task.evaluate(task.model, "dev", CPU).loss == pytest.approx(expected, rel=1e-5)


def test_a_network_that_says_the_same_of_all_is_called_so(make_task, corpus):
    [untrained] = make_task(corpus).evaluate(make_task(corpus).model, "dev", CPU).notes
    assert untrained.text.startswith("hardly a phrase is right (BLEU-4 0.00). If ") and untrained.epochs == 3
    task = make_task(corpus)
    with torch.no_grad():
        task.model.image.weight.zero_()
    evaluation = task.evaluate(task.model, "dev", CPU)
    [caption] = {row["hyp"] for row in evaluation.hypotheses}
    assert f"100% of the images get the same caption ({caption!r})" in str(evaluation.notes[0])
    assert "feature rows" in str(evaluation.notes[0])
    lone = make_task(make_corpus({"train": 5, "dev": 1, "test": 1}))
    assert not lone.evaluate(lone.model, "dev", CPU).notes


def test_a_network_that_says_nothing_scores_0(make_task, corpus):
    task = make_task(corpus)
    with torch.no_grad():
        task.model.output.bias[0] = 1e4
    evaluation = task.evaluate(task.model, "dev", CPU)
    assert [row["hyp"] for row in evaluation.hypotheses] == [""] * 9
    assert evaluation.score == 0 == evaluation.metrics["neuraltalk_bleu4"] and evaluation.notes
    json.dumps(evaluation.metrics | {"perplexity": 0}, allow_nan=False)


def test_images_without_features_are_left_out_and_listed(make_task, corpus):
    gone = (corpus.train[0].id, corpus.dev[1].id, corpus.test[2].id)
    corpus = replace(corpus, skipped={"dataset_x.json: image 99": "bad"})
    task = make_task(corpus, features=make_features(corpus, without=gone))
    assert dict(task.skipped) == {
        "dataset_x.json: image 99": "bad",
        **{id_: f"{id_}: no row" for id_ in gone},
    }
    assert task.num_images == {"train": 19, "dev": 8, "test": 4}
    assert not any(
        id_.startswith(f"{gone[0]}#") for (batch,) in task.batches(0, first=0) for id_ in batch.ids
    )
    evaluation = task.evaluate(task.model, "dev", CPU)
    assert gone[1] not in [row["id"] for row in evaluation.hypotheses] and evaluation.metrics["images"] == 8


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_without_a_single_feature_is_refused(make_task, corpus, split):
    features = make_features(corpus, without=[image.id for image in corpus.split(split)])
    with pytest.raises(ValueError, match=f"c.json: no image of {split} has features"):
        make_task(corpus, features=features)


def test_the_fingerprint_is_that_of_the_training_captions_and_the_features(make_task, corpus):
    def fingerprint(corpus, **options):
        return make_task(corpus, **options).fingerprint

    same = fingerprint(corpus)
    words = corpus.train[3].captions
    assert fingerprint(corpus) == same == fingerprint(corpus, batch_size=3, seed=7)
    for split in ("dev", "test"):
        assert fingerprint(change(corpus, split, 0, captions=(("other", "words"),))) == same
    others = [
        change(corpus, "train", 3, captions=(*words, ("a", "square"))),
        change(corpus, "train", 3, captions=words[::-1]),
        change(corpus, "train", 3, captions=((*words[0], "x"), *words[1:])),
        replace(corpus, train=corpus.train[1:]),
        replace(corpus, train=corpus.train[::-1]),  # another order of the file gives other batches
    ]
    made = [fingerprint(other) for other in others]
    made.append(fingerprint(corpus, features=make_features(corpus, seed=1)))
    assert len({same, *made}) == 7


def test_it_works_on_what_fabric_wraps(make_task, corpus):
    """In mixed precision the captions are searched in float32 all the same; the loss is near."""
    task = make_task(corpus)
    plain = task.evaluate(task.model, "dev", CPU)
    fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    model = fabric.setup_module(task.model)
    mixed = task.evaluate(model, "dev", CPU)
    assert mixed.hypotheses == plain.hypotheses
    assert mixed.loss != plain.loss and mixed.loss == pytest.approx(plain.loss, rel=0.02)
    loss = task.loss(model, *next(iter(task.batches(0, first=0))))
    assert loss.dtype == torch.float32


def test_a_captioner_alone_gives_a_caption_an_image(make_task, corpus):
    task = make_task(corpus)
    captioner = Captioner(task.vocabulary, SearchSettings(beam=2))
    ids = [image.id for image in corpus.dev]
    captions = captioner.captions(task.model, task.features.take(ids))
    assert len(captions) == 9
    assert captioner.captions(task.model, task.features.take(ids[4:6])) == captions[4:6]


def test_how_captions_are_found_in_words():
    assert str(SearchSettings()) == "greedy, at most 20 words"
    assert str(SearchSettings(beam=5, max_words=30)) == "beam 5, at most 30 words"


@pytest.mark.parametrize(("name", "value"), [("beam", 0), ("max_words", 0)])
def test_settings_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"{name} must be at least 1.*got {value}"):
        SearchSettings(**{name: value})


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_the_gpu(make_task, corpus):
    task = make_task(corpus, pin_memory=True)
    expected = task.evaluate(task.model, "dev", CPU)
    [batch] = next(iter(task.batches(0, first=0)))
    assert batch.tokens.is_pinned()
    device = torch.device("cuda")
    task.model.to(device)
    actual = task.evaluate(task.model, "dev", device)
    assert actual.hypotheses == expected.hypotheses and actual.loss == pytest.approx(expected.loss, rel=1e-4)
    assert math.isfinite(task.loss(task.model, batch.to(device)).item())
