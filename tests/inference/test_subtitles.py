from pathlib import Path

from seqdsd.inference.subtitles import ctm, srt, to_cues, vtt
from seqdsd.tasks.alignment import TimedWord


def spoken(*times: tuple[str, float, float]) -> list[TimedWord]:
    return [TimedWord(word, float(start), float(end), 0.987) for word, start, end in times]


WORDS = spoken(("one", 0.5, 0.8), ("two", 0.9, 1.25), ("three", 3661.0, 3662.5))


def test_srt():
    assert srt(WORDS) == (
        "1\n00:00:00,500 --> 00:00:01,250\none two\n\n2\n01:01:01,000 --> 01:01:02,500\nthree\n"
    )


def test_vtt():
    assert vtt(WORDS) == (
        "WEBVTT\n\n00:00:00.500 --> 00:00:01.250\none two\n\n01:01:01.000 --> 01:01:02.500\nthree\n"
    )


def test_ctm():
    assert ctm(WORDS[:2], Path("recordings/my talk.flac")) == (
        "my_talk 1 0.50 0.30 one 0.99\nmy_talk 1 0.90 0.35 two 0.99\n"
    )


def test_nothing_was_said():
    assert (srt([]), vtt([]), ctm([], Path("a.wav"))) == ("", "WEBVTT\n", "")


def test_a_cue_ends_at_a_pause_and_before_it_is_too_long():
    steady = spoken(*((f"word{i:02}", 0.4 * i, 0.4 * i + 0.3) for i in range(40)))
    cues = list(to_cues(steady))
    assert " ".join(cue.text for cue in cues).split() == [word.word for word in steady]
    assert all(cue.end_seconds - cue.start_seconds <= 6 for cue in cues)
    lines = [cue.text.split("\n") for cue in cues]
    assert all(len(one) <= 2 and all(len(line) <= 42 for line in one) for one in lines)
    assert len(cues) == 4  # a line holds 6 words of 6 letters, and 12 take 4.7 s
    assert [cue.text for cue in to_cues(spoken(("one", 0, 1), ("two", 2, 3)))] == ["one", "two"]


def test_a_word_longer_than_a_cue_is_one():
    assert len(list(to_cues(spoken(("a" * 100, 0, 10))))) == 1
