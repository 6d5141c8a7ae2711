"""Saying what a drawn scene shows, each time in other words."""

import numpy as np

from seqdsd.data.synthetic.content import COUNTS, PLACES, Figure, Scene

CAPTIONS = 5
"""Captions of each scene, each with a sentence of its own."""

# {a}, {b}: the figures (of two side by side, in either order); {many}: "three small red stars".
# Most captions of a kind share a core, as people's do: with none, a caption that is right in every word would
# still match few four-word sequences of the references.
_SENTENCES = {
    "place": (
        "{a} {place}",
        "{a} {place} of the {picture}",
        "there is {a} {place}",
        "there is {a} {place} of the {picture}",
        "the {picture} shows {a} {place}",
        "{a} on a {background} background",
        "{place} there is {a}",
    ),
    "above": (
        "{a} {above} {b}",
        "{a} is {above} {b}",
        "there is {a} {above} {b}",
        "the {picture} shows {a} {above} {b}",
        "{a} {above} {b} on a {background} background",
        "{a} and {b} {below} it",
        "{b} {below} {a}",
    ),
    "beside": (
        "{a} {beside} {b}",
        "{a} is {beside} {b}",
        "there is {a} {beside} {b}",
        "the {picture} shows {a} {beside} {b}",
        "{a} {beside} {b} on a {background} background",
        "{a} and {b} side by side",
    ),
    "count": (
        "there are {many}",
        "there are {many} in the {picture}",
        "the {picture} shows {many}",
        "{many} on a {background} background",
        "{many} in the {picture}",
        "a picture of {many}",
    ),
}
# A word as often as it stands here; "" leaves the size unsaid.
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "large": ("large", "large", "large", "large", "large", "large", "big", "big", "big", ""),
    "small": ("small", "small", "small", "small", "small", "small", "little", "little", "little", ""),
    "picture": ("picture", "picture", "image"),
    "above": ("above", "above", "above", "over"),
    "below": ("below", "below", "under"),
    "beside": ("next to", "next to", "next to", "beside"),
    "top": ("at the top",),
    "middle": ("in the middle", "in the middle", "in the centre"),
    "bottom": ("at the bottom",),
}


def caption(scene: Scene, rng: np.random.Generator) -> list[str]:
    """``CAPTIONS`` different sentences about a scene: lower-case words, single spaces, no punctuation."""
    arrangement = scene.combination.arrangement
    kind = "place" if arrangement in PLACES else "count" if arrangement in COUNTS else arrangement
    sentences = _SENTENCES[kind]
    chosen = rng.permutation(len(sentences))[:CAPTIONS]
    return [_say(sentences[index], scene, rng) for index in chosen]


def _say(sentence: str, scene: Scene, rng: np.random.Generator) -> str:
    combination = scene.combination
    slots = {slot: _word(slot, rng) for slot in ("picture", "above", "below", "beside")}
    named = [_name(*thing, rng) for thing in zip(combination.figures, scene.sizes, strict=True)]
    if combination.arrangement in COUNTS:
        slots["many"] = f"{combination.arrangement} {named[0]}s"
    elif combination.arrangement in PLACES:
        slots["place"] = _word(combination.arrangement, rng)
    elif combination.arrangement == "beside" and rng.random() < 0.5:
        named.reverse()
    slots |= {slot: f"a {name}" for slot, name in zip("ab", named, strict=False)}
    return sentence.format(**slots, background=scene.background)


def _name(figure: Figure, size: str, rng: np.random.Generator) -> str:
    """Such as "small red star"; no such word begins with a vowel or ends in s: "a" and "-s" always do."""
    return f"{_word(size, rng)} {figure.colour} {figure.shape}".lstrip()


def _word(meaning: str, rng: np.random.Generator) -> str:
    synonyms = _SYNONYMS[meaning]
    return synonyms[rng.integers(len(synonyms))]
