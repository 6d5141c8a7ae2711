"""A finished run in use: load it, transcribe, caption, evaluate, export; and what its commands need."""
