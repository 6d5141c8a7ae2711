"""A vocabulary of whole words for captions: START, END and the words seen often enough in training.

It is no ``Tokenizer``: those serve CTC, which has a blank and neither START nor END. It takes captions as words, as
caption files hold them; ``caption_words`` splits a caption that is there as text alone.
"""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

END_NAME, START_NAME, UNKNOWN_NAME = "<end>", "<start>", "<unknown>"
_FILE_NAME = "vocabulary.json"
_REMEDY = "Save the vocabulary again; if this is a run's folder, copy it again whole."


def caption_words(text: str) -> list[str]:
    """Split a caption: lower case, punctuation dropped, parts of a word together (``t-shirt``, ``dog's`` as ``dogs``).

    NLTK's ``wordpunct_tokenize`` tells letters and digits from marks, so any alphabet will do, with no download.

    Reference: the ``tokens`` of Karpathy's dataset_flickr8k.json; from its ``raw`` texts all 40,000 come out the same.
    """
    from nltk.tokenize import wordpunct_tokenize  # half a second, for files that need it

    words = ("".join(filter(_is_of_a_word, wordpunct_tokenize(word))) for word in text.lower().split())
    return [word for word in words if word]


def _is_of_a_word(part: str) -> bool:
    return part.isalnum() or set(part) == {"-"}


@dataclass(frozen=True)
class WordVocabulary:
    """Words to ids and back. Ids of the special tokens come first, then words, the frequent ones first.

    Raises:
        ValueError: If the lists do not fit each other; ``build`` and ``load`` are the usual ways to get one.
    """

    words: tuple[str, ...]
    """By id; special tokens have the names ``<end>``, ``<start>`` and ``<unknown>``."""
    counts: tuple[int, ...]
    """How often each id is to be predicted in the training captions. END's is the number of captions; START's, where
    it has an id of its own, is 0."""
    start_id: int
    end_id: int
    unknown_id: int | None
    """What stands for rare words; None: they are dropped from the sentence."""
    num_words_seen: int
    """Distinct words in the training captions, the rare ones included."""
    num_running_words_seen: int
    """Words of all training captions, one after the other."""

    def __post_init__(self) -> None:
        specials = [id_ for id_ in (self.start_id, self.end_id, self.unknown_id) if id_ is not None]
        if len(self.words) != len(self.counts):
            raise ValueError(f"{len(self.words)} words do not fit {len(self.counts)} counts")
        if set(specials) != set(range(len(set(specials)))) or self.unknown_id in (self.start_id, self.end_id):
            raise ValueError(f"the special tokens' ids are {specials}, not the first ones")
        if len(self.words) <= len(set(specials)):
            raise ValueError("there is no word besides the special tokens")
        if len(self._ids) != self.num_words:
            raise ValueError("a word occurs twice")
        if min(self.counts) < 0 or self.num_words_seen < self.num_words:
            raise ValueError("a count is negative or too low")
        if self.num_running_words_seen < sum(self.counts[self._num_specials :]):
            raise ValueError("the words' counts are above that of all running words")

    @classmethod
    def build(
        cls,
        captions: Iterable[Sequence[str]],
        *,
        min_count: int = 5,
        share_start_end: bool = True,
        rare: Literal["drop", "unknown"] = "drop",
    ) -> "WordVocabulary":
        """Count the words of the training captions; their order does not matter.

        Args:
            captions: Each a sequence of words.
            min_count: Words seen fewer times are rare.
            share_start_end: START and END are both id 0, as in NeuralTalk; otherwise START is 0 and END is 1.
            rare: Rare words are dropped from the sentence, as in NeuralTalk, or mapped to an unknown token, as in
                NeuralTalk2.

        Raises:
            ValueError: If no word is seen ``min_count`` times, or a caption is text that nobody has split.

        Reference: karpathy/neuraltalk, driver.py, ``preProBuildWordVocab``. Departure: its words are in the order of
        a hash table, ours by count, then by alphabet.
        """
        if min_count < 1:
            raise ValueError(f"min_count must be at least 1, got {min_count}")
        seen: Counter[str] = Counter()
        num_captions = 0
        for caption in captions:
            if isinstance(caption, str):
                raise ValueError(f"the caption {caption!r} is a text. Give its words: caption.split().")
            seen.update(caption)
            num_captions += 1
        kept = [word for word, count in seen.items() if count >= min_count]
        if not kept:
            raise ValueError(
                f"none of the {len(seen)} different words in {num_captions} captions is seen min_count = {min_count} "
                "times. Lower min_count, or give more captions."
            )
        kept.sort(key=lambda word: (-seen[word], word))
        running = seen.total()
        rare_count = running - sum(seen[word] for word in kept)
        specials = [(END_NAME, num_captions)]
        if not share_start_end:
            specials.insert(0, (START_NAME, 0))
        end_id = len(specials) - 1
        if rare == "unknown":
            specials.append((UNKNOWN_NAME, rare_count))
        entries = specials + [(word, seen[word]) for word in kept]
        return cls(
            words=tuple(word for word, _ in entries),
            counts=tuple(count for _, count in entries),
            start_id=0,
            end_id=end_id,
            unknown_id=end_id + 1 if rare == "unknown" else None,
            num_words_seen=len(seen),
            num_running_words_seen=running,
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids, the special tokens included."""
        return len(self.words)

    @property
    def num_words(self) -> int:
        """Number of words that have an id of their own."""
        return self.vocab_size - self._num_specials

    @property
    def rare_share(self) -> float:
        """Share of the training captions' running words that are dropped or mapped to the unknown token."""
        kept = sum(self.counts[self._num_specials :])
        return 1 - kept / self.num_running_words_seen

    def __str__(self) -> str:
        """The facts for a log, in one sentence."""
        fate = "dropped" if self.unknown_id is None else f"read as {UNKNOWN_NAME}"
        return (
            f"{self.num_words} of {self.num_words_seen} different words; "
            f"{self.rare_share:.1%} of the running words are rare and {fate}"
        )

    def __contains__(self, word: str) -> bool:
        """Whether a word has an id of its own."""
        return word in self._ids

    def encode(self, words: Sequence[str]) -> list[int]:
        """Return the ids of a caption's words, without START and END; rare words are dropped or unknown."""
        if self.unknown_id is None:
            return [self._ids[word] for word in words if word in self._ids]
        return [self._ids.get(word, self.unknown_id) for word in words]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the words up to the first END, with spaces between; a START of its own id is passed over.

        Raises:
            ValueError: If an id before END is outside the vocabulary.
        """
        words = []
        for id_ in ids:
            if id_ == self.end_id:
                break
            if not 0 <= id_ < self.vocab_size:
                raise ValueError(f"cannot decode word id {id_}: it is outside [0, {self.vocab_size})")
            if id_ != self.start_id:
                words.append(self.words[id_])
        return " ".join(words)

    def output_bias(self) -> list[float]:
        """Return the logarithm of each id's frequency, minus the largest: what an output layer's bias starts from.

        An id that training never predicts counts as predicted once, so that every value is finite.

        Reference: karpathy/neuraltalk, driver.py, ``preProBuildWordVocab`` ("bd"). No departure at its settings.
        """
        most = max(self.counts)
        return [math.log(max(count, 1) / most) for count in self.counts]

    def to_json(self) -> dict[str, Any]:
        """All that ``from_json`` needs."""
        return {
            "start_id": self.start_id,
            "end_id": self.end_id,
            "unknown_id": self.unknown_id,
            "num_words_seen": self.num_words_seen,
            "num_running_words_seen": self.num_running_words_seen,
            "words": self.words,
            "counts": self.counts,
        }

    @classmethod
    def from_json(cls, values: Any) -> "WordVocabulary":
        """The vocabulary that ``to_json`` described.

        Raises:
            ValueError: If it is no such description.
        """
        return cls(**_checked(values))

    def save(self, folder: Path) -> None:
        """Write ``vocabulary.json`` into a folder in one step; the folder is made where it is missing."""
        folder.mkdir(parents=True, exist_ok=True)
        temporary = folder / f".{_FILE_NAME}.{os.getpid()}.tmp"
        temporary.write_text(json.dumps(self.to_json(), ensure_ascii=False) + "\n", encoding="utf-8")
        os.replace(temporary, folder / _FILE_NAME)

    @classmethod
    def load(cls, folder: Path) -> "WordVocabulary":
        """Read what ``save`` wrote.

        Raises:
            ValueError: If ``vocabulary.json`` is missing or damaged.
        """
        path = folder / _FILE_NAME
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise ValueError(
                f"{path}: no such file. Name a folder that a vocabulary was saved to; if this is a run's folder, copy "
                "it again whole, as its weights are of no use without this file."
            ) from error
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: damaged ({error}). {_REMEDY}") from error
        try:
            return cls.from_json(description)
        except ValueError as error:
            raise ValueError(f"{path}: cannot be used: {error}. {_REMEDY}") from error

    @cached_property
    def _num_specials(self) -> int:
        return max(self.start_id, self.end_id, self.unknown_id or 0) + 1

    @cached_property
    def _ids(self) -> dict[str, int]:
        """The words' ids; a word that is spelt like a special token is a word all the same."""
        return {self.words[id_]: id_ for id_ in range(self._num_specials, len(self.words))}


def _checked(description: Any) -> dict[str, Any]:
    """Return the fields of a vocabulary, with types that JSON cannot promise."""
    if not isinstance(description, dict):
        raise ValueError(f"it holds a JSON {type(description).__name__}, not an object")
    fields: dict[str, Any] = {}
    for name in ("start_id", "end_id", "unknown_id", "num_words_seen", "num_running_words_seen"):
        value = description.get(name)
        if type(value) is not int and not (name == "unknown_id" and value is None):
            raise ValueError(f"'{name}' is {value!r}")
        fields[name] = value
    for name, kind in (("words", str), ("counts", int)):
        values = description.get(name)
        if not isinstance(values, list) or not all(type(value) is kind for value in values):
            raise ValueError(f"'{name}' is not a list of {kind.__name__}")
        fields[name] = tuple(values)
    return fields
