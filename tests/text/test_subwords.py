import pickle

import pytest

from seqdsd.text import OutOfAlphabet, SubwordTokenizer, Tokenizer, load_tokenizer

TEXTS = [
    "the cat sat on the mat",
    "a dog ran over the hill",
    "the hill was over there",
    "it's a cat's hat",
    "there was a dog on the hill",
]
NUM_CHARACTERS = len(set("".join(TEXTS)))


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(request):
    return SubwordTokenizer.train(TEXTS, NUM_CHARACTERS + 4, model_type=request.param)


def test_round_trip_without_the_blank(tokenizer):
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.vocab_size, tokenizer.blank_id) == (NUM_CHARACTERS + 4, 0)
    for text in [*TEXTS, "", "a", " two  hats ".replace("w", "o"), "there's the rat"]:
        ids = tokenizer.encode(text)
        assert all(0 < id_ < tokenizer.vocab_size for id_ in ids)
        assert tokenizer.decode(ids) == text


def test_pieces_are_longer_than_characters(tokenizer):
    assert len(tokenizer.encode("the hill")) < len("the hill")


def test_a_sentence_has_the_pieces_of_its_words(tokenizer):
    """What the search with a language model builds on: it spells word by word."""
    for text in TEXTS:
        assert tokenizer.encode(text) == [id_ for word in text.split() for id_ in tokenizer.encode(word)]


def test_training_is_silent_and_repeatable(capfd):
    first, second = (SubwordTokenizer.train(TEXTS, NUM_CHARACTERS + 4) for _ in range(2))
    assert pickle.dumps(first) == pickle.dumps(second)
    assert capfd.readouterr() == ("", "")


def test_unknown_characters_are_named(tokenizer):
    with pytest.raises(OutOfAlphabet, match="has 'z', '5', not in the sub-word vocabulary"):
        tokenizer.encode("the zoo 5")


@pytest.mark.parametrize("id_", [0, -1, 1000])
def test_decode_refuses_blanks_and_strangers(tokenizer, id_):
    with pytest.raises(ValueError, match=f"token id {id_}"):
        tokenizer.decode([1, id_])


def test_impossible_vocabulary_sizes():
    with pytest.raises(ValueError, match=f"5 is too low.*at least {NUM_CHARACTERS + 1}"):
        SubwordTokenizer.train(TEXTS, 5)
    with pytest.raises(ValueError, match="1000 does not suit 5 transcripts.*too high"):
        SubwordTokenizer.train(TEXTS, 1000)
    with pytest.raises(ValueError, match="no text"):
        SubwordTokenizer.train(["", " "], 10)


def test_the_lowest_vocabulary_size_it_asks_for_works():
    assert SubwordTokenizer.train(TEXTS, NUM_CHARACTERS + 1).vocab_size == NUM_CHARACTERS + 1


def test_survives_saving_and_pickling(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "new" / "folder")
    for copy in (load_tokenizer(tmp_path / "new" / "folder"), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])


def test_a_damaged_model_is_refused_by_name(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "subwords.model").write_bytes(b"junk")
    with pytest.raises(ValueError, match="subwords.model: cannot be used"):
        load_tokenizer(tmp_path)
