"""CIDEr-D: how much of what people agree on a caption says, n-grams weighted by how rare they are.

Without Java: the PTB tokenizer that coco-caption puts before it is left out. Words are what white space separates,
compared as they come and, as there, not stemmed.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from seqdsd import __version__
from seqdsd.metrics.caption_input import check_captions, describe_input

_MAX_ORDER = 4
_SIGMA_WORDS = 6.0
_SCALE = 10.0


@dataclass(frozen=True)
class CiderD:
    """CIDEr-D of a set of captions, on coco-caption's scale.

    Attributes:
        score: From 0 to 10, where 10 says that every hypothesis equals all references of its item. Captioners of
            COCO reach about 1; papers that print "100" mean 1.0.
        settings: How many items and references, and how text is read.
    """

    score: float
    settings: str

    @property
    def signature(self) -> str:
        """How the score was computed; the items belong to it, for rarity is taken from their references."""
        return f"CIDEr-D|n:1-{_MAX_ORDER}|sigma:{_SIGMA_WORDS:g}|{self.settings}|seqdsd {__version__}"


@dataclass(frozen=True)
class _Captions:
    """All captions as one row of word ids: hypotheses first, then the references, item by item."""

    words: Int[np.ndarray, "words"]
    caption_of_word: Int[np.ndarray, "words"]
    item_of_caption: Int[np.ndarray, "captions"]
    lengths: Int[np.ndarray, "captions"]
    num_items: int


def cider_d(refs_per_item: Sequence[Sequence[str]], hyps: Sequence[str]) -> CiderD:
    """Score captions by their tf-idf cosine with each reference, mean over 1- to 4-grams, references and items.

    Document frequencies are those of the references given, so scores on different sets of items do not compare;
    with a single item every n-gram is in every document, and the score is 0.

    Args:
        refs_per_item: References of each item, at least one; their number may vary.
        hyps: One caption an item; an empty one scores 0.

    Raises:
        ValueError: If there is no item, the lists differ in length, or an item has no reference (it is named).

    Reference: Vedantam et al. 2015 (arXiv:1411.5726v2), equations 1 to 4; as coco-caption computes it
        (pycocoevalcap 1.2, ``cider_scorer.py``), with which it was compared. No departure.
    """
    check_captions(refs_per_item, hyps)
    captions = _number_words(refs_per_item, hyps)
    item_of_ref = captions.item_of_caption[captions.num_items :]
    cosine = sum(_cosine(captions, *ngrams) for ngrams in _ngrams(captions)) / _MAX_ORDER
    longer_by = captions.lengths[item_of_ref] - captions.lengths[captions.num_items :]
    similarity = cosine * np.exp(-(longer_by**2) / (2 * _SIGMA_WORDS**2))
    per_item = np.bincount(item_of_ref, similarity) / np.bincount(item_of_ref)
    settings = f"items:{captions.num_items}|{describe_input(refs_per_item)}"
    return CiderD(score=_SCALE * float(per_item.mean()), settings=settings)


def _number_words(refs_per_item: Sequence[Sequence[str]], hyps: Sequence[str]) -> _Captions:
    texts = [text.split() for text in [*hyps, *(ref for refs in refs_per_item for ref in refs)]]
    ids: dict[str, int] = {}
    words = [ids.setdefault(word, len(ids)) for text in texts for word in text]
    lengths = np.array([len(text) for text in texts])
    items = np.arange(len(hyps))
    return _Captions(
        words=np.array(words, dtype=np.int64),
        caption_of_word=np.repeat(np.arange(len(texts)), lengths),
        item_of_caption=np.concatenate([items, np.repeat(items, [len(refs) for refs in refs_per_item])]),
        lengths=lengths,
        num_items=len(hyps),
    )


def _ngrams(captions: _Captions) -> Iterator[tuple[Int[np.ndarray, "ngrams"], Int[np.ndarray, "ngrams"]]]:
    """For n from 1 to 4: the id of every n-gram, from 0 without gaps, and the caption that it stands in."""
    words, caption = captions.words, captions.caption_of_word
    ids = words
    for order in range(1, _MAX_ORDER + 1):
        if order > 1:
            longer_by_a_word = ids[:-1] * (words.max(initial=0) + 1) + words[order - 1 :]
            ids = np.unique(longer_by_a_word, return_inverse=True)[1]
        starts = caption[: len(ids)]
        is_within = starts == caption[order - 1 :]
        yield ids[is_within], starts[is_within]


def _cosine(
    captions: _Captions, ngrams: Int[np.ndarray, "ngrams"], caption_of_ngram: Int[np.ndarray, "ngrams"]
) -> Float[np.ndarray, "refs"]:
    """Cosine of each reference with its item's hypothesis, whose weights are clipped to the reference's."""
    num_ids, num_items = int(ngrams.max(initial=0)) + 1, captions.num_items
    pairs, counts = np.unique(caption_of_ngram * num_ids + ngrams, return_counts=True)
    caption, ngram = np.divmod(pairs, num_ids)
    # The same n-gram in two captions of an item has the same key.
    keys = captions.item_of_caption[caption] * num_ids + ngram
    num_hyp = int(np.searchsorted(caption, num_items))
    documents = np.bincount(np.unique(keys[num_hyp:]) % num_ids, minlength=num_ids)
    weights = counts * (np.log(num_items) - np.log(np.maximum(documents, 1)))[ngram]
    norms = np.sqrt(np.bincount(caption, weights**2, minlength=len(captions.lengths)))

    is_shared = np.isin(keys[num_hyp:], keys[:num_hyp])
    of_hyp = weights[np.searchsorted(keys[:num_hyp], keys[num_hyp:][is_shared])]
    of_ref = weights[num_hyp:][is_shared]
    ref = caption[num_hyp:][is_shared] - num_items
    products = np.bincount(ref, np.minimum(of_hyp, of_ref) * of_ref, minlength=len(norms) - num_items)
    scales = norms[captions.item_of_caption[num_items:]] * norms[num_items:]
    return np.divide(products, scales, out=np.zeros(len(products)), where=scales > 0)
