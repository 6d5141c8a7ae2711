"""From log-probabilities to token ids; scoring the text they spell is ``seqdsd.metrics``' work."""

from seqdsd.decode.caption import NextWordModel, NonFiniteCaptions, ScoredCaption
from seqdsd.decode.caption_beam import beam_captions
from seqdsd.decode.caption_greedy import greedy_captions
from seqdsd.decode.ctc_beam import BeamHypothesis, beam_decode
from seqdsd.decode.ctc_greedy import greedy_decode

__all__ = [
    "BeamHypothesis",
    "NextWordModel",
    "NonFiniteCaptions",
    "ScoredCaption",
    "beam_captions",
    "beam_decode",
    "greedy_captions",
    "greedy_decode",
]
