"""What the recognisers' recipes have in common: their settings, their task, their run, their command line.

A recipe adds its network, by a ``SpeechRecipe``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

from rich.console import Console
from rich.markup import escape
from torch import nn

from seqdsd.config import read_config, read_provenance
from seqdsd.data import Corpus, OnBadData, read_corpus
from seqdsd.data.synthetic import SyntheticSpeech, synthetic_speech
from seqdsd.engine import AdamWSettings, GivenWeights, NesterovSettings, Processes, is_first_process
from seqdsd.fabric import Fabric
from seqdsd.recipes.command import run_recipe
from seqdsd.recipes.fitting import AS_CHOSEN, Fitted, Numbers, Planned, fitted
from seqdsd.recipes.measuring import measure
from seqdsd.recipes.start_weights import given_run
from seqdsd.recipes.training import RunConfig, RunResult, describe_training, make_network, train_or_resume
from seqdsd.records import RunFolder, RunFolderError, write_json_lines
from seqdsd.reports.phase_table import phase_table
from seqdsd.sparsity import SPEECH_RULES
from seqdsd.tasks import AugmentSettings, BatchSettings, FeatureSettings, SpeechTask
from seqdsd.text import ENGLISH_ALPHABET, CharacterTokenizer, SubwordTokenizer, Tokenizer, load_tokenizer

MAY_CHANGE_ON_RESUME = (
    "out",
    "device",
    "checkpoint_minutes",
    "batches.num_workers",
    "on_bad_data",
    "network.recompute_layers",
)


@dataclass(frozen=True)
class TokenizerSettings:
    """What the network spells with."""

    kind: Literal["characters", "subwords"] = "characters"
    """The characters of an alphabet and the blank, or SentencePiece pieces learnt from the training transcripts."""
    alphabet: str = ENGLISH_ALPHABET
    """The characters, each once; with the blank, English ones are 29. Of no consequence for sub-words."""
    vocab_size: int = 128
    """Number of sub-words, the blank included."""

    def __post_init__(self) -> None:
        try:
            CharacterTokenizer(self.alphabet)
        except ValueError as error:
            raise ValueError(f"alphabet: {error}") from None


@dataclass(frozen=True)
class EmbeddedCorpusSettings:
    """Of the corpus that is synthesised where no data is named."""

    train_utterances: int | None = None
    """By its voices for training; by default 1,200."""
    dev_utterances: int | None = None
    """By its voices for dev; by default 100."""
    test_utterances: int | None = None
    """By its voices for test; by default 200. The more, the less the test set limits what scores tell."""

    def __post_init__(self) -> None:
        _ = self.spec  # raises for numbers below 1

    @property
    def spec(self) -> SyntheticSpeech:
        """What is made."""
        return SyntheticSpeech(**{name: size for name, size in asdict(self).items() if size is not None})


@dataclass(frozen=True, kw_only=True)
class SpeechConfig(RunConfig):
    """The settings that every recogniser's recipe has."""

    NETWORK_SETTINGS: ClassVar[tuple[str, ...]] = (*RunConfig.NETWORK_SETTINGS, "tokenizer", "features")

    data: Path | None = None
    """Folder with train.jsonl, dev.jsonl and test.jsonl (or several test_NAME.jsonl); scripts in data_prep/ write them.
    Or with Kaldi's, Lhotse's or seqdsd shard's. Without it a small corpus is synthesised."""
    corpus: EmbeddedCorpusSettings = field(default_factory=EmbeddedCorpusSettings)
    iters: int = 2
    """Rounds of sparse and redense phases after the first dense phase (Tables 7 and 9: 2)."""
    hidden_size: int
    """Units of every hidden layer."""
    tokenizer: TokenizerSettings = field(default_factory=TokenizerSettings)
    optimizer: NesterovSettings | AdamWSettings = field(default_factory=NesterovSettings)
    batches: BatchSettings = field(default_factory=BatchSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    augment: AugmentSettings = field(default_factory=AugmentSettings)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data is not None and self.corpus != EmbeddedCorpusSettings():
            raise ValueError(
                f"corpus: sizes of the synthesised corpus, but data names {self.data}; leave out one of them"
            )


@dataclass(frozen=True)
class SpeechRecipe:
    """What a recogniser's recipe has of its own, and from it what every recipe offers: run, dry_run, main."""

    name: str
    """As in ``seqdsd.recipes.NAME``, and of the file NAME_embedded.toml beside it."""
    title: str
    """Of the network, for a sentence."""
    config_class: type[Any]
    """A ``SpeechConfig`` with a default for everything."""
    make_model: Callable[[Any, Tokenizer], nn.Module]
    """The network for these settings and this tokenizer, with fresh weights from torch's generator."""
    numbers: Numbers
    """By which settings are chosen for a corpus."""

    def run(
        self,
        config: SpeechConfig,
        *,
        resume: bool = False,
        start_from: Path | None = None,
        console: Console | None = None,
        origin: Mapping[str, Any] | None = None,
    ) -> RunResult:
        """Train, or go on where the run in ``config.out`` stopped; a complete run is returned as it is.

        ``start_from`` is a run whose leading phases are taken over, as far as both have them in common. ``origin`` is
        noted of a run that begins: where its settings are from.

        Raises:
            ValueError: For settings, data or a run folder that cannot be used; the message says what to do.
        """
        console = console or Console(quiet=not is_first_process())
        result = train_or_resume(
            config,
            recipe=self.name,
            rules=SPEECH_RULES,
            optimizer=config.optimizer,
            may_change=MAY_CHANGE_ON_RESUME,
            spelling="tokenizer",
            make_task=partial(self.make_task_with, config),
            save_parts=lambda task, path: {**save_parts(task, path), **(origin or {})},
            make_fresh=lambda task: self.make_model(config, task.tokenizer),
            resume=resume,
            start_from=start_from,
            console=console,
        )
        console.print(phase_table(result.phases))
        return result

    def dry_run(self, config: SpeechConfig, console: Console | None = None) -> None:
        """Print corpus, network, pruning plan and schedule; train nothing."""
        console = console or Console()
        known = given_run(config, self.name, part="tokenizer")
        task = self.make_task(config, read_tokenizer(known) if known else None)
        seconds = ", ".join(f"{split} {total / 60:.1f} min" for split, total in task.seconds.items())
        console.print(
            f"[bold]Corpus[/bold] {escape(str(config.data or 'embedded (synthesised)'))}: {seconds}"
        )
        describe_training(task.model, config, rules=SPEECH_RULES, console=console)

    def make_task(
        self,
        config: SpeechConfig,
        tokenizer: Tokenizer | None = None,
        processes: Processes | None = None,
        given: GivenWeights | None = None,
    ) -> SpeechTask:
        """The network, with fresh weights or those given, and its data; without a tokenizer the one asked for is made.

        Raises:
            ValueError: For data or weights that cannot be used.
        """
        folder = config.data or synthetic_speech(config.corpus.spec)
        corpus = read_corpus(folder, on_bad_data=config.on_bad_data, with_test=config.score_test)
        tokenizer = tokenizer or make_tokenizer(config.tokenizer, corpus)
        make = partial(self.make_model, config, tokenizer)
        return SpeechTask(
            model=make_network(make, config, optimizer=config.optimizer, given=given),
            tokenizer=tokenizer,
            corpus=corpus,
            batches_settings=config.batches,
            features=config.features,
            augment=config.augment,
            on_bad_data=config.on_bad_data,
            seed=config.seed,
            pin_memory=config.pins_memory,
            processes=processes or Processes(),
            accumulate=config.accumulate,
        )

    def make_task_with(
        self, config: SpeechConfig, known: RunFolder | None, fabric: Fabric, given: GivenWeights | None
    ) -> SpeechTask:
        """The same with the tokenizer of a run, if one is known."""
        tokenizer = read_tokenizer(known) if known else None
        return self.make_task(config, tokenizer, Processes.of(fabric), given)

    def embedded_settings(self) -> Any:
        """Settings for the embedded corpus: small enough for two CPU cores."""
        return read_config(Path(__file__).with_name(f"{self.name}_embedded.toml"), self.config_class())

    def fit(self, data: Path, on_bad_data: OnBadData = "error", planned: Planned = AS_CHOSEN) -> Fitted:
        """Settings for the corpus in a folder and a training of the length that is planned, and why these.

        Raises:
            ValueError: See ``read_corpus``.
        """
        corpus = read_corpus(data, on_bad_data=on_bad_data, with_test=False)
        return fitted(measure(corpus), self.config_class(), self.numbers, planned)

    def main(self, argv: Sequence[str] | None = None) -> None:
        """Entry point of ``python -m seqdsd.recipes.NAME``."""
        run_recipe(
            self.name,
            self.config_class,
            description=f"Train a {self.title} recogniser with Dense-Sparse-Dense training. Where no data is named, "
            "it takes a small synthesised corpus and settings made for it; with --data alone, it chooses settings "
            "that fit the corpus and says why; every one can be set. The paper's: --preset paper.",
            without_data=self.embedded_settings,
            with_data=self.fit,
            run=self.run,
            dry_run=self.dry_run,
            argv=argv,
        )


def make_tokenizer(settings: TokenizerSettings, corpus: Corpus) -> Tokenizer:
    """The tokenizer asked for; sub-words are learnt from the training transcripts."""
    if settings.kind == "characters":
        return CharacterTokenizer(settings.alphabet)
    return SubwordTokenizer.train([one.text for one in corpus.train.utterances], settings.vocab_size)


def read_tokenizer(folder: RunFolder) -> Tokenizer:
    """What a run's network spells with.

    Raises:
        ValueError: If it is damaged.
        RunFolderError: If it is another than the run was begun with: ids would mean something else.
    """
    tokenizer = load_tokenizer(folder.path / "tokenizer")
    noted = read_provenance(folder.config).get("tokenizer")  # runs of before 2026-11-26 have none
    if noted not in (None, _digest(tokenizer)):
        raise RunFolderError(
            f"{folder.path / 'tokenizer'}: not the tokenizer that the run was begun with; put that one back, or train "
            "anew with another --out"
        )
    return tokenizer


def _digest(tokenizer: Tokenizer) -> str:
    said = json.dumps(tokenizer.to_json(), sort_keys=True).encode()
    return hashlib.blake2b(said, digest_size=16).hexdigest()


def save_parts(task: SpeechTask, path: Path) -> Mapping[str, str]:
    """Write what a run's weights need beside them, and where its recordings are; what is noted of it."""
    task.tokenizer.save(path / "tokenizer")
    judged = [utterance for split in ("dev", *task.test_splits) for utterance in task.utterances(split)]
    # Parts within longer recordings and shards are left out: the report plays files from their start.
    files = (one for one in judged if not one.start_seconds and one.member is None)
    rows = ({"id": one.id, "path": one.audio_path} for one in files)
    write_json_lines(RunFolder(path).audio, rows)
    return {"tokenizer": _digest(task.tokenizer)}
