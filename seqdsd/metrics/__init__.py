"""Scores of text: lists of str in, a frozen result with its signature out. Never imports torch."""

from seqdsd.metrics.bleu import Bleu, bleu, sentence_bleu
from seqdsd.metrics.cider import CiderD, cider_d
from seqdsd.metrics.rouge import RougeL, rouge_l
from seqdsd.metrics.wer import ErrorRate, cer, wer

__all__ = [
    "Bleu",
    "CiderD",
    "ErrorRate",
    "RougeL",
    "bleu",
    "cer",
    "cider_d",
    "rouge_l",
    "sentence_bleu",
    "wer",
]
