"""From log-probabilities to token ids; scoring the text they spell is ``seqdsd.metrics``' work."""

from seqdsd.decode.ctc_greedy import greedy_decode

__all__ = ["greedy_decode"]
