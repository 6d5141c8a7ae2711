"""Adapters of ``seqdsd.sparsity.DSD`` to other people's trainers; each needs its library only when it is imported."""
