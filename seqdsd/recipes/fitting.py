"""Settings that fit a corpus: the rule that chooses those of recognisers by what was measured of it (``measuring``).

The rule is a pure function, ``fitted``. Its numbers stand in ``Numbers``, one table a network (``DS1``, ``DS2``); which
of them were measured, and on what, docs/experiments.md says.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any

from rich.console import Console

from seqdsd.audio.features import HIGHEST_MEL_HZ, LEAST_HIGHEST_HZ, SAMPLE_RATE_HZ, as_dense
from seqdsd.data import LONGEST_ALONE_SECONDS
from seqdsd.engine import AdamWSettings
from seqdsd.printable import printable
from seqdsd.recipes.measuring import CorpusMeasure, counted, duration
from seqdsd.tasks import FeatureSettings
from seqdsd.text import ENGLISH_ALPHABET

if TYPE_CHECKING:
    from seqdsd.recipes.speech import SpeechConfig

FEW_CHARACTERS_A_SECOND = 3.0
"""AN4 and speechocean762 have 7."""
FEW_DEV_UTTERANCES = 30
JOINERS = "\u200c\u200d"
"""Zero-width (non-)joiner, with which Persian and Indian words are spelled."""

_NOT_NOTED = {"alphabet", "lengths"}
"""Of a measure: long, and made again from the corpus."""

Steps = tuple[tuple[float | int, float | int], ...]
"""Pairs of hours and a value: the first whose hours are more than the corpus has decides."""


@dataclass(frozen=True)
class Numbers:
    """The rule's numbers for one network. Hours are of training audio."""

    network: Mapping[str, Any] = field(default_factory=dict)
    """Settings of ``[network]`` that are the same for every corpus."""
    recurrent_layers: Steps = ()
    """Number of recurrent layers, where it can be chosen."""
    hidden_sizes: Steps = ((1, 256), (5, 320), (30, 512), (300, 1024))
    """Units of each layer; the paper's above."""
    hidden_sizes_of_few_steps: Steps | None = None
    """The same where the first phase has fewer than ``short_steps``; None: no others."""
    last_fc_hours: float = math.inf
    """From so many on the FC layer after the recurrent ones stays, if the first phase has ``short_steps`` or more."""
    batch_seconds: float = 15.0
    batch_seconds_few: float = 8.0
    """Below ``few_hours``."""
    batches_grow_hours: float = 5.0
    """Above, batches grow with the hours' square root."""
    largest_batch_seconds: float = 120.0
    utterances_a_batch: float = 3.0
    """At least so many of mean length, as far as the largest batch holds them: norms are over a batch."""
    dense_steps: int = 10_000
    """Of the first phase, up to ``many_hours``; above, they grow with the hours' square root."""
    many_hours: float = 1.0
    dense_epochs: tuple[int, int] = (5, 100)
    """The fewest and the most of the first phase."""
    later_epochs: float = 1 / 4
    """Of each further phase, as a share of the first's."""
    peak_rate: float = 2e-3
    """Learning rate of the first phase."""
    ladder: tuple[float | int, ...] = (8, 5, 3, 1, 0.3)
    """Ratios of the phases' rates: Table 7's."""
    dropout: Steps = ((math.inf, 0.1),)
    few_hours: float = 1 / 6
    """Below, small batches."""
    augmented_hours: float = 100.0
    """Speech is varied in training below so many."""
    short_steps: int = 6_000
    """Up to ``many_hours``; above, they grow likewise. Trainings of fewer, all phases together, are short: no masks,
    and no more dropout than ``dropout_of_short``."""
    dropout_of_short: float = 0.1
    measured_hours: tuple[float, float] = (0.06, 0.7)
    """What the rule was measured on; the rest is extrapolated."""


DS1 = Numbers(
    network={"batch_norm": True, "blank_bias": 3.0},
    hidden_sizes=((0.5, 256), (5, 320), (30, 512), (300, 1024)),
    hidden_sizes_of_few_steps=((1, 256), (5, 320), (30, 512), (300, 1024)),
    last_fc_hours=0.5,
)
DS2 = Numbers(
    network={"cell": "gru", "recurrent_norm": False, "blank_bias": 3.0},
    recurrent_layers=((10, 2), (100, 3), (math.inf, 5)),
    hidden_sizes=((0.1, 128), (1, 256), (5, 320), (30, 512), (300, 1024)),
    dropout=((10, 0.3), (math.inf, 0.1)),
    dropout_of_short=0.0,
)

OPTIMIZER = AdamWSettings(
    curve="cosine", warmup=0.1, momentum=0.9, decay=0.99, weight_decay=0.01, clip_norm=100.0
)


@dataclass(frozen=True)
class Planned:
    """What a user has set that other choices depend on."""

    iters: int | None = None
    epochs: tuple[int, ...] = ()
    """Of each phase, or one number for all; empty where the rule is to choose."""
    first_is_given: bool = False
    """The first phase's weights are trained already: such a training is none of the short ones."""
    batch_seconds: float | None = None
    """Audio in a batch; None where the rule is to choose."""
    optimizer: str | None = None
    """Its kind; with another than the rule's, rates, their curve and patience are the recipe's own."""
    features: str | None = None
    """Their kind; linear ones have no mel filters to choose."""
    highest_hz: float | None = None
    """Where mel filters end; None where the rule is to choose."""

    def first_epochs(self, chosen: Sequence[int]) -> int:
        """Of the first phase, where the rule chose ``chosen``."""
        return (self.epochs or tuple(chosen))[0]

    def total_epochs(self, chosen: Sequence[int], iters: int) -> int:
        """Of all phases, where the rule chose ``chosen`` for them and the recipe's default is ``iters`` rounds."""
        num_phases = 1 + 2 * (iters if self.iters is None else self.iters)
        epochs = (self.epochs or tuple(chosen))[:num_phases]
        return sum(epochs) + (num_phases - len(epochs)) * (epochs[-1] if epochs else 0)


AS_CHOSEN = Planned()


@dataclass(frozen=True)
class Choice:
    """Settings that go together, and in one line what they are and why."""

    values: Mapping[str, Any]
    """By name, such as ``batches.max_batch_seconds``."""
    reason: str


@dataclass(frozen=True)
class Fitted:
    """Settings that fit a corpus."""

    settings: Any
    """Of the class that they were chosen for."""
    choices: tuple[Choice, ...]
    notes: tuple[str, ...]
    """What a user should know of the corpus beforehand, a line each."""
    measure: CorpusMeasure

    def standing(self, settings: Any) -> list[Choice]:
        """The choices that are still the rule's in settings that lie on these."""
        return [
            choice
            for choice in self.choices
            if all(_value(settings, name) == value for name, value in choice.values.items())
        ]

    def lines(self, settings: Any) -> list[str]:
        """What was measured and chosen, and why, a line each; without what has been set otherwise."""
        return [
            f"corpus: {self.measure}",
            *self.notes,
            *(choice.reason for choice in self.standing(settings)),
            *(
                ["the first phase is given (--start-weights): it trains no epoch"]
                if _value(settings, "start_weights")
                else []
            ),
        ]

    def provenance(self, settings: Any) -> dict[str, Any]:
        """For ``[provenance]`` of a run with settings that lie on these: what was chosen, and by which measure."""
        measured = asdict(self.measure) | {"sample_rates_hz": list(self.measure.sample_rates_hz)}
        kept = {name: one for name, one in measured.items() if one is not None and name not in _NOT_NOTED}
        chosen = [name for choice in self.standing(settings) for name in choice.values]
        return {"chosen_automatically": chosen, "corpus": kept}


def fitted(
    measure: CorpusMeasure, base: SpeechConfig, numbers: Numbers, planned: Planned = AS_CHOSEN
) -> Fitted:
    """Choose settings for a corpus; nothing but the arguments decides.

    Args:
        measure: Of the corpus.
        base: The recipe's defaults, which all that is not chosen keeps.
        numbers: Of the recipe's network.
        planned: A training that is planned to be short is regularised less.
    """
    batch_seconds, batches = _batches(measure, numbers)
    steps = steps_an_epoch(measure, planned.batch_seconds or batch_seconds)
    epochs = _epochs(measure, steps, numbers)
    # By the first phase alone, so that a comparison's networks are as large as those that are only trained dense.
    first_steps = steps * planned.first_epochs(epochs.values["epochs"])
    few_steps = not planned.first_is_given and first_steps < _grown(numbers.short_steps, measure, numbers)
    all_steps = steps * planned.total_epochs(epochs.values["epochs"], base.iters)
    # Weights that are given have learned already.
    short = None if planned.first_is_given else _short(all_steps, measure, numbers)
    alphabet = _alphabet(measure)
    choices = (
        *((alphabet,) if alphabet else ()),
        _width(measure, base, numbers, few_steps=few_steps),
        *_network(measure, numbers),
        _last_fc(measure, numbers, few_steps=few_steps),
        *_features(measure, planned),
        _dropout(measure, numbers, short),
        batches,
        epochs,
        *(_optimizer(numbers) if planned.optimizer in (None, OPTIMIZER.kind) else ()),
        *_augmentation(measure, numbers, short),
    )
    settings: Any = base
    for choice in choices:
        for name, value in choice.values.items():
            settings = _with(settings, name, value)
    return Fitted(settings, choices, tuple(_notes(measure, numbers)), measure)


def steps_an_epoch(measure: CorpusMeasure, batch_seconds: float) -> int:
    """About how many batches an epoch has: each holds utterances of one length, as many as fit."""
    batches = (count / max(1.0, batch_seconds // seconds) for seconds, count in measure.lengths)
    return max(1, round(math.fsum(batches)))


def _batches(measure: CorpusMeasure, numbers: Numbers) -> tuple[float, Choice]:
    is_few = measure.hours < numbers.few_hours
    seconds = numbers.batch_seconds_few if is_few else numbers.batch_seconds
    seconds *= max(1.0, measure.hours / numbers.batches_grow_hours) ** 0.5
    seconds = max(seconds, numbers.utterances_a_batch * measure.mean_seconds)
    seconds = min(seconds, numbers.largest_batch_seconds)
    seconds = float(math.ceil(seconds))
    alone = "" if measure.longest_seconds <= seconds else "; longer utterances are alone in theirs"
    steps = steps_an_epoch(measure, seconds)
    given = f"{duration(measure.hours)} of audio give about {counted(steps, 'step')} an epoch{alone}"
    reason = f"batches of {seconds:g} s, long and short ones mixed from the first epoch on: {given}"
    values = {"batches.max_batch_seconds": seconds, "batches.sorta_grad": False}
    return seconds, Choice(values, reason)


def _epochs(measure: CorpusMeasure, steps: int, numbers: Numbers) -> Choice:
    wanted = _grown(numbers.dense_steps, measure, numbers)
    least, most = numbers.dense_epochs
    first = min(most, max(least, round(wanted / steps)))
    later = max(2, round(first * numbers.later_epochs))
    epochs = (first, *[later] * (len(numbers.ladder) - 1))
    return Choice(
        {"epochs": epochs},
        f"{first} epochs, then {later} a phase: {first * steps:,} steps in the first phase (wanted: {wanted:,}, in "
        f"{least} to {most} epochs), {numbers.later_epochs:.2g} of its epochs in each further one (2 at least)",
    )


def _grown(steps: int, measure: CorpusMeasure, numbers: Numbers) -> int:
    """Steps that so much speech takes: from many hours on more by the square root."""
    return round(steps * max(1.0, measure.hours / numbers.many_hours) ** 0.5)


def _optimizer(numbers: Numbers) -> list[Choice]:
    """What belongs together: another optimizer needs other rates."""
    return [
        _rates(numbers),
        Choice(
            {"optimizer": OPTIMIZER},
            f"optimizer {OPTIMIZER.kind}: in each phase the rate rises over the first {OPTIMIZER.warmup:.0%} of the "
            "steps, then falls to a thousandth along a cosine",
        ),
        Choice({"patience": 0}, "patience 0: a phase's rate is planned to its end"),
    ]


def _rates(numbers: Numbers) -> Choice:
    rates = tuple(float(f"{numbers.peak_rate * one / numbers.ladder[0]:.4g}") for one in numbers.ladder)
    ratios = " : ".join(f"{one:g}" for one in numbers.ladder)
    return Choice(
        {"learning_rates": rates},
        f"learning rates {', '.join(f'{rate:g}' for rate in rates)}: the first is the optimizer's, the ratios are "
        f"{ratios} (Table 7)",
    )


def _width(measure: CorpusMeasure, base: SpeechConfig, numbers: Numbers, *, few_steps: bool) -> Choice:
    most, why = (math.inf, base.hidden_size), ""
    bound, units = _at(measure.hours, (*numbers.hidden_sizes, most))
    if few_steps and numbers.hidden_sizes_of_few_steps:
        usual, (bound, units) = units, _at(measure.hours, (*numbers.hidden_sizes_of_few_steps, most))
        if units != usual:
            why = (
                f", and fewer than {_grown(numbers.short_steps, measure, numbers):,} steps in the first phase"
            )
    return Choice({"hidden_size": units}, f"{units} units a layer: {_below(bound)}{why}")


def _network(measure: CorpusMeasure, numbers: Numbers) -> list[Choice]:
    choices = []
    if numbers.recurrent_layers:
        bound, layers = _at(measure.hours, numbers.recurrent_layers)
        choices.append(
            Choice({"network.num_recurrent_layers": layers}, f"{layers} recurrent layers: {_below(bound)}")
        )
    for name, value in numbers.network.items():
        choices.append(Choice({f"network.{name}": value}, _NETWORK_REASONS[name]))
    return choices


_NETWORK_REASONS = {
    "batch_norm": "batch norm: without it small corpora do not train at such rates",
    "cell": "GRU cells: gated ones keep longer contexts; the plain ones were not compared on small corpora",
    "recurrent_norm": "no batch norm in the recurrent layers: with a few utterances a batch GRUs learn sooner without",
    "blank_bias": "blank is likely at first: else some seeds stay where they hear nothing (docs/experiments.md)",
}


def _last_fc(measure: CorpusMeasure, numbers: Numbers, *, few_steps: bool) -> Choice:
    stays = not few_steps and measure.hours >= numbers.last_fc_hours
    reason = (
        f"an FC layer after the recurrent one, as in Table 6: {duration(numbers.last_fc_hours)} of audio or more, and "
        "time to train it"
        if stays
        else "no FC layer after the recurrent ones: networks learn sooner without (docs/experiments.md)"
    )
    return Choice({"network.last_fc": stays}, reason)


def _features(measure: CorpusMeasure, planned: Planned) -> Iterator[Choice]:
    """Log-mel, up to what the recordings can hold at all, and as close as the default up to 8 kHz."""
    yield Choice(
        {"features.kind": "mel"},
        "features: log-mel: fewer errors on AN4 than with the paper's 161 bins (docs/experiments.md)",
    )
    if planned.features not in (None, "mel"):
        return
    yield Choice(
        {"features.normalise": "mean"},
        "each bin less its mean over a recording, one SD for all: fewer errors on AN4 than with each bin's own SD "
        "(docs/experiments.md)",
    )
    highest_hz, rate_hz = planned.highest_hz, max(measure.sample_rates_hz, default=SAMPLE_RATE_HZ)
    is_chosen = highest_hz is None and rate_hz < SAMPLE_RATE_HZ and measure.all_rates_known
    if is_chosen:
        highest_hz = max(LEAST_HIGHEST_HZ, rate_hz / 2)
    # First the number: the usual one may be too many below the end, this one is never too many above.
    if highest_hz is not None and LEAST_HIGHEST_HZ <= highest_hz < HIGHEST_MEL_HZ:
        usual = FeatureSettings().num_mels
        num_mels = as_dense(usual, highest_hz)
        reason = f"{num_mels} mel filters: as close as {usual} up to {HIGHEST_MEL_HZ:,g} Hz"
        yield Choice({"features.num_mels": num_mels}, reason)
    if is_chosen:
        reason = f"log-mel ends at {highest_hz:,g} Hz: recordings of {rate_hz:,} Hz have nothing above"
        yield Choice({"features.highest_hz": highest_hz}, reason)


def _dropout(measure: CorpusMeasure, numbers: Numbers, short: str | None) -> Choice:
    bound, share = _at(measure.hours, numbers.dropout)
    why = _below(bound) if len(numbers.dropout) > 1 else "for any amount of audio"
    if short and share > numbers.dropout_of_short:
        share, why = numbers.dropout_of_short, short
    return Choice({"network.dropout": share}, f"dropout {share:g}: {why}")


def _augmentation(measure: CorpusMeasure, numbers: Numbers, short: str | None) -> list[Choice]:
    if measure.hours >= numbers.augmented_hours:
        return []
    why = _below(numbers.augmented_hours)
    speeds = Choice(
        {"augment.speed_factors": (0.9, 1.0, 1.1)}, f"played at 0.9, 1.0 and 1.1 times the speed: {why}"
    )
    if short:
        return [Choice({"augment.spec_augment": False}, f"no masks: {short}"), speeds]
    masks = {"augment.spec_augment": True, "augment.freq_width_bins": 20, "augment.time_width_frames": 20}
    reason = f"masked spectrograms (SpecAugment), up to an eighth of the bins and 20 frames: {why}"
    return [Choice(masks, reason), speeds]


def _short(all_steps: int, measure: CorpusMeasure, numbers: Numbers) -> str | None:
    """Why a training is varied less, if it is a short one."""
    bound = _grown(numbers.short_steps, measure, numbers)
    if all_steps >= bound:
        return None
    few = f"{counted(all_steps, 'step')} in all phases are few (below {bound:,})"
    return f"{few}: networks learn sooner with less variation"


def _alphabet(measure: CorpusMeasure) -> Choice | None:
    """Where there are letters beside a to z: these; what else there is the tokenizer refuses, line by line."""
    others = [one for one in measure.alphabet if one not in ENGLISH_ALPHABET and _is_letter(one)]
    if not others:
        return None
    others += [one for one in measure.alphabet if one in JOINERS]
    has_latin = any(one in ENGLISH_ALPHABET for one in measure.alphabet if one not in " '")
    alphabet = (ENGLISH_ALPHABET if has_latin else " '") + "".join(others)
    reason = f"an alphabet of {len(alphabet)} characters: transcripts have {_some(others)}, too"
    return Choice({"tokenizer.kind": "characters", "tokenizer.alphabet": alphabet}, reason)


def _spelled_twice(alphabet: str) -> list[str]:
    """Letters that are there as one character, and in parts, too."""
    return [
        one
        for one in alphabet
        if len(parts := unicodedata.normalize("NFD", one)) > 1 and set(parts) <= set(alphabet)
    ]


def _is_letter(character: str) -> bool:
    """Of scripts with cases a small one: capitals are more likely a mishap."""
    return unicodedata.category(character) in ("Ll", "Lo", "Lm", "Mn", "Mc")


def _notes(measure: CorpusMeasure, numbers: Numbers) -> list[str]:
    notes, (least, most) = [], numbers.measured_hours
    if not least <= measure.hours <= most:
        where = "below" if measure.hours < least else "above"
        notes.append(
            f"note: {where} the {duration(least)} to {duration(most)} that the rule was measured on: extrapolated"
        )
    if measure.characters_a_second < FEW_CHARACTERS_A_SECOND:
        notes.append(
            f"note: {measure.characters_a_second:.2g} characters a second are few (AN4 has 7): cut long "
            "silences off, or complete the transcripts"
        )
    if measure.num_decomposed and (twice := _spelled_twice(measure.alphabet)):
        notes.append(
            f"note: {_some(twice)}: written in two ways, in {counted(measure.num_decomposed, 'transcript')} with "
            "accents apart from their letters: bring all to one Unicode form (unicodedata.normalize with 'NFC')"
        )
    if measure.num_to_cut:
        notes.append(
            f"note: {counted(measure.num_to_cut, 'utterance')} of more than {LONGEST_ALONE_SECONDS:g} s, too long for "
            "a batch: cut the recordings, or leave them out (--on-bad-data skip)"
        )
    if measure.speakers == 1:
        notes.append(
            "note: one speaker in training: a dev set of the same voice says nothing of others, who will be heard worse"
        )
    if measure.dev_utterances < FEW_DEV_UTTERANCES:
        notes.append(
            f"note: dev has {counted(measure.dev_utterances, 'utterance')}, which choose the best epoch: its error "
            "rate will be coarse"
        )
    return notes


def show_choices(chosen: Fitted, settings: Any, console: Console) -> None:
    """Print what was measured and chosen, and why."""
    console.print("[bold]Chosen for this corpus[/bold] (each can be set; --preset paper takes the paper's)")
    for line in chosen.lines(settings):
        console.print(f"  {printable(line)}", highlight=False, markup=False, soft_wrap=True)


def _at(hours: float, steps: Steps) -> tuple[float | int, float | int]:
    return next(step for step in steps if hours < step[0])


def _below(hours: float | int) -> str:
    return "as for larger corpora" if hours == math.inf else f"for less than {duration(hours)} of audio"


def _some(characters: Sequence[str]) -> str:
    """The first few."""
    return "".join(characters[:8]) + (" …" if len(characters) > 8 else "")


def _value(settings: Any, name: str) -> Any:
    for part in name.split("."):
        settings = getattr(settings, part, None)
    return settings


def _with(settings: Any, name: str, value: Any) -> Any:
    first, _, rest = name.partition(".")
    return replace(settings, **{first: _with(getattr(settings, first), rest, value) if rest else value})
