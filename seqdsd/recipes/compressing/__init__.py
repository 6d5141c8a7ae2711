"""Deep Compression of a trained run, as a run of its own: pruned in steps, then with shared weights.

``settings`` is what may be asked, ``search`` decides each step by what is known of those before, ``trials`` measures
without training, ``run`` trains. Writing the file of what comes out is ``seqdsd.inference.compress``'s.
"""
