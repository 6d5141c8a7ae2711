import pytest

from seqdsd.text import CharacterTokenizer, load_tokenizer


def test_characters_come_back_with_their_alphabet(tmp_path):
    CharacterTokenizer("äb ").save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert isinstance(loaded, CharacterTokenizer)
    assert loaded.encode("bä") == [2, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["tokenizer.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("{", "damaged"),
        ("[]", "'kind'"),
        ('{"kind": "words"}', "unknown kind 'words'. Known kinds: characters, subwords"),
        ('{"kind": "characters"}', "'alphabet'"),
    ],
)
def test_damage_is_named(tmp_path, content, message):
    if content is not None:
        (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=f"tokenizer.json: .*{message}"):
        load_tokenizer(tmp_path)
