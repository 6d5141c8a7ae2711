import json
import math
import os

import numpy as np
import pytest

from seqdsd.text import Tokenizer, WordVocabulary, caption_words

# Counted by hand: a 5, dog 3, cat 2, runs 2, sat 1.
CAPTIONS = [
    ["a", "dog", "runs"],
    ["a", "cat", "sat"],
    ["a", "dog"],
    ["a", "cat", "runs", "a", "dog"],
]


def test_neuraltalks_vocabulary():
    vocabulary = WordVocabulary.build(CAPTIONS, min_count=2)
    assert vocabulary.words == ("<end>", "a", "dog", "cat", "runs")
    assert vocabulary.counts == (4, 5, 3, 2, 2)
    assert vocabulary.vocab_size == 5 and vocabulary.num_words == 4
    assert vocabulary.start_id == vocabulary.end_id == 0
    assert vocabulary.unknown_id is None
    assert vocabulary.encode(["a", "lion", "sat", "runs"]) == [1, 4]
    assert "dog" in vocabulary and "sat" not in vocabulary and "<end>" not in vocabulary
    assert not isinstance(vocabulary, Tokenizer)


def test_separate_start_and_an_unknown_token():
    vocabulary = WordVocabulary.build(CAPTIONS, min_count=3, share_start_end=False, rare="unknown")
    assert vocabulary.words == ("<start>", "<end>", "<unknown>", "a", "dog")
    assert vocabulary.counts == (0, 4, 5, 5, 3)
    assert (vocabulary.start_id, vocabulary.end_id, vocabulary.unknown_id) == (0, 1, 2)
    assert vocabulary.encode(["a", "lion", "dog"]) == [3, 2, 4]
    assert vocabulary.decode([0, 3, 2, 4, 1, 3]) == "a <unknown> dog"
    assert "<unknown>" not in vocabulary


def test_the_words_do_not_depend_on_the_order_of_the_captions():
    forwards = WordVocabulary.build(CAPTIONS, min_count=1)
    backwards = WordVocabulary.build([caption[::-1] for caption in CAPTIONS[::-1]], min_count=1)
    assert forwards == backwards
    assert WordVocabulary.build(iter(CAPTIONS), min_count=1) == forwards


def test_words_come_back_up_to_the_first_end():
    vocabulary = WordVocabulary.build(CAPTIONS, min_count=1)
    for caption in CAPTIONS:
        assert vocabulary.decode([*vocabulary.encode(caption), 0, 1, 1]) == " ".join(caption)
    assert vocabulary.decode([]) == vocabulary.decode([0, 2]) == ""
    for outside in (-100, -1, vocabulary.vocab_size):
        with pytest.raises(ValueError, match=f"word id {outside}: it is outside"):
            vocabulary.decode([1, outside])
        assert vocabulary.decode([1, 0, outside]) == "a"


def test_a_word_that_looks_like_a_special_token_is_a_word():
    vocabulary = WordVocabulary.build([["<end>", "of"]], min_count=1)
    assert vocabulary.words == ("<end>", "<end>", "of")
    assert vocabulary.encode(["<end>", "of"]) == [1, 2]
    assert vocabulary.decode([1, 2, 0]) == "<end> of"


def test_the_bias_is_the_log_frequency_minus_its_maximum():
    vocabulary = WordVocabulary.build(CAPTIONS, min_count=2)
    frequencies = np.array([4, 5, 3, 2, 2]) / 16
    expected = np.log(frequencies) - np.log(frequencies).max()
    np.testing.assert_allclose(vocabulary.output_bias(), expected, rtol=1e-12)


def test_the_bias_is_finite_for_what_is_never_predicted():
    vocabulary = WordVocabulary.build(CAPTIONS, min_count=1, share_start_end=False, rare="unknown")
    assert vocabulary.counts[:3] == (0, 4, 0)
    bias = vocabulary.output_bias()
    assert all(math.isfinite(value) for value in bias) and max(bias) == 0
    assert bias[0] == bias[2] == pytest.approx(math.log(1 / 5))


def test_the_facts_for_the_log():
    vocabulary = WordVocabulary.build(CAPTIONS, min_count=2)
    assert (vocabulary.num_words_seen, vocabulary.num_running_words_seen) == (5, 13)
    assert vocabulary.rare_share == pytest.approx(1 / 13)
    assert str(vocabulary) == "4 of 5 different words; 7.7% of the running words are rare and dropped"
    unknown = WordVocabulary.build(CAPTIONS, min_count=2, rare="unknown")
    assert unknown.rare_share == pytest.approx(1 / 13)
    assert str(unknown).endswith("7.7% of the running words are rare and read as <unknown>")


def test_what_cannot_be_built_is_refused():
    with pytest.raises(
        ValueError, match="none of the 5 different words in 4 captions .* min_count = 6 .*Lower"
    ):
        WordVocabulary.build(CAPTIONS, min_count=6)
    with pytest.raises(ValueError, match="none of the 0 different words"):
        WordVocabulary.build([])
    with pytest.raises(ValueError, match="min_count must be at least 1, got 0"):
        WordVocabulary.build(CAPTIONS, min_count=0)
    with pytest.raises(ValueError, match=r"'a dog runs' is a text.*split\(\)"):
        WordVocabulary.build(["a dog runs"])


@pytest.mark.parametrize("options", [{}, {"share_start_end": False}, {"rare": "unknown"}])
def test_saved_and_loaded(tmp_path, options):
    vocabulary = WordVocabulary.build([*CAPTIONS, ["ça", "犬"]], min_count=1, **options)
    folder = tmp_path / "new" / "folder"
    vocabulary.save(folder)
    assert WordVocabulary.load(folder) == vocabulary
    assert os.listdir(folder) == ["vocabulary.json"]
    WordVocabulary.build(CAPTIONS, min_count=2).save(folder)
    assert WordVocabulary.load(folder).num_words == 4


DAMAGE = {
    "missing": (None, "no such file"),
    "truncated": ('{"words": [', "damaged"),
    "not UTF-8": (b"\xff", "damaged"),
    "not an object": ("[]", "a JSON list, not an object"),
    "no words": ({"words": None}, "'words' is not a list of str"),
    "a number as word": ({"words": ["<end>", 1, "dog", "cat", "runs"]}, "'words' is not a list of str"),
    "a fraction as count": ({"counts": [4, 5.0, 3, 2, 2]}, "'counts' is not a list of int"),
    "a truth as id": ({"end_id": False}, "'end_id' is False"),
    "no start": ({"start_id": None}, "'start_id' is None"),
    "fewer counts": ({"counts": [4, 5, 3, 2]}, "5 words do not fit 4 counts"),
    "a negative count": ({"counts": [4, 5, 3, 2, -2]}, "negative"),
    "too few running words": ({"num_running_words_seen": 11}, "above that of all running words"),
    "too few words": ({"num_words_seen": 3}, "too low"),
    "a word twice": ({"words": ["<end>", "a", "dog", "dog", "runs"]}, "a word occurs twice"),
    "an id apart": ({"unknown_id": 4}, r"ids are \[0, 0, 4\], not the first"),
    "an unknown END": ({"unknown_id": 0}, r"ids are \[0, 0, 0\], not the first"),
    "no word at all": ({"words": ["<end>"], "counts": [4]}, "no word besides"),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE.keys())
def test_damage_is_named(tmp_path, damage, message):
    WordVocabulary.build(CAPTIONS, min_count=2).save(tmp_path)
    path = tmp_path / "vocabulary.json"
    if isinstance(damage, dict):
        path.write_text(json.dumps({**json.loads(path.read_text()), **damage}))
    elif damage is None:
        path.unlink()
    else:
        path.write_bytes(damage if isinstance(damage, bytes) else damage.encode())
    with pytest.raises(ValueError, match=f"vocabulary.json: .*{message}"):
        WordVocabulary.load(tmp_path)


def test_words_of_captions_by_hand():
    assert caption_words('A man\'s "t-shirt" , no. 9: AT&T -- (a - b) . ') == [
        "a",
        "mans",
        "t-shirt",
        "no",
        "9",
        "att",
        "--",
        "a",
        "-",
        "b",
    ]
    assert caption_words(" . ! ") == caption_words("") == []
