"""Scores of text: lists of str in, a frozen result with its signature out. Never imports torch."""

from seqdsd.metrics.bleu import Bleu, bleu, sentence_bleu
from seqdsd.metrics.cider import CiderD, cider_d
from seqdsd.metrics.rouge import RougeL, rouge_l
from seqdsd.metrics.significance import (
    BootstrapTest,
    Interval,
    McNemarTest,
    MeanTest,
    ParentsTest,
    Sample,
    SegmentTest,
    across_parents,
    bootstrap_bleu,
    bootstrap_error_rate,
    bootstrap_wer,
    holm,
    in_words,
    mapsswe,
    mcnemar,
    paired_t_test,
    unpaired_t_test,
)
from seqdsd.metrics.wer import ErrorRate, cer, wer

__all__ = [
    "Bleu",
    "BootstrapTest",
    "CiderD",
    "ErrorRate",
    "Interval",
    "McNemarTest",
    "MeanTest",
    "ParentsTest",
    "RougeL",
    "Sample",
    "SegmentTest",
    "across_parents",
    "bleu",
    "bootstrap_bleu",
    "bootstrap_error_rate",
    "bootstrap_wer",
    "cer",
    "cider_d",
    "holm",
    "in_words",
    "mapsswe",
    "mcnemar",
    "paired_t_test",
    "rouge_l",
    "sentence_bleu",
    "unpaired_t_test",
    "wer",
]
