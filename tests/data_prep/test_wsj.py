import pytest
import wsj

from seqdsd.data.manifest import read_manifest

# By disc: path below the disc -> transcript. Names have the real form; the words are made up.
RECORDINGS = {
    "11-1.1": {
        "wsj0/si_tr_s/01i/01ic0201.wv1": "The sale of the hotels ,COMMA is part of U. S. strategy .PERIOD"
    },
    "11-2.1": {"wsj0/si_tr_s/401/401c0201.wv1": "LEFT OUT BY THE RECIPE"},
    "13-1.1": {"wsj1/si_tr_s/46g/46gc020d.wv1": "[lip_smack] mr. *Poneglyph* <and> his \\%PERCENT ~"},
    "13-16.1": {"wsj1/si_dt_20/4k0/4k0c0301.wv1": "dev words"},
    "11-14.1": {"wsj0/si_et_20/440/440c0401.wv1": "test words one", "wsj0/si_et_20/440/440c0402.wv1": "two"},
    "13-33.1": {"wsj1/si_et_h1/wsj64k/4oa/4oac0201.wv1": "test words of ninety-three"},
}
INDICES = {
    "11-13.1/wsj0/doc/indices/train/tr_s_wv1.ndx": [
        ";; a comment",
        "11_1_1:wsj0/si_tr_s/01i/01ic0201.wv1",
        "11_2_1:wsj0/si_tr_s/401/401c0201.wv1",
    ],
    "13-34.1/wsj1/doc/indices/si_tr_s.ndx": ["13_1_1: wsj1/si_tr_s/46g/46gc020d.wv1"],
    "13-34.1/wsj1/doc/indices/h1_p0.ndx": ["13_16_1: wsj1/si_dt_20/4k0/4k0c0301.wv1"],
    "11-13.1/wsj0/doc/indices/test/nvp/si_et_20.ndx": [
        "11_14_1: wsj0/si_et_20/440/440c0402",
        "11_14_1: wsj0/si_et_20/440/440c0401",
    ],
    # The disc is wrong here, as it is on the real one: the audio lies on 13-33.1.
    "13-32.1/wsj1/doc/indices/wsj1/eval/h1_p0.ndx": ["13_32_1:wsj1/si_et_h1/wsj64k/4oa/4oac0201.wv1"],
}
EXPECTED = {"si84": 1, "si284": 2, "dev93": 1, "eval92": 2, "eval93": 1}


def build(root, make_audio, *, place):
    """Lay the corpus out; ``place`` turns a path with a disc into the path used."""
    dots = {}
    for disc, recordings in RECORDINGS.items():
        for path, transcript in recordings.items():
            target = root / place(f"{disc}/{path}")
            target.parent.mkdir(parents=True, exist_ok=True)
            make_audio(target, format="NIST")
            id_ = target.stem.lower()
            corpus = path.partition("/")[0]
            dot = root / place(f"13-34.1/{corpus}/trans/{id_[:3]}/{id_[:6]}00.dot")
            dots.setdefault(dot, []).append(f"{transcript} ({id_.upper()})")
    for path, lines in [*dots.items(), *((root / place(path), lines) for path, lines in INDICES.items())]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\r\n".join(lines) + "\r\n")
    return root


LAYOUTS = {
    "discs": lambda path: path,
    "underscored discs in folders of their own": lambda path: "ldc/" + path.replace("-", "_", 1),
    "merged": lambda path: path.partition("/")[2],
    "upper case": lambda path: path.upper(),
}


@pytest.mark.parametrize("place", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_gives_the_same_manifests(tmp_path, make_audio, place):
    corpus = build(tmp_path / "wsj", make_audio, place=place)
    wsj.prepare(corpus, tmp_path / "out", train="si284", expected=EXPECTED)
    found = {
        path.stem: [(u.id, u.speaker, u.text) for u in read_manifest(path).utterances]
        for path in (tmp_path / "out").iterdir()
    }
    assert found == {
        "train": [
            ("01ic0201", "01i", "the sale of the hotels comma is part of u s strategy period"),
            ("46gc020d", "46g", "mr poneglyph and his percent"),
        ],
        "dev": [("4k0c0301", "4k0", "dev words")],
        "test_eval92": [("440c0401", "440", "test words one"), ("440c0402", "440", "two")],
        "test_eval93": [("4oac0201", "4oa", "test words of ninety three")],
    }


@pytest.fixture
def corpus(tmp_path, make_audio):
    return build(tmp_path / "wsj", make_audio, place=LAYOUTS["discs"])


def test_si84_is_the_wsj0_part(corpus, tmp_path):
    wsj.prepare(corpus, tmp_path / "out", train="si84", expected=EXPECTED)
    assert [u.id for u in read_manifest(tmp_path / "out" / "train.jsonl").utterances] == ["01ic0201"]


def test_test_sets_must_be_complete(corpus, tmp_path):
    with pytest.raises(ValueError, match="dev93 has 1 utterances, expected 503"):
        wsj.main(corpus, tmp_path / "out")
    with pytest.raises(ValueError, match="eval92 has 2 utterances, expected 333"):
        wsj.prepare(corpus, tmp_path / "out", train="si284", expected=EXPECTED | {"eval92": 333})
    assert not (tmp_path / "out").exists()


def test_a_smaller_training_set_is_warned_of(corpus, tmp_path, capsys):
    wsj.prepare(corpus, tmp_path / "out", train="si284", expected=EXPECTED | {"si284": 37416})
    assert "si284 has 2 utterances, expected 37416" in capsys.readouterr().err


def test_converted_audio_is_preferred(corpus, tmp_path, make_audio):
    converted = make_audio(corpus / "13-16.1/wsj1/si_dt_20/4k0/4k0c0301.wav", 0.3)
    wsj.prepare(corpus, tmp_path / "out", train="si84", expected=EXPECTED)
    assert [
        (u.audio_path, u.duration_seconds) for u in read_manifest(tmp_path / "out/dev.jsonl").utterances
    ] == [(str(converted), 0.3)]


def test_damage_is_named(corpus, tmp_path):
    def prepare():
        wsj.prepare(corpus, tmp_path / "out", train="si284", expected=EXPECTED)

    index = corpus / "13-34.1/wsj1/doc/indices/h1_p0.ndx"
    whole = index.read_text()
    index.write_text("nonsense\n")
    with pytest.raises(ValueError, match="h1_p0.ndx:1: 'nonsense' is not 'DISC:wsj0"):
        prepare()
    index.write_text(whole)
    dot = corpus / "13-34.1/wsj1/trans/4k0/4k0c0300.dot"
    dot.write_text("words without an id\n")
    with pytest.raises(ValueError, match="4k0c0300.dot:1: 'words without an id'"):
        prepare()
    dot.unlink()
    with pytest.raises(ValueError, match="h1_p0.ndx:1: no transcript of 4k0c0301"):
        prepare()
    (corpus / "13-16.1/wsj1/si_dt_20/4k0/4k0c0301.wv1").unlink()
    with pytest.raises(ValueError, match="h1_p0.ndx:1: wsj1/si_dt_20/4k0/4k0c0301.wv1 is not below"):
        prepare()
    index.unlink()
    with pytest.raises(ValueError, match="wsj1/doc/indices/h1_p0.ndx is not below"):
        prepare()


@pytest.mark.parametrize(
    ("marked", "words"),
    [
        ("the [<door_slam] man [phone_ring/] said [/phone_ring] so [ls>]", "the man said so"),
        ("a <NOISE> b [loud_breath]", "a b"),
        ("<and> then *Exxon's* !really lo:ng ~cut o~", "and then Exxon's really long cut o"),
        ("one . two - three ~", "one two three"),
        (
            ',COMMA "DOUBLE-QUOTE .PERIOD ?QUESTION-MARK --DASH',
            "COMMA DOUBLE-QUOTE PERIOD QUESTION-MARK DASH",
        ),
        (r"\"CLOSE-QUOTE \(LEFT-PAREN %PERCENT &AMPERSAND", "CLOSE-QUOTE LEFT-PAREN PERCENT AMPERSAND"),
        (":COLON ;SEMI-COLON ...ELLIPSIS /SLASH {LEFT-BRACE", "COLON SEMI-COLON ELLIPSIS SLASH LEFT-BRACE"),
        ("'SINGLE-QUOTE 'TIS the dogs' 'em", "SINGLE-QUOTE 'TIS the dogs' 'em"),
        ("MR. J. P. MORGAN'S U.S. anti-trust", "MR J P MORGAN'S US anti-trust"),
    ],
)
def test_markup_goes_and_words_stay(marked, words):
    assert wsj.remove_markup(marked) == words
