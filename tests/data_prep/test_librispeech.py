import librispeech
import pytest

from seqdsd.data.manifest import read_manifest

UTTERANCES = {
    "train-clean-100": ["19-198-0000", "19-198-0001", "26-495-0000"],
    "train-clean-360": ["100-1-0000"],
    "dev-clean": ["84-121123-0000"],
    "test-clean": ["61-70968-0000"],
    "test-other": ["367-130732-0000"],
}


@pytest.fixture
def corpus(tmp_path, make_audio):
    root = tmp_path / "LibriSpeech"
    for subset, ids in UTTERANCES.items():
        for id_ in ids:
            speaker, chapter, _ = id_.split("-")
            folder = root / subset / speaker / chapter
            make_audio(folder / f"{id_}.flac")
            with open(folder / f"{speaker}-{chapter}.trans.txt", "a") as file:
                file.write(f"{id_} IT'S UTTERANCE X\n")
    return root


def texts(path):
    return [(u.id, u.speaker, u.text) for u in read_manifest(path).utterances]


@pytest.mark.parametrize("above", [False, True])
def test_default_subsets(corpus, tmp_path, above):
    librispeech.main(corpus.parent if above else corpus, tmp_path / "out")
    assert texts(tmp_path / "out" / "train.jsonl") == [
        ("19-198-0000", "19", "it's utterance x"),
        ("19-198-0001", "19", "it's utterance x"),
        ("26-495-0000", "26", "it's utterance x"),
    ]
    assert texts(tmp_path / "out" / "dev.jsonl") == [("84-121123-0000", "84", "it's utterance x")]
    assert texts(tmp_path / "out" / "test.jsonl") == [("61-70968-0000", "61", "it's utterance x")]


def test_several_subsets(corpus, tmp_path):
    librispeech.main(
        corpus,
        tmp_path / "out",
        train=("train-clean-100", "train-clean-360"),
        test=("test-clean", "test-other"),
    )
    assert len(texts(tmp_path / "out" / "train.jsonl")) == 4
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "dev.jsonl",
        "test_clean.jsonl",
        "test_other.jsonl",
        "train.jsonl",
    ]


def test_damage_is_named(corpus, tmp_path):
    with pytest.raises(ValueError, match="train-other-500: no SPEAKER/CHAPTER"):
        librispeech.main(corpus, tmp_path / "out", train=("train-other-500",))
    with pytest.raises(ValueError, match="more than one split"):
        librispeech.main(corpus, tmp_path / "out", dev=("train-clean-100",))
    (corpus / "train-clean-100" / "19" / "198" / "19-198-0001.flac").unlink()
    with pytest.raises(ValueError, match=r"19-198.trans.txt:2: .*19-198-0001.flac: there is no such file"):
        librispeech.main(corpus, tmp_path / "out")
    (corpus / "dev-clean" / "84" / "121123" / "84-121123.trans.txt").write_text("84-121123-0000\n")
    with pytest.raises(ValueError, match="84-121123.trans.txt:1: '84-121123-0000' is not"):
        librispeech.main(corpus, tmp_path / "out")
