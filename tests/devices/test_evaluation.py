"""Evaluation, decoding, features and the image encoder on pretended CUDA tensors: the CPU's results, few waits."""

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from pretended import CUDA, PretendedCuda, pretended_fabric

from seqdsd.audio import LogSpectrogram, SpecAugment
from seqdsd.decode import beam_decode, greedy_decode
from seqdsd.tasks import DecodingSettings, SearchSettings
from seqdsd.tasks.alignment import align_words
from seqdsd.text import CharacterTokenizer
from seqdsd.vision import encode_images, make_encoder

CPU = torch.device("cpu")
LOSS = "seqdsd/tasks/{}.py evaluate"
GREEDY, BEAM = "seqdsd/decode/ctc_greedy.py greedy_decode", "seqdsd/decode/ctc_beam.py beam_decode"
CAPTIONS = "seqdsd/decode/caption.py to_captions"
WORD = {1: "seqdsd/decode/caption_greedy.py greedy_captions", 3: "seqdsd/decode/caption_beam.py _survive"}
ENCODER = "seqdsd/vision/features.py finish"
NETWORKS = ["ds1", "ds1, batch norm", "ds2", "ds2, gru", "ds2, lstm", "ds2, row convolution"]


def evaluate_both(make_task, *allowed):
    """A split's evaluation on the pretended GPU and on the CPU, and where the first has waited."""
    with PretendedCuda(*allowed) as cuda:
        task, fabric = make_task(), pretended_fabric()
        with cuda.between_steps():
            model = fabric.setup_module(task.model)
        on_gpu = task.evaluate(model, "dev", CUDA)
    task = make_task()
    return on_gpu, task.evaluate(task.model, "dev", CPU), Counter(cuda.waits)


@pytest.mark.parametrize("network", NETWORKS)
def test_recognisers_say_what_they_say_on_the_cpu(make_speech_task, network):
    allowed = (GREEDY, LOSS.format("speech"))
    on_gpu, on_cpu, waits = evaluate_both(lambda: make_speech_task(network), *allowed)
    assert on_gpu.hypotheses == on_cpu.hypotheses and len({row["hyp"] for row in on_cpu.hypotheses}) > 1
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-4)
    batches = waits[GREEDY]
    assert batches < len(on_cpu.hypotheses) and waits == {GREEDY: batches, LOSS.format("speech"): 1}


def test_recognisers_with_a_beam(make_speech_task):
    allowed = (BEAM, LOSS.format("speech"))
    decoding = DecodingSettings(beam=4)
    on_gpu, on_cpu, waits = evaluate_both(lambda: make_speech_task(decoding=decoding), *allowed)
    assert on_gpu.hypotheses == on_cpu.hypotheses and waits[LOSS.format("speech")] == 1


@pytest.mark.parametrize("beam", [1, 3])
@pytest.mark.parametrize("tanh_output", [False, True])
def test_captioners_say_what_they_say_on_the_cpu(make_caption_task, beam, tanh_output):
    """Captions that have ended leave the batch, for which the host waits once a word; at the end it reads."""
    search = SearchSettings(beam=beam, max_words=6)
    on_gpu, on_cpu, waits = evaluate_both(
        lambda: make_caption_task(search=search, tanh_output=tanh_output),
        *(CAPTIONS, WORD[beam], LOSS.format("caption")),
    )
    assert on_gpu.hypotheses == on_cpu.hypotheses and len({row["hyp"] for row in on_cpu.hypotheses}) > 1
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-4)
    assert waits[WORD[beam]] <= 6 and waits[LOSS.format("caption")] == 1


def test_classifiers_say_what_they_say_on_the_cpu(make_class_task):
    """All is read at the end, what was found in one copy and the loss."""
    where = LOSS.format("classification")
    on_gpu, on_cpu, waits = evaluate_both(make_class_task, where)
    assert [row["hyp"] for row in on_gpu.hypotheses] == [row["hyp"] for row in on_cpu.hypotheses]
    assert on_gpu.metrics["top5_errors"] == on_cpu.metrics["top5_errors"]
    assert on_gpu.loss == pytest.approx(on_cpu.loss, rel=1e-4)
    assert waits == {where: 2}


@pytest.mark.parametrize("lengths_on", [CPU, CUDA])
@pytest.mark.parametrize("decode", [greedy_decode, lambda *given: beam_decode(*given, beam_width=3)])
def test_ctc_decoding_waits_at_its_end_only(decode, lengths_on):
    torch.manual_seed(0)
    log_probs, lengths = (2 * torch.randn(4, 12, 5)).log_softmax(-1), torch.tensor([12, 1, 7, 12])
    with PretendedCuda(GREEDY, BEAM) as cuda:
        on_gpu = decode(log_probs.to(CUDA, non_blocking=True), lengths.to(lengths_on, non_blocking=True))
    assert on_gpu == decode(log_probs, lengths) and len(cuda.waits) <= 3


def test_words_are_aligned_with_one_wait():
    torch.manual_seed(0)
    log_probs, tokenizer = torch.randn(30, 29).log_softmax(-1), CharacterTokenizer()
    tokens = tokenizer.encode("bad cab")
    where = "seqdsd/tasks/alignment.py align_words"
    with PretendedCuda(where) as cuda:
        on_gpu = align_words(log_probs.to(CUDA, non_blocking=True), tokens, tokenizer, frame_seconds=0.02)
    assert on_gpu == align_words(log_probs, tokens, tokenizer, frame_seconds=0.02) and cuda.waits == [where]


@pytest.mark.parametrize("num_mels", [None, 80])
@pytest.mark.parametrize("normalise", ["bin", "utterance"])
@pytest.mark.parametrize("lengths_on", [CPU, CUDA])
def test_features_and_their_masks(normalise, lengths_on, num_mels):
    """Masks by a generator of the CPU are the same on every device."""
    torch.manual_seed(0)
    waveforms, num_samples = torch.randn(3, 4000), torch.tensor([4000, 320, 1234])
    masks = SpecAugment()

    def masked(where, lengths):
        features, num_frames = LogSpectrogram(normalise, num_mels=num_mels).to(where, non_blocking=True)(
            waveforms.to(where, non_blocking=True), lengths
        )
        return masks(features, num_frames, generator=torch.Generator().manual_seed(3))

    with PretendedCuda() as cuda:
        on_gpu = masked(CUDA, num_samples.to(lengths_on, non_blocking=True))
        with cuda.between_steps():
            values = on_gpu.cpu()
    assert on_gpu.device == CUDA
    torch.testing.assert_close(values, masked(CPU, num_samples))


def test_images_are_encoded_with_a_wait_a_batch(tmp_path):
    generator, images = np.random.default_rng(0), {}
    for number in range(3):
        images[f"{number}.png"] = tmp_path / f"{number}.png"
        pixels = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(images[f"{number}.png"])
    with PretendedCuda(ENCODER) as cuda:
        with cuda.between_steps():
            encoder = make_encoder("efficientnet_lite0").to(CUDA)
        on_gpu = encode_images(encoder, images, device=CUDA, batch_size=2, cache_dir=tmp_path / "gpu")
    encoder = make_encoder("efficientnet_lite0")
    on_cpu = encode_images(encoder, images, device="cpu", batch_size=2, cache_dir=tmp_path / "cpu")
    torch.testing.assert_close(on_gpu.take(list(images)), on_cpu.take(list(images)), rtol=1e-3, atol=1e-4)
    assert cuda.waits == [ENCODER] * 2
