"""Captions to score: a handful made up here, and a thousand real ones where Flickr8k is at hand."""

import gzip
import json
import os
from pathlib import Path
from typing import NamedTuple

import pytest

DATA = Path(os.environ.get("SEQDSD_DATA", Path(__file__).parents[3] / "shared" / "data"))


class Captions(NamedTuple):
    """What the caption metrics take."""

    refs_per_item: list[list[str]]
    hyps: list[str]


@pytest.fixture
def few() -> Captions:
    """Five items of three references; hypotheses good, short, repetitive, empty and off the mark."""
    return Captions(
        refs_per_item=[
            ["a dog runs through the tall grass", "a brown dog is running in the grass", "the dog runs"],
            [
                "two boys play football on a beach",
                "boys with a ball on the sand",
                "two children play on a beach",
            ],
            [
                "a man in a red shirt climbs a rock",
                "a climber in red on a steep rock",
                "someone climbs a wall",
            ],
            ["a girl jumps into a pool", "a child dives into the blue water", "the girl jumps in the pool"],
            [
                "people wait for a bus in the rain",
                "a crowd with umbrellas",
                "people stand in the rain at a stop",
            ],
        ],
        hyps=[
            "a brown dog runs through the grass",
            "two boys play",
            "a man in a red shirt in a red shirt climbs a rock",
            "",
            "a horse stands on the grass",
        ],
    )


@pytest.fixture(scope="session")
def flickr8k() -> Captions:
    """The 1,000 test images: the first caption of each as hypothesis, the other four as references."""
    path = DATA / "flickr8k" / "dataset_flickr8k.json.gz"
    if not path.is_file():
        pytest.skip("Flickr8k is not here: set SEQDSD_DATA to the folder that holds flickr8k/")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        images = [image for image in json.load(file)["images"] if image["split"] == "test"]
    captions = [[" ".join(one["tokens"]) for one in image["sentences"]] for image in images]
    return Captions([refs for _, *refs in captions], [hyp for hyp, *_ in captions])


@pytest.fixture(scope="session")
def flickr8k_shortened(flickr8k) -> Captions:
    """The same without the hypotheses' last two words, so that brevity is penalised."""
    return Captions(flickr8k.refs_per_item, [" ".join(hyp.split()[:-2]) for hyp in flickr8k.hyps])
