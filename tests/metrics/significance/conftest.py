"""What two phases of the committed run said of AN4's test utterances, and texts with errors put in."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

HYPS = Path(__file__).parents[3] / "recipes" / "an4" / "records" / "ds1-dsd-seed0" / "hyps"


@pytest.fixture(scope="session")
def an4() -> Callable[[str], tuple[list[str], list[str]]]:
    """References and hypotheses of the test utterances after a phase."""

    def read(phase: str) -> tuple[list[str], list[str]]:
        lines = [json.loads(line) for line in (HYPS / f"{phase}.test.jsonl").read_text().splitlines()]
        return [line["ref"] for line in lines], [line["hyp"] for line in lines]

    return read


@pytest.fixture(scope="session")
def an4_pair(an4) -> Callable[[str, str], tuple[list[str], list[str], list[str]]]:
    """References, and the hypotheses after two phases."""
    return lambda before, after: (*an4(before), an4(after)[1])


@pytest.fixture(scope="session")
def garbled() -> Callable[[list[str], random.Random, float], str]:
    """Errors whose alignment leaves no choice of segment: no two words of an utterance are the same."""

    def garble(words: list[str], source: random.Random, rate: float) -> str:
        heard = []
        for word in words:
            error = source.random()
            heard += [] if error < rate / 3 else [word.upper() if error < 2 * rate / 3 else word]
            heard += [f"extra{source.randrange(10**9)}"] if source.random() < rate / 3 else []
        return " ".join(heard)

    return garble
