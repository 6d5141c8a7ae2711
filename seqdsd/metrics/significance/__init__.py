"""Is a difference between two systems more than chance? Tests across seeds, and of one pair of runs.

Two sources of chance, two kinds of test. Another seed gives another network: the t-tests compare the scores of
several runs. Another test set gives another score: MAPSSWE, McNemar's test and the bootstrap compare two networks item
by item, and say nothing of what another seed would give. Which runs are compared is left to the caller, and so is
saying how many comparisons were made; ``holm`` corrects for them.

Everywhere a difference is after minus before: fewer errors are negative, a better BLEU is positive.
"""

from seqdsd.metrics.significance.bootstrap import (
    BootstrapTest,
    bootstrap_bleu,
    bootstrap_error_rate,
    bootstrap_means,
    bootstrap_wer,
)
from seqdsd.metrics.significance.classes import McNemarTest, mcnemar
from seqdsd.metrics.significance.intervals import Interval
from seqdsd.metrics.significance.matched_pairs import SegmentTest, mapsswe
from seqdsd.metrics.significance.p_values import holm, in_words
from seqdsd.metrics.significance.parents import ParentsTest, across_parents, of_other_items
from seqdsd.metrics.significance.power import (
    detectable,
    items_needed,
    runs_needed,
    sd_interval,
    sd_of_parents,
    t_test_power,
)
from seqdsd.metrics.significance.t_tests import MeanTest, Sample, paired_t_test, unpaired_t_test

__all__ = [
    "BootstrapTest",
    "Interval",
    "McNemarTest",
    "MeanTest",
    "ParentsTest",
    "Sample",
    "SegmentTest",
    "across_parents",
    "bootstrap_bleu",
    "bootstrap_error_rate",
    "bootstrap_means",
    "bootstrap_wer",
    "detectable",
    "holm",
    "in_words",
    "items_needed",
    "mapsswe",
    "mcnemar",
    "of_other_items",
    "paired_t_test",
    "runs_needed",
    "sd_interval",
    "sd_of_parents",
    "t_test_power",
    "unpaired_t_test",
]
