"""The kinds of networks that are trained here, and what each is called: asked by all who treat them differently.

Only names. What a kind does is said once a floor: in its task (``seqdsd.tasks``), its use (``inference.networks``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Kind:
    """What networks of one kind are for.

    Attributes:
        name: As in JSON and in pages.
        networks: Names of the networks by the recipe that trains them.
        description: What a run has trained and what to use it with, for a sentence.
    """

    name: str
    networks: Mapping[str, str]
    description: str


SPEECH = Kind(
    name="speech",
    networks={"ds1": "DeepSpeech 1", "ds2": "DeepSpeech 2"},
    description="a recogniser; use seqdsd transcribe or seqdsd evaluate",
)
CAPTIONS = Kind(
    name="captions",
    networks={"neuraltalk": "NeuralTalk"},
    description="a captioner; use seqdsd caption or seqdsd evaluate",
)
KINDS = (SPEECH, CAPTIONS)
KIND_OF_RECIPE = {recipe: kind for kind in KINDS for recipe in kind.networks}
"""The kind of what a recipe trains."""
