"""Optimizers that torch does not have, usable on any torch model."""

from seqdsd.optim.rmsprop import NeuralTalkRMSprop

__all__ = ["NeuralTalkRMSprop"]
