"""Caption searches against a slow loop over one image and its beams, against all captions, and by hand."""

import itertools
import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from seqdsd.decode import NextWordModel, NonFiniteCaptions, ScoredCaption, beam_captions, greedy_captions

FEATURES, HIDDEN = 5, 6
SHARED, SEPARATE = {"start_id": 0, "end_id": 0}, {"start_id": 1, "end_id": 0}


class TinyCaptioner(nn.Module):
    """Random weights, large enough that images differ; END gains with every word if ``ending`` is above 0."""

    def __init__(self, vocab_size: int, seed: int, ending: float = 0.0) -> None:
        super().__init__()
        self.vocab_size = vocab_size
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape):
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.image, self.words = draw(FEATURES, HIDDEN), draw(vocab_size, HIDDEN)
        self.recurrent, self.output = draw(HIDDEN, HIDDEN), 2 * draw(HIDDEN, vocab_size)
        self.ending = ending
        self.rows: list[int] = []

    def start(self, image_features):
        self.rows = []
        hidden = (image_features @ self.image).tanh()
        return hidden, torch.zeros_like(hidden)

    def step(self, tokens, state):
        self.rows.append(len(tokens))
        hidden, cell = state
        hidden = (hidden @ self.recurrent + self.words[tokens] + cell).tanh()
        logits = hidden @ self.output
        cell = cell + 0.1
        logits[:, 0] += 10 * self.ending * cell[:, 0]
        return logits, (hidden, cell)


class Successors:
    """The probabilities of a word depend on the one before it and on nothing else; the image says START's row."""

    def __init__(self, probabilities: list[list[float]]) -> None:
        self.logits = torch.tensor(probabilities, dtype=torch.float64).log()
        self.vocab_size = len(probabilities)

    def start(self, image_features):
        return image_features, image_features

    def step(self, tokens, state):
        return self.logits[tokens], state


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def next_words(model, token, state):
    """(word, log-probability) by falling probability, and the next state; for one beam."""
    logits, state = model.step(torch.tensor([token]), state)
    log_probs = logits[0].log_softmax(0).tolist()
    return sorted(enumerate(log_probs), key=lambda pair: -pair[1]), state


def slow_beam_search(model, features, *, start_id, end_id, beam_width, max_words) -> ScoredCaption:
    """NeuralTalk's search for one image, always to the last step."""
    beams = [(0.0, [], model.start(features[None]))]
    for _ in range(max_words):
        candidates = []
        for log_prob, words, state in beams:
            if words and words[-1] == end_id:
                candidates.append((log_prob, words, state))
                continue
            ranked, after = next_words(model, words[-1] if words else start_id, state)
            allowed = [(word, gain) for word, gain in ranked if word != start_id or start_id == end_id]
            candidates += [(log_prob + gain, [*words, word], after) for word, gain in allowed[:beam_width]]
        beams = sorted(candidates, key=lambda beam: -beam[0])[:beam_width]
    log_prob, words, _ = beams[0]
    return ScoredCaption([word for word in words if word != end_id], log_prob)


def all_captions(model, features, *, start_id, end_id, max_words) -> list[ScoredCaption]:
    """Every caption that fits, with its log-probability."""
    captions = []
    for words in itertools.product(range(model.vocab_size), repeat=max_words):
        if end_id in words:
            words = words[: words.index(end_id) + 1]
        if start_id in words and start_id != end_id:
            continue
        state, log_prob, token = model.start(features[None]), 0.0, start_id
        for word in words:
            ranked, state = next_words(model, token, state)
            log_prob, token = log_prob + dict(ranked)[word], word
        captions.append(ScoredCaption([word for word in words if word != end_id], log_prob))
    return captions


def assert_same(found: list[ScoredCaption], expected: list[ScoredCaption]) -> None:
    assert [caption.tokens for caption in found] == [caption.tokens for caption in expected]
    assert [caption.log_prob for caption in found] == pytest.approx([c.log_prob for c in expected], abs=1e-9)


@pytest.mark.parametrize("ids", [SHARED, SEPARATE], ids=["shared", "separate"])
@pytest.mark.parametrize("beam_width", [1, 2, 3, 5, 20])
def test_against_a_slow_loop(ids, beam_width):
    lengths = Counter()
    for seed in range(3):
        model = TinyCaptioner(12, seed, ending=0.4)
        how = {**ids, "beam_width": beam_width, "max_words": 9}
        expected = [slow_beam_search(model, features, **how) for features in images(8, seed)]
        assert_same(beam_captions(model, images(8, seed), **how), expected)
        lengths.update(len(caption.tokens) for caption in expected)
    assert len(lengths) > 3  # else leaving the batch was not tried


@pytest.mark.parametrize("vocab_size", [31, 32, 33, 64, 100])
@pytest.mark.parametrize("beam_width", [1, 4, 150])
def test_vocabularies_of_several_blocks(vocab_size, beam_width):
    # Words are searched in blocks of 32; the last may be shorter, and a beam may be wider than the vocabulary.
    model = TinyCaptioner(vocab_size, seed=vocab_size, ending=0.4)
    how = {**SEPARATE, "beam_width": beam_width, "max_words": 4}
    expected = [slow_beam_search(model, features, **how) for features in images(3)]
    assert_same(beam_captions(model, images(3), **how), expected)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 1000),
    vocab_size=st.integers(2, 8),
    ids=st.sampled_from([SHARED, SEPARATE, {"start_id": 0, "end_id": 1}]),
    beam_width=st.integers(1, 10),
    max_words=st.integers(1, 6),
    ending=st.sampled_from([-1.0, 0.0, 0.5]),
)
def test_any_setting_against_a_slow_loop(seed, vocab_size, ids, beam_width, max_words, ending):
    model = TinyCaptioner(vocab_size, seed, ending)
    how = {**ids, "beam_width": beam_width, "max_words": max_words}
    expected = [slow_beam_search(model, features, **how) for features in images(3, seed)]
    assert_same(beam_captions(model, images(3, seed), **how), expected)


@pytest.mark.parametrize("ids", [SHARED, SEPARATE], ids=["shared", "separate"])
def test_a_beam_wider_than_all_captions_finds_the_best_of_them(ids):
    for seed in range(4):
        model = TinyCaptioner(4, seed, ending=0.5)
        how = {**ids, "max_words": 3}
        expected = [
            max(all_captions(model, features, **how), key=lambda caption: caption.log_prob)
            for features in images(6, seed)
        ]
        assert_same(beam_captions(model, images(6, seed), **how, beam_width=100), expected)


@pytest.mark.parametrize("ids", [SHARED, SEPARATE], ids=["shared", "separate"])
def test_greedy_takes_the_best_word_each_time_and_is_a_beam_of_one(ids):
    model = TinyCaptioner(12, seed=4, ending=0.3)
    greedy = greedy_captions(model, images(20), **ids, max_words=8)
    expected = [slow_beam_search(model, one, **ids, beam_width=1, max_words=8) for one in images(20)]
    assert_same(greedy, expected)
    assert_same(beam_captions(model, images(20), **ids, beam_width=1, max_words=8), expected)


@pytest.mark.parametrize("images_at_once", [1, 3, 7, 100])
def test_an_image_does_not_depend_on_its_batch(images_at_once):
    model, features = TinyCaptioner(12, seed=5, ending=0.3), images(7)
    how = {**SHARED, "beam_width": 4, "max_words": 8}
    alone = [beam_captions(model, one[None], **how)[0] for one in features]
    assert_same(beam_captions(model, features, **how, images_at_once=images_at_once), alone)
    order = torch.tensor([3, 0, 6, 5, 1, 2, 4])
    shuffled = beam_captions(model, features[order], **how, images_at_once=images_at_once)
    assert_same(shuffled, [alone[i] for i in order])
    greedy_alone = [greedy_captions(model, one[None], **SHARED)[0] for one in features]
    assert_same(greedy_captions(model, features[order], **SHARED), [greedy_alone[i] for i in order])


def test_a_finished_beam_competes_and_can_be_pushed_out():
    # Rows: after 0 (START and END), after 1, after 2. END alone, 0.25, comes second to "1"; then "1 2" with 0.3 and
    # "1 1" with 0.294 rank before it, although no caption that begins so will be as probable in the end.
    model = Successors([[0.25, 0.6, 0.15], [0.01, 0.49, 0.5], [0.4, 0.31, 0.29]])
    how = {**SHARED, "max_words": 4}
    (narrow,) = beam_captions(model, images(1), **how, beam_width=2)
    (wide,) = beam_captions(model, images(1), **how, beam_width=3)
    assert_same([wide], [ScoredCaption([], math.log(0.25))])
    assert_same([narrow], [ScoredCaption([1, 1, 1, 2], math.log(0.6 * 0.49 * 0.49 * 0.5))])
    assert_same([narrow], [slow_beam_search(model, images(1)[0], **how, beam_width=2)])


def test_a_beam_finds_what_greedy_misses():
    # "1" is the likelier first word, "2 END" the likelier caption.
    model = Successors([[0.1, 0.5, 0.4], [0.2, 0.4, 0.4], [0.98, 0.01, 0.01]])
    assert greedy_captions(model, images(1), **SHARED)[0].tokens[0] == 1
    assert_same(
        beam_captions(model, images(1), **SHARED, beam_width=2), [ScoredCaption([2], math.log(0.4 * 0.98))]
    )


@pytest.mark.parametrize("max_words", [1, 4, 20])
def test_never_longer_than_max_words(max_words):
    model = TinyCaptioner(12, seed=6, ending=-5.0)
    how = {**SHARED, "max_words": max_words}
    for captions in (
        greedy_captions(model, images(5), **how),
        beam_captions(model, images(5), **how, beam_width=3),
    ):
        assert [len(caption.tokens) for caption in captions] == [max_words] * 5


def test_start_is_never_emitted_where_end_is_another():
    model = Successors([[0.1, 0.8, 0.1], [0.05, 0.9, 0.05], [0.2, 0.7, 0.1]])  # likes START, 1, above all
    how = {"start_id": 1, "end_id": 0, "max_words": 5}
    captions = greedy_captions(model, images(2), **how) + beam_captions(model, images(2), **how, beam_width=3)
    assert all(1 not in caption.tokens for caption in captions)
    # The model's own probabilities count: what START has is given to no other word.
    best = max(all_captions(model, images(1)[0], **how), key=lambda caption: caption.log_prob)
    assert captions[-1].log_prob == pytest.approx(best.log_prob)


def test_a_vocabulary_of_start_and_end_alone():
    model = Successors([[0.5, 0.5], [0.5, 0.5]])
    for captions in (
        greedy_captions(model, images(2), **SEPARATE),
        beam_captions(model, images(2), **SEPARATE, beam_width=20),
    ):
        assert_same(captions, [ScoredCaption([], math.log(0.5))] * 2)


def test_finished_images_and_hopeless_beams_leave_the_batch():
    model = TinyCaptioner(12, seed=0, ending=0.5)
    how = {**SHARED, "max_words": 20}
    greedy = greedy_captions(model, images(8), **how)
    steps = [len(caption.tokens) + 1 for caption in greedy]
    assert model.rows == [sum(step < last for last in steps) for step in range(min(max(steps), 20))]
    beam_captions(model, images(8), **how, beam_width=5)
    assert model.rows[0] == 8
    assert max(model.rows) <= 40
    assert len(model.rows) < 20
    assert model.rows[-1] < 8


def test_beams_behind_a_finished_one_are_not_expanded():
    class Counting(Successors):
        rows: list[int] = []

        def step(self, tokens, state):
            self.rows.append(len(tokens))
            return super().step(tokens, state)

    # First "1" 0.5, END 0.3, "2" 0.2: of these "1" alone can win. Then "1 END" with 0.35, behind which all else falls.
    model = Counting([[0.3, 0.5, 0.2], [0.7, 0.2, 0.1], [0.2, 0.3, 0.5]])
    assert beam_captions(model, images(4), **SHARED, beam_width=3)[0].tokens == [1]
    assert model.rows == [4, 4]


class HostReads(TorchDispatchMode):
    """Counts operations that wait for the device: reading a scalar, and shapes that depend on values."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        indices = args[1] if name in ("index", "index_put", "index_put_") else []
        by_mask = any(isinstance(index, torch.Tensor) and index.dtype == torch.bool for index in indices)
        self.count += by_mask or name in (
            "nonzero",
            "_local_scalar_dense",
            "masked_select",
            "repeat_interleave",
        )
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("ids", [SHARED, SEPARATE], ids=["shared", "separate"])
def test_the_host_waits_once_a_step(ids):
    model = TinyCaptioner(12, seed=7, ending=-5.0)
    counts = []
    for max_words in (5, 15):
        for search in (greedy_captions, lambda *args, **how: beam_captions(*args, **how, beam_width=3)):
            with HostReads() as reads:
                search(model, images(4), **ids, max_words=max_words)
            counts.append(reads.count)
    few_greedy, few_beam, many_greedy, many_beam = counts
    assert few_greedy >= 5 and few_beam >= 5  # the counter counts
    assert many_greedy - few_greedy == many_beam - few_beam == 10


def test_half_precision_logits_are_summed_in_float32():
    class Half(TinyCaptioner):
        def step(self, tokens, state):
            logits, state = super().step(tokens, state)
            return logits.bfloat16(), state

    model = Half(12, seed=8, ending=-5.0)
    (caption,) = beam_captions(model, images(1), **SHARED, beam_width=3)
    state, token, log_prob = model.start(images(1)), 0, 0.0
    for word in caption.tokens:
        logits, state = model.step(torch.tensor([token]), state)
        log_prob, token = log_prob + logits.double().log_softmax(1)[0, word].item(), word
    assert caption.log_prob == pytest.approx(log_prob, abs=1e-4)


def test_no_images():
    model = TinyCaptioner(12, seed=9)
    assert greedy_captions(model, images(0), **SHARED) == []
    assert beam_captions(model, images(0), **SHARED, beam_width=3) == []


def test_the_model_is_recognised():
    assert isinstance(TinyCaptioner(3, seed=0), NextWordModel)
    assert not isinstance(nn.Linear(2, 2), NextWordModel)


@pytest.mark.parametrize(
    "search", [greedy_captions, lambda *args, **how: beam_captions(*args, **how, beam_width=3)]
)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"start_id": -1}, "start_id is -1, outside the model's vocabulary of 12"),
        ({"start_id": 12}, "start_id is 12, outside the model's vocabulary of 12"),
        ({"end_id": -1}, "end_id is -1"),
        ({"end_id": 12}, "end_id is 12"),
        ({"max_words": 0}, "max_words must be at least 1, got 0"),
    ],
)
def test_wrong_ids_and_lengths(search, wrong, message):
    with pytest.raises(ValueError, match=message):
        search(TinyCaptioner(12, seed=0), images(2), **{**SHARED, **wrong})


@pytest.mark.parametrize(
    "wrong", [{"beam_width": 0}, {"beam_width": -1}, {"beam_width": 2, "images_at_once": 0}]
)
def test_wrong_sizes(wrong):
    name, value = list(wrong.items())[-1]
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got {value}"):
        beam_captions(TinyCaptioner(12, seed=0), images(2), **SHARED, **wrong)


@pytest.mark.parametrize(
    "search", [greedy_captions, lambda *args, **how: beam_captions(*args, **how, beam_width=3)]
)
def test_nan_names_the_images(search):
    features = images(5)
    features[1, 0] = torch.nan
    features[4] = torch.nan
    with pytest.raises(NonFiniteCaptions, match=r"not finite for row\(s\) 1, 4 of image_features") as error:
        search(TinyCaptioner(12, seed=0), features, **SHARED)
    assert error.value.rows == (1, 4) and isinstance(error.value, ValueError)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_same_on_the_gpu():
    model = TinyCaptioner(12, seed=3, ending=0.3)
    how = {**SHARED, "beam_width": 5}
    expected, greedy = beam_captions(model, images(20), **how), greedy_captions(model, images(20), **SHARED)
    for name in ("image", "words", "recurrent", "output"):
        setattr(model, name, getattr(model, name).cuda())
    assert_same(beam_captions(model, images(20).cuda(), **how), expected)
    assert_same(greedy_captions(model, images(20).cuda(), **SHARED), greedy)
