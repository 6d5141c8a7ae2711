"""Sub-word tokens with Google's SentencePiece, for output layers larger than the alphabet.

The module is not called after the library, which it would shadow. No text normalisation happens here:
SentencePiece's own is switched off, so that a transcript comes back exactly as it went in.
"""

import base64
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import sentencepiece

from seqdsd.text.tokenizer import OutOfAlphabet, check_ids, write_description

_MODEL_NAME = "subwords.model"


class SubwordTokenizer:
    """Sub-word pieces to ids.

    SentencePiece gives its id 0 to ``<unk>``, which no written text contains; that id serves as the blank, so
    ids are SentencePiece's own and the vocabulary wastes none.

    Args:
        model_bytes: A serialised SentencePiece model whose ``<unk>`` is id 0, as is SentencePiece's default.

    Raises:
        ValueError: If the bytes are no such model.
    """

    kind = "subwords"
    blank_id = 0

    def __init__(self, model_bytes: bytes) -> None:
        self._processor = sentencepiece.SentencePieceProcessor()
        try:
            self._processor.LoadFromSerializedProto(model_bytes)
        except RuntimeError as error:
            raise ValueError(f"not a SentencePiece model ({error}). Train it again.") from error
        if self._processor.unk_id() != self.blank_id:
            raise ValueError(
                f"the SentencePiece model has <unk> at id {self._processor.unk_id()}, but it must be id 0, "
                "which serves as the blank. Train it with unk_id=0."
            )

    @classmethod
    def train(
        cls, texts: Iterable[str], vocab_size: int, *, model_type: Literal["unigram", "bpe"] = "unigram"
    ) -> "SubwordTokenizer":
        """Learn the pieces from transcripts; the same texts in the same order give the same pieces.

        Args:
            texts: Normalised transcripts; empty ones are passed over.
            vocab_size: Number of ids, the blank included.
            model_type: How pieces are chosen: by a unigram language model, or by byte-pair merges.

        Raises:
            ValueError: If there is no text, or ``vocab_size`` is too low to write every character or too high
                for the text there is.
        """
        lines = [text for text in texts if text.strip()]
        if not lines:
            raise ValueError("no text to train sub-words on. Give transcripts that are not empty.")
        num_characters = len(set("".join(lines)) | {" "})
        if vocab_size < num_characters + 1:
            raise ValueError(
                f"vocab_size {vocab_size} is too low for {num_characters} different characters and a blank. "
                f"Give at least {num_characters + 1}."
            )
        model = io.BytesIO()
        try:
            _train(lines, model, vocab_size, model_type)
        except RuntimeError as error:
            raise ValueError(
                f"vocab_size {vocab_size} does not suit {len(lines)} transcripts. "
                f"SentencePiece says: {str(error).rpartition('] ')[2]}"
            ) from error
        return cls(model.getvalue())

    @property
    def vocab_size(self) -> int:
        """Number of ids, the blank included."""
        return int(self._processor.vocab_size())

    def encode(self, text: str) -> list[int]:
        """Return the ids of the best segmentation.

        Raises:
            OutOfAlphabet: If a character never occurred in the training texts.
        """
        ids: list[int] = self._processor.encode(text)
        if self.blank_id in ids:
            unknown = [c for c in dict.fromkeys(text) if self.blank_id in self._processor.encode(c)]
            raise OutOfAlphabet(
                f"{text!r} has {', '.join(map(repr, unknown))}, not in the sub-word vocabulary. "
                "Pass transcripts through seqdsd.text.normalise_transcript, or train the sub-words on them."
            )
        return ids

    def decode(self, ids: list[int]) -> str:
        """Return the text of ids from which blanks were removed.

        Raises:
            ValueError: If an id is the blank or outside the vocabulary.
        """
        check_ids(ids, vocab_size=self.vocab_size)
        return str(self._processor.decode(ids))

    def save(self, folder: Path) -> None:
        """Write ``subwords.model`` and then ``tokenizer.json`` into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MODEL_NAME).write_bytes(self._processor.serialized_model_proto())
        write_description(folder, {"kind": self.kind, "model": _MODEL_NAME})

    def to_json(self) -> dict[str, str]:
        """Kind, and SentencePiece's model in base 64."""
        model = self._processor.serialized_model_proto()
        return {"kind": self.kind, "model": base64.b64encode(model).decode()}

    @classmethod
    def load(cls, folder: Path) -> "SubwordTokenizer":
        """Read what ``save`` wrote.

        Raises:
            ValueError: If ``subwords.model`` is missing or damaged.
        """
        path = folder / _MODEL_NAME
        try:
            return cls(path.read_bytes())
        except (OSError, ValueError) as error:
            raise ValueError(f"{path}: cannot be used: {error} Save the tokenizer again.") from error


def _train(lines: list[str], model: io.BytesIO, vocab_size: int, model_type: str) -> None:
    """Run SentencePiece's trainer, which writes the model to ``model``."""
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=vocab_size,
        model_type=model_type,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        character_coverage=1.0,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        max_sentence_length=1_000_000,  # bytes; longer lines would be dropped without a word
        num_threads=1,  # sums in a fixed order
        minloglevel=2,
    )
