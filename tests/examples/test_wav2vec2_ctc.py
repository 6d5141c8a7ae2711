"""The example of a recogniser in Hugging Face's Trainer runs as it is, on a few tones."""

import re
import runpy
from pathlib import Path

import pytest
import torch

from seqdsd.sparsity import Rule, resolve

ROOT = Path(__file__).parents[2]


def test_it_walks_the_phases_and_scores_each(run_example, tone_corpus):
    flags = ["--utterances", "16", "--epochs", "2", "1", "1"]
    said = run_example("wav2vec2_ctc.py", "--data", str(tone_corpus.folder), *flags)
    assert "the sparse phase prunes 13 matrices: " in said
    logs = re.findall(r"'dsd/zeros': '([^']+)', 'dsd/phase': '([^']+)'", said)
    assert [phase for _, phase in logs] == ["0", "0", "1", "2"]
    assert float(logs[2][0]) == 0.5 and max(float(zeros) for zeros, _ in logs[:2] + logs[3:]) < 0.05
    scored = re.findall(r"(\w.*) WER [\d.]+% .* in (\d+) words", said)
    names = [*(f"{name} ends: dev" for name in ("Dense Iter 0", "Sparse Iter 1", "Dense Iter 1")), "test"]
    assert [name for name, _ in scored] == names
    texts = [
        sorted(tone_corpus.read_manifest(split), key=lambda one: one["duration"])[:4]
        for split in ("dev", "test")
    ]
    dev, test = (sum(len(one["text"].split()) for one in rows) for rows in texts)
    assert [int(count) for _, count in scored] == [dev, dev, dev, test]


@pytest.fixture(scope="module")
def example():
    return runpy.run_path(str(ROOT / "examples" / "wav2vec2_ctc.py"))


def test_no_convolution_is_pruned_nor_what_weight_norm_makes_one_of(example):
    model = example["tiny_network"]()
    everything = set(resolve(model, [Rule("*")], 0.5).sparsities)
    pruned = set(resolve(model, example["RULES"], 0.5).sparsities)
    trap = "wav2vec2.encoder.pos_conv_embed.conv.parametrizations.weight.original1"
    assert trap in everything  # or there would be nothing to warn of
    kept = {name for name in everything - pruned if name != "lm_head.weight"}
    assert kept == {trap, *(f"wav2vec2.feature_extractor.conv_layers.{n}.conv.weight" for n in range(7))}


def test_zeros_of_a_weight_norm_s_direction_make_the_rest_of_it_grow(example):
    """Why it is a trap."""
    conv = example["tiny_network"]().wav2vec2.encoder.pos_conv_embed.conv
    before = conv.weight.detach().clone()
    direction = conv.parametrizations.weight.original1
    kept = direction.abs() > direction.abs().median()
    with torch.no_grad():
        direction.mul_(kept)
    ratio = (conv.weight / before)[kept]
    assert ratio.min() > 1.02


def test_padding_changes_no_score(example):
    torch.manual_seed(0)
    model = example["tiny_network"]()
    torch.nn.init.normal_(model.lm_head.weight, std=2.0)  # so that it says something
    rows = [
        {"input_values": torch.randn(samples), "labels": torch.tensor([1, 2]), "text": "one two"}
        for samples in (4000, 9000, 16000)
    ]
    said = [example["score"](model, [row]) for row in rows]
    alone = [[int(number) for number in re.findall(r"\d+(?= \w)", one)] for one in said]
    together = [int(number) for number in re.findall(r"\d+(?= \w)", example["score"](model, rows))]
    assert together == [sum(column) for column in zip(*alone, strict=True)]
    assert together[0] + together[2] > 0
