import pytest
import torch

from seqdsd.data import BadExample, SpeechBatch, SpeechExample, collate


@pytest.fixture
def batch() -> SpeechBatch:
    return collate(
        [
            SpeechExample("a", torch.tensor([0.1, 0.2]), [3, 4, 4], "bcc", 16000),
            BadExample("b", "train.jsonl:2: utterance b: broken"),
            SpeechExample("c", torch.tensor([0.3, 0.4, 0.5]), [5], "d", 8000),
        ]
    )


def test_collate_pads_with_zeros_and_chains_the_tokens(batch):
    assert batch.ids == ("a", "c") and batch.texts == ("bcc", "d") and len(batch) == 2
    assert torch.equal(batch.waveforms, torch.tensor([[0.1, 0.2, 0.0], [0.3, 0.4, 0.5]]))
    assert batch.num_samples.tolist() == [2, 3] and batch.num_samples.dtype == torch.int64
    assert batch.tokens.tolist() == [3, 4, 4, 5] and batch.tokens.dtype == torch.int64
    assert batch.num_tokens.tolist() == [3, 1]


def test_what_could_not_be_read_is_listed_not_lost(batch):
    assert batch.bad == (BadExample("b", "train.jsonl:2: utterance b: broken"),)


def test_a_batch_of_bad_examples_alone_is_empty():
    batch = collate([BadExample("b", "why")])
    assert len(batch) == 0 and len(batch.bad) == 1
    assert batch.waveforms.shape == (0, 0) and batch.tokens.dtype == batch.num_tokens.dtype == torch.int64
    assert len(batch.to(torch.device("cpu"))) == 0


def test_lengths_stay_on_the_cpu(batch):
    moved = batch.to(torch.device("meta"))
    assert moved.waveforms.device.type == moved.tokens.device.type == "meta"
    assert moved.num_samples.device.type == moved.num_tokens.device.type == "cpu"
    assert moved.ids == batch.ids and moved.bad == batch.bad


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_pinned_batches_keep_their_values(batch):
    pinned = batch.pin_memory()
    assert pinned.waveforms.is_pinned() and pinned.tokens.is_pinned()
    assert torch.equal(pinned.waveforms, batch.waveforms) and torch.equal(pinned.tokens, batch.tokens)
