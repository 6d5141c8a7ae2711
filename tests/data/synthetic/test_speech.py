"""The embedded speech corpus: repeatable, audible, honest splits, never half built."""

import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from seqdsd.data.manifest import Utterance, read_manifest
from seqdsd.data.synthetic import SAMPLE_RATE_HZ, SPLITS, VOICES, SyntheticSpeech, speech, synthetic_speech

TINY = SyntheticSpeech(train_utterances=3, dev_utterances=1, test_utterances=1)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Utterance]]:
    """Each voice heard once or twice."""
    spec = SyntheticSpeech(train_utterances=30, dev_utterances=6, test_utterances=6)
    folder = synthetic_speech(spec, tmp_path_factory.mktemp("cache"))
    return {split: read_manifest(folder / f"{split}.jsonl").utterances for split in SPLITS}


def everything(corpus: dict[str, list[Utterance]]) -> list[Utterance]:
    return [utterance for utterances in corpus.values() for utterance in utterances]


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_same_seed_same_bytes_whatever_the_workers(tmp_path: Path) -> None:
    first = synthetic_speech(TINY, tmp_path / "one", workers=1)
    second = synthetic_speech(TINY, tmp_path / "two", workers=3)
    assert bytes_of(first) == bytes_of(second)
    assert len(bytes_of(first)) == 5 + 3 + 1  # audio, manifests, marker


def test_another_seed_another_corpus(tmp_path: Path) -> None:
    one, two = (synthetic_speech(replace(TINY, seed=seed), tmp_path) for seed in (0, 1))
    assert one != two
    for name, content in bytes_of(one).items():
        assert bytes_of(two)[name] != content


def test_sizes_and_ids(corpus: dict[str, list[Utterance]]) -> None:
    assert [len(corpus[split]) for split in SPLITS] == [30, 6, 6]
    assert corpus["test"][3].id == "test-00003"


def test_splits_share_no_voice_and_no_sentence(corpus: dict[str, list[Utterance]]) -> None:
    speakers = [{utterance.speaker for utterance in corpus[split]} for split in SPLITS]
    assert speakers == [set(VOICES[split]) for split in SPLITS]
    assert len(set.union(*speakers)) == sum(len(voices) for voices in speakers) >= 28
    variants = [{voice.partition("+")[2] for voice in voices} for voices in speakers]
    assert not variants[0] & (variants[1] | variants[2])  # one timbre in another accent is no new voice
    plan = speech._plan(SyntheticSpeech())
    heard = {line.text for line in plan if line.split == "train"}
    assert not heard & {line.text for line in plan if line.split != "train"}


def test_transcripts_stay_in_the_alphabet_and_cover_it() -> None:
    texts = [line.text for line in speech._plan(SyntheticSpeech())]
    assert set("".join(texts)) == set(string.ascii_lowercase + " '")
    assert all(text == " ".join(text.split()) for text in texts)


def test_all_kinds_of_sentences_occur() -> None:
    texts = [line.text for line in speech._plan(SyntheticSpeech())]
    spelled = sum(all(len(word) == 1 for word in text.split()[:2]) for text in texts)
    digits = sum(set(text.split()) <= set(speech._DIGITS) for text in texts)
    dates = sum("nineteen" in text.split()[-3:] for text in texts)
    for count in (spelled, digits, dates, len(texts) - spelled - digits - dates):
        assert 0.2 < count / len(texts) < 0.3


def test_spelled_a_is_given_to_espeak_as_the_letter() -> None:
    for line in speech._plan(SyntheticSpeech()):
        is_spelled = all(len(word) == 1 for word in line.text.split()[:2])
        assert line.prompt.text.count("[['eI]]") == (line.text.split().count("a") if is_spelled else 0)


def test_audio_is_what_the_manifest_says(corpus: dict[str, list[Utterance]]) -> None:
    for utterance in everything(corpus):
        info = soundfile.info(utterance.audio_path)
        assert (info.samplerate, info.channels, info.subtype) == (SAMPLE_RATE_HZ, 1, "PCM_16")
        assert utterance.duration_seconds == info.frames / SAMPLE_RATE_HZ
        assert 0.5 < utterance.duration_seconds < 5


def test_audio_is_neither_clipped_nor_silent_and_mildly_noisy(corpus: dict[str, list[Utterance]]) -> None:
    peaks, snrs_db = [], []
    for utterance in everything(corpus):
        audio, _ = soundfile.read(utterance.audio_path)
        edge, rms = audio[: SAMPLE_RATE_HZ // 25], np.sqrt(np.mean(audio**2))
        peaks.append(np.abs(audio).max())
        snrs_db.append(20 * np.log10(rms / np.sqrt(np.mean(edge**2))))
        assert rms > 0.01
    assert max(peaks) <= 0.9 and min(peaks) > 0.9 * 10 ** (-12 / 20) - 1e-3
    assert max(peaks) / min(peaks) > 2  # the gain varies
    assert 15 < min(snrs_db) < 28 < max(snrs_db) < 50  # asked for 20 to 40 over the whole recording


def test_resampling_keeps_low_tones_and_drops_those_above_the_new_limit() -> None:
    def tone(hertz: float, rate_hz: int) -> np.ndarray:
        return np.sin(2 * np.pi * hertz * np.arange(rate_hz) / rate_hz)

    got = speech._to_16_khz(tone(1000, 22_050))
    np.testing.assert_allclose(got, tone(1000, 16_000), atol=1e-6)
    assert np.abs(speech._to_16_khz(tone(9000, 22_050))).max() < 1e-6


def test_a_cached_corpus_is_returned_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = synthetic_speech(TINY, tmp_path)
    monkeypatch.setattr(speech, "speak", None)  # calling it would fail
    assert synthetic_speech(TINY, tmp_path) == folder
    monkeypatch.setenv("SEQDSD_CACHE", str(tmp_path))
    assert synthetic_speech(TINY) == folder


def test_one_voice_says_the_same_sentences() -> None:
    plan, alone = (speech._plan(replace(TINY, voice=voice)) for voice in (None, "en-us+m1"))
    assert {line.voice for line in alone} == {"en-us+m1"} != {line.voice for line in plan}
    assert [(line.id, line.text) for line in alone] == [(line.id, line.text) for line in plan]


def test_corpora_of_before_there_was_one_voice_are_found(tmp_path: Path) -> None:
    folder = synthetic_speech(TINY, tmp_path)
    assert "voice" not in (folder / "corpus.json").read_text()


def test_an_interrupted_build_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(prompts, *, voice, seed):
        if voice in VOICES["test"]:
            raise KeyboardInterrupt
        return speak(prompts, voice=voice, seed=seed)

    speak = speech.speak
    monkeypatch.setattr(speech, "speak", interrupted)
    with pytest.raises(KeyboardInterrupt):
        synthetic_speech(TINY, tmp_path, workers=1)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    assert len(read_manifest(synthetic_speech(TINY, tmp_path) / "test.jsonl").utterances) == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"seed": -1},
        {"dev_utterances": 0},
        {"least_snr_db": 30.0, "most_snr_db": 20.0},
        {"most_snr_db": float("nan")},
        {"most_attenuation_db": 50.0},
    ],
)
def test_bad_specs_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SyntheticSpeech(**wrong)
