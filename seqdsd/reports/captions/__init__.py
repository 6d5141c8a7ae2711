"""Captions from phase to phase: what changed, as a page and in the terminal."""
