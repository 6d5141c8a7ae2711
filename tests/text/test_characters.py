import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqdsd.text import ENGLISH_ALPHABET, CharacterTokenizer, OutOfAlphabet, Tokenizer


def test_the_29_symbols_of_deepspeech():
    tokenizer = CharacterTokenizer()
    assert isinstance(tokenizer, Tokenizer)
    assert (tokenizer.vocab_size, tokenizer.blank_id) == (29, 0)
    # By hand: blank 0, space 1, apostrophe 2, a 3 … z 28.
    assert tokenizer.encode("a z'b") == [3, 1, 28, 2, 4]
    assert tokenizer.decode([3, 1, 28, 2, 4]) == "a z'b"
    assert tokenizer.encode("") == [] and tokenizer.decode([]) == ""


@given(st.text(alphabet=ENGLISH_ALPHABET))
def test_round_trip(text):
    tokenizer = CharacterTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("alphabet", "text", "parts"),
    [
        (
            ENGLISH_ALPHABET,
            "GO ON",
            ["case mismatch: transcripts are upper-case but the alphabet is lower-case"],
        ),
        ("AB ", "ab", ["case mismatch: transcripts are lower-case but the alphabet is upper-case"]),
        (ENGLISH_ALPHABET, "add 5 & 6", ["'5', '&', '6'", "position 4", "normalise_transcript"]),
        (
            ENGLISH_ALPHABET,
            "né ω",
            ["'é', 'ω'", "position 1", "--tokenizer.alphabet", "--tokenizer.kind subwords"],
        ),
        ("abcö ", "bo\u0308 c", ["position 1", "another Unicode form", "'NFC'"]),
        ("abco\u0308 ", "bö c", ["'ö'", "position 1", "another Unicode form", "'NFC'"]),
        (ENGLISH_ALPHABET, "Go 5", ["'G', '5'", "position 0", "normalise_transcript"]),
    ],
)
def test_refusals_name_character_position_and_remedy(alphabet, text, parts):
    with pytest.raises(OutOfAlphabet) as error:
        CharacterTokenizer(alphabet).encode(text)
    for part in [repr(text), *parts]:
        assert part in str(error.value)


@pytest.mark.parametrize(("id_", "what"), [(0, "the blank"), (29, r"outside \[1, 29\)"), (-1, "outside")])
def test_decode_refuses_blanks_and_strangers(id_, what):
    with pytest.raises(ValueError, match=f"token id {id_}: it is {what}"):
        CharacterTokenizer().decode([3, id_])


@pytest.mark.parametrize("alphabet", ["", "aba"])
def test_bad_alphabets(alphabet):
    with pytest.raises(ValueError, match="Give each character once"):
        CharacterTokenizer(alphabet)
