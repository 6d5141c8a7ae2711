"""Corpora that are made for a measurement."""

from collections import Counter

import soundfile

from benchmarks import small_corpora
from seqdsd.data import read_manifest


def test_digits_are_single_words_by_other_voices_in_each_split(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQDSD_CACHE", str(tmp_path))
    monkeypatch.setattr(small_corpora, "DIGITS_PER_VOICE", 20)
    folder, rate_hz = small_corpora.find_corpus("digits", tmp_path)
    heard, sounds = {}, set()
    for split, voices in small_corpora.DIGIT_VOICES.items():
        utterances = read_manifest(folder / f"{split}.jsonl").utterances
        assert Counter(one.text for one in utterances) == dict.fromkeys(small_corpora.DIGITS, 2 * len(voices))
        heard[split] = {one.speaker for one in utterances}
        for one in utterances:
            info = soundfile.info(one.audio_path)
            assert info.samplerate == rate_hz == 8_000 and 0.1 < info.duration < 1.5
            assert info.duration == one.duration_seconds
            samples, _ = soundfile.read(one.audio_path)
            assert 0.09 < abs(samples).max() < 0.91
            sounds.add(samples.tobytes())
    assert len(set.union(*heard.values())) == sum(map(len, heard.values())) == 6
    assert len(sounds) == 20 * 6
