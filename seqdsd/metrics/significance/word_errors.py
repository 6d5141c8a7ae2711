"""Where in each utterance a recogniser erred: what the tests of word error counts are made from."""

from collections.abc import Sequence

import jiwer


def check_utterances(refs: Sequence[str], hyps_before: Sequence[str], hyps_after: Sequence[str]) -> None:
    """Refuse texts that do not pair up, or hold no word to err on.

    Raises:
        ValueError: If the lists differ in length, one is a single text, or the references hold no word.
    """
    if any(isinstance(texts, str) for texts in (refs, hyps_before, hyps_after)):
        raise ValueError("refs and hyps are lists of utterances; wrap a single one in a list")
    for name, hyps in (("before", hyps_before), ("after", hyps_after)):
        if len(hyps) != len(refs):
            counts = f"{len(refs)} references but {len(hyps)} hypotheses {name}"
            raise ValueError(f"got {counts}; they must pair up")
    if not any(map(str.split, refs)):
        raise ValueError(f"nothing to score: the {len(refs)} references hold no words")


def errors_by_place(refs: Sequence[str], hyps: Sequence[str]) -> list[list[int]]:
    """Count the errors at each place of each utterance.

    The places are: words added before word 0, word 0 wrong (1) or right (0), words added before word 1, and so on to
    those added at the end: 2n + 1 of them for a reference of n words.
    """
    # jiwer's own transforms split at blanks: with words so joined they split as seqdsd.metrics.wer does.
    ref_lines, hyp_lines = ([" ".join(text.split()) for text in texts] for texts in (refs, hyps))
    aligned = jiwer.process_words(ref_lines, hyp_lines)
    pairs = zip(aligned.alignments, aligned.references, strict=True)
    return [_edits_of(chunks, len(words)) for chunks, words in pairs]


def _edits_of(chunks: Sequence[jiwer.AlignmentChunk], num_words: int) -> list[int]:
    errors = [0] * (2 * num_words + 1)
    for chunk in chunks:
        if chunk.type == "insert":
            errors[2 * chunk.ref_start_idx] += chunk.hyp_end_idx - chunk.hyp_start_idx
        elif chunk.type != "equal":
            for word in range(chunk.ref_start_idx, chunk.ref_end_idx):
                errors[2 * word + 1] = 1
    return errors
