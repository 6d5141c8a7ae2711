"""Scores of recognised text: lists of str in, a frozen result with its counts out. Never imports torch."""

from seqdsd.metrics.wer import ErrorRate, cer, wer

__all__ = ["ErrorRate", "cer", "wer"]
