"""DSD in Hugging Face's Trainer, on speech: ``Wav2Vec2ForCTC`` on AN4, scored by this package's word error rate.

    pip install 'seqdsd[transformers]'
    python data_prep/an4.py PATH/TO/an4 data/an4         # or without: a small synthesised corpus
    python examples/wav2vec2_ctc.py --data data/an4
    python examples/wav2vec2_ctc.py --data data/an4 --model facebook/wav2vec2-base --utterances 700

No download without ``--model``; about a minute on two cores. What it shows is how DSD goes into such a training: the
phases, and the zeros of each. The network that it makes is tiny and random, and learns no AN4 in a minute: it will
mostly say nothing, at a word error rate of about 100 %. A real one (``--model``) needs a GPU and ``--epochs`` of its
own; it was not tried here.
"""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainerCallback, TrainingArguments, Wav2Vec2Config, Wav2Vec2ForCTC

from seqdsd.audio import read_audio
from seqdsd.data import Utterance, read_corpus
from seqdsd.data.synthetic import SyntheticSpeech, synthetic_speech
from seqdsd.decode import greedy_decode
from seqdsd.integrations.transformers import DSDCallback
from seqdsd.metrics import wer
from seqdsd.sparsity import Rule, Schedule, resolve
from seqdsd.text import CharacterTokenizer

TOKENIZER = CharacterTokenizer()  # a to z, space, apostrophe; the blank is 0
RULES = (
    # Of convolutions none, as the paper prunes none of a recogniser's. One is a trap besides: the positional one has
    # its weight by weight norm, g * v / |v|. Masks would choose by v (named …parametrizations.weight.original1), which
    # is not what the layer multiplies by; and with v's zeros |v| falls, so that all that is kept of it grows.
    Rule("*", 0, nn.Conv1d, why="convolutions: of the waveform, and of positions (weight norm)"),
    Rule("lm_head.*", 0, why="CTC output layer"),
    Rule("*", why="attention, feed-forward and projection"),
)

Row = dict[str, Any]


def tiny_network() -> Wav2Vec2ForCTC:
    """The family's architecture with random weights: 50 frames a second, two layers of 96 units."""
    return Wav2Vec2ForCTC(
        Wav2Vec2Config(
            vocab_size=TOKENIZER.vocab_size,
            pad_token_id=TOKENIZER.blank_id,  # the family's CTC blank
            conv_dim=(32,) * 7,
            hidden_size=96,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=192,
            num_conv_pos_embeddings=32,
            num_conv_pos_embedding_groups=4,
            feat_extract_norm="layer",  # takes an attention mask, so that padding changes nothing
            do_stable_layer_norm=True,
            mask_time_prob=0.0,
            layerdrop=0.0,
            ctc_loss_reduction="mean",
            ctc_zero_infinity=True,
        )
    )


def pretrained_network(name: str) -> Wav2Vec2ForCTC:
    """A trained one from Hugging Face's hub, or a folder, with a fresh output layer for our characters."""
    return Wav2Vec2ForCTC.from_pretrained(
        name,
        vocab_size=TOKENIZER.vocab_size,
        pad_token_id=TOKENIZER.blank_id,
        ctc_loss_reduction="mean",
        ctc_zero_infinity=True,
        ignore_mismatched_sizes=True,
    )


def read(utterances: Sequence[Utterance], count: int) -> list[Row]:
    """The shortest of them, as normalised samples, with their transcripts as ids and as text."""
    rows = []
    for one in sorted(utterances, key=lambda utterance: utterance.duration_seconds)[:count]:
        samples = read_audio(Path(one.audio_path)).samples
        samples = (samples - samples.mean()) / (samples.var(correction=0) + 1e-7).sqrt()
        labels = torch.tensor(TOKENIZER.encode(one.text))
        rows.append({"input_values": samples, "labels": labels, "text": one.text})
    return rows


def collate(rows: Sequence[Row]) -> dict[str, Tensor]:
    """A padded batch: input_values and attention_mask [batch, samples], labels [batch, characters], -100 after them."""
    pad = nn.utils.rnn.pad_sequence
    return {
        "input_values": pad([row["input_values"] for row in rows], batch_first=True),
        "attention_mask": pad(
            [torch.ones(len(row["input_values"]), dtype=torch.long) for row in rows], batch_first=True
        ),
        "labels": pad([row["labels"] for row in rows], batch_first=True, padding_value=-100),
    }


@torch.no_grad()
def score(model: Wav2Vec2ForCTC, rows: Sequence[Row]) -> str:
    """Word error rate of greedy decoding, with its counts."""
    model.eval()
    said = []
    for start in range(0, len(rows), 8):
        some = rows[start : start + 8]
        batch = {name: one.to(model.device) for name, one in collate(some).items()}
        log_probs = model(**batch).logits.float().log_softmax(-1)
        num_frames = model._get_feat_extract_output_lengths(batch["attention_mask"].sum(1))
        ids = greedy_decode(log_probs, num_frames, blank_id=TOKENIZER.blank_id)
        said += [TOKENIZER.decode(one) for one in ids]
    errors = wer([row["text"] for row in rows], said)
    return (
        f"WER {errors.rate:.1%} ({errors.substitutions} substitutions, {errors.deletions} deletions, "
        f"{errors.insertions} insertions in {errors.ref_words} words)"
    )


class ScorePhases(TrainerCallback):
    """Prints the dev score of the weights that each phase hands on."""

    def __init__(self, schedule: Schedule, dev: Sequence[Row]) -> None:
        self.schedule, self.dev, self.ends = schedule, dev, set[int]()

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        """Note each phase's last step."""
        self.ends = {*self.schedule.starts(of=state.max_steps)[1:], state.max_steps}

    def on_step_end(self, args, state, control, model, **kwargs) -> None:
        """Score, if this was one."""
        if state.global_step in self.ends:
            phase = self.schedule.phase_at(state.global_step - 1, of=state.max_steps)
            print(f"{phase.name} ends: dev {score(model, self.dev)}")
            model.train()


def main() -> None:
    """Read a corpus, walk the phases, score the test set."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add(
        "--data",
        type=Path,
        help="folder with train.jsonl, dev.jsonl and test.jsonl; by default data/an4, if there",
    )
    add("--model", help="a pretrained network of the hub, or its folder; by default a tiny random one")
    add(
        "--utterances",
        type=int,
        default=120,
        help="the shortest so many train; a quarter of it dev and test each",
    )
    add(
        "--epochs",
        type=int,
        nargs=3,
        default=(6, 3, 3),
        help="of the dense, the sparse and the redense phase",
    )
    add("--learning-rates", type=float, nargs=3, default=(1e-3, 5e-4, 2e-4), help="of the same")
    add("--sparsity", type=float, default=0.5)
    add("--seed", type=int, default=0)
    asked = parser.parse_args()

    an4 = Path("data/an4")
    folder = asked.data or (an4 if an4.is_dir() else synthetic_speech(SyntheticSpeech()))
    print(f"corpus: {folder}")
    corpus = read_corpus(folder)
    few = max(1, asked.utterances // 4)
    train = read(corpus.train.utterances, asked.utterances)
    dev = read(corpus.dev.utterances, few)
    test = read(next(iter(corpus.test.values())).utterances, few)

    torch.manual_seed(asked.seed)
    model = pretrained_network(asked.model) if asked.model else tiny_network()
    schedule = Schedule.dsd(1, asked.epochs, [asked.sparsity], asked.learning_rates)
    plan = resolve(model, RULES, asked.sparsity)
    *_, in_all = str(plan).splitlines()  # the rest says by parameter which rule decides
    print(f"the sparse phase prunes {len(plan.sparsities)} matrices: {in_all}")
    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=schedule.total_epochs,
            per_device_train_batch_size=8,
            lr_scheduler_type="cosine",  # within each phase
            max_grad_norm=1.0,
            logging_strategy="epoch",
            save_strategy="no",
            seed=asked.seed,
            report_to=[],
            disable_tqdm=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            remove_unused_columns=False,  # the collator takes what it needs
        )
        trainer = Trainer(
            model,
            arguments,
            train_dataset=train,
            data_collator=collate,
            callbacks=[DSDCallback(schedule, RULES), ScorePhases(schedule, dev)],
        )
        trainer.train()
    print(f"test {score(model, test)}")


if __name__ == "__main__":
    main()
