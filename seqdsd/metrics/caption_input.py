"""What the caption metrics share: one hypothesis and at least one reference an item, and how to say so."""

from collections.abc import Sequence


def check_captions(refs_per_item: Sequence[Sequence[str]], hyps: Sequence[str]) -> None:
    """Refuse input that cannot be scored.

    Raises:
        ValueError: If there is no item, the two lists differ in length, an item has no reference, or a single
            string stands where a list of them belongs; the item is named by its index.
    """
    if isinstance(hyps, str) or isinstance(refs_per_item, str):
        raise ValueError(
            "hyps is a list of captions, refs_per_item a list of lists; wrap a single item in lists"
        )
    if len(refs_per_item) != len(hyps):
        raise ValueError(
            f"got references for {len(refs_per_item)} items but {len(hyps)} hypotheses; they must pair up"
        )
    if not hyps:
        raise ValueError("nothing to score: there are no items")
    for index, refs in enumerate(refs_per_item):
        if isinstance(refs, str):
            raise ValueError(
                f"item {index}: its references are one string; wrap a single reference in a list"
            )
        if not refs:
            raise ValueError(f"item {index} has no reference; every item needs at least one")


def describe_input(refs_per_item: Sequence[Sequence[str]]) -> str:
    """Say how many references there are and how text is read, in the words of sacreBLEU's signatures."""
    counts = {len(refs) for refs in refs_per_item}
    return f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}|case:mixed|tok:none"
