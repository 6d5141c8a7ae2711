"""The rule by which settings are chosen for a corpus, from five minutes to a thousand hours."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import librosa
import numpy as np
import pytest
import torch

from seqdsd.config import differences, read_config, to_toml
from seqdsd.data import BucketBatchSampler, Corpus, Manifest, Utterance
from seqdsd.recipes import ds1, ds2
from seqdsd.recipes.fitting import AS_CHOSEN, DS1, DS2, Planned, fitted, steps_an_epoch
from seqdsd.recipes.measuring import CorpusMeasure, measure
from seqdsd.text import ENGLISH_ALPHABET, CharacterTokenizer

HOURS = (1 / 12, 1 / 6, 1 / 4, 0.5, 0.7, 1, 2.5, 5, 10, 30, 100, 300, 960, 1000)
MEAN_SECONDS = (0.5, 3.0, 12.0)
RECIPES = {"ds1": (ds1.Config(), DS1), "ds2": (ds2.Config(), DS2)}


def corpus(hours, mean_seconds=3.0, **changes):
    utterances = max(1, round(3600 * hours / mean_seconds))
    measured = CorpusMeasure(
        hours=float(hours),
        utterances=utterances,
        mean_seconds=mean_seconds,
        longest_seconds=2 * mean_seconds,
        lengths=((mean_seconds, utterances),),
        num_to_cut=0,
        characters_a_second=14.0,
        speakers=20,
        sample_rates_hz=(16_000,),
        all_rates_known=True,
        alphabet=ENGLISH_ALPHABET,
        num_decomposed=0,
        dev_utterances=100,
    )
    return replace(measured, **changes)


@pytest.fixture(params=RECIPES)
def fit(request):
    base, numbers = RECIPES[request.param]
    return lambda measured, planned=AS_CHOSEN: fitted(measured, base, numbers, planned)


@pytest.mark.parametrize("mean_seconds", MEAN_SECONDS)
@pytest.mark.parametrize("hours", HOURS)
def test_every_corpus_gets_settings_within_bounds(fit, tmp_path, hours, mean_seconds):
    measured = corpus(hours, mean_seconds)
    found = fit(measured)
    settings = found.settings
    assert max(8, 2 * mean_seconds) <= settings.batches.max_batch_seconds <= 120
    first, *later = settings.epochs
    assert 5 <= first <= 100 and set(later) == {max(2, round(first / 4))} and len(later) == 4
    steps = first * steps_an_epoch(measured, settings.batches.max_batch_seconds)
    assert 700 <= steps and (first == 5 or steps < 350_000)
    assert list(settings.learning_rates) == sorted(settings.learning_rates, reverse=True)
    assert len(settings.schedule) == 5 and 128 <= settings.hidden_size <= type(settings)().hidden_size
    assert (settings.augment.speed_factors != (1.0,)) == (hours < 100)
    assert not settings.augment.spec_augment or hours < 100
    (tmp_path / "config.toml").write_text(to_toml(settings))
    assert read_config(tmp_path / "config.toml", type(settings)()) == settings


@pytest.mark.parametrize("mean_seconds", MEAN_SECONDS)
def test_more_speech_never_means_less_of_what_grows_with_it(fit, mean_seconds):
    every = [fit(corpus(hours, mean_seconds)).settings for hours in HOURS]
    for less, more in pairwise(every):
        assert less.hidden_size <= more.hidden_size
        assert less.batches.max_batch_seconds <= more.batches.max_batch_seconds
        assert less.epochs[0] >= more.epochs[0] - 1  # batches are of whole seconds
    assert every[0].hidden_size < every[-1].hidden_size and every[0].epochs[0] > every[-1].epochs[0]


def test_deeper_networks_for_more_speech():
    layers = [fitted(corpus(hours), *RECIPES["ds2"]).settings.network.num_recurrent_layers for hours in HOURS]
    assert layers == sorted(layers) and (layers[0], layers[-1]) == (2, 5)
    assert {fitted(corpus(hours), *RECIPES["ds2"]).settings.network.cell for hours in HOURS} == {"gru"}
    assert all(fitted(corpus(hours), *RECIPES["ds1"]).settings.network.batch_norm for hours in HOURS)


def test_a_quarter_of_an_hour_by_hand(fit):
    """1,800 utterances of half a second: 30 a batch of 15 s, 60 steps: 100 epochs, the most there are."""
    found = fit(corpus(0.25, 0.5))
    assert found.settings.batches.max_batch_seconds == 15.0
    assert found.settings.epochs == (100, 25, 25, 25, 25)
    [line] = [line for line in found.lines(found.settings) if line.startswith("batches of 15 s")]
    assert line.endswith("from the first epoch on: 15 min of audio give about 60 steps an epoch")


@pytest.mark.parametrize(
    "seconds",
    [
        np.random.default_rng(0).uniform(1, 16, 2000),
        np.random.default_rng(1).lognormal(1.0, 0.7, 3000),
        np.array([0.1, 60.0] * 100),
    ],
    ids=["uniform", "lognormal", "two"],
)
@pytest.mark.parametrize("batch_seconds", [8.0, 15.0, 64.0])
def test_the_steps_said_are_those_that_an_epoch_has(seconds, batch_seconds):
    measured = measure(corpus_of(seconds))
    batches = len(BucketBatchSampler(seconds.tolist(), max_batch_seconds=batch_seconds))
    assert steps_an_epoch(measured, batch_seconds) == pytest.approx(batches, rel=0.06, abs=2)


def corpus_of(seconds) -> Corpus:
    """Of recordings so long, whose audio nobody looks into."""
    utterances = [Utterance(str(n), f"{n}.mp4", float(one), "a b", None, "") for n, one in enumerate(seconds)]
    manifest = Manifest(Path("train.jsonl"), utterances, [])
    return Corpus(manifest, manifest, {})


def test_what_a_flag_changes_the_reasons_go_by(fit):
    usual, larger = fit(corpus(0.7)), fit(corpus(0.7), Planned(batch_seconds=60.0))
    assert larger.settings.epochs[0] > usual.settings.epochs[0]
    assert any("4,200 steps in the first phase" in line for line in larger.lines(larger.settings))
    other = fit(corpus(0.25), Planned(optimizer="nesterov"))
    assert other.settings.learning_rates == type(other.settings)().learning_rates
    assert other.settings.patience == type(other.settings)().patience
    assert not any("learning rate" in line or "patience" in line for line in other.lines(other.settings))


def test_every_setting_that_is_chosen_says_why_and_no_other_is_changed(fit):
    found = fit(corpus(0.25))
    changed = {line.split(":")[0] for line in differences(type(found.settings)(), found.settings)}
    chosen = [name for choice in found.choices for name in choice.values]
    assert len(chosen) == len(set(chosen))
    assert all(any(one == name or one.startswith(f"{name}.") for name in chosen) for one in changed)
    assert all(choice.reason.count("\n") == 0 and ":" in choice.reason for choice in found.choices)


def test_what_is_set_otherwise_is_not_said_to_be_chosen(fit):
    found = fit(corpus(0.25))
    settings = replace(
        found.settings, hidden_size=77, batches=replace(found.settings.batches, max_batch_seconds=7.0)
    )
    assert any("units a layer" in line for line in found.lines(found.settings))
    lines = "\n".join(found.lines(settings))
    assert "units a layer" not in lines and "batches of" not in lines and "dropout" in lines
    noted = found.provenance(settings)
    assert "hidden_size" not in noted["chosen_automatically"] and "epochs" in noted["chosen_automatically"]
    assert noted["corpus"]["hours"] == 0.25 and noted["corpus"]["sample_rates_hz"] == [16_000]


@pytest.mark.parametrize(
    ("planned", "all_epochs"),
    [
        (Planned(), 83 + 4 * 21),
        (Planned(iters=0), 83),
        (Planned(iters=0, epochs=(20,)), 20),
        (Planned(epochs=(20,)), 100),
        (Planned(epochs=(20, 2, 2, 2, 2)), 28),
        (Planned(iters=1, epochs=(20, 3)), 26),
    ],
)
def test_short_trainings_vary_less(fit, planned, all_epochs):
    """Half an hour in 600 utterances, five a batch: 120 steps an epoch, and as many epochs as are planned."""
    found = fit(corpus(0.5), planned)
    augment, dropout = found.settings.augment, found.settings.network.dropout
    lines = "\n".join(found.lines(found.settings))
    assert planned.total_epochs(found.settings.epochs, 2) == all_epochs
    is_short = 120 * all_epochs < 6_000
    assert augment.spec_augment != is_short and augment.speed_factors == (0.9, 1.0, 1.1)
    assert (f"no masks: {120 * all_epochs:,} steps in all phases are few" in lines) == is_short
    assert ("masked spectrograms" in lines) != is_short
    assert dropout <= 0.1 if is_short else dropout == fit(corpus(0.5)).settings.network.dropout


@pytest.mark.parametrize(("epochs", "is_short"), [(12, True), (13, False)])
def test_what_is_short_grows_with_the_speech(fit, epochs, is_short):
    """Four hours, 960 steps an epoch: 6,000 by the square root of 4 are 12,000."""
    found = fit(corpus(4), Planned(iters=0, epochs=(epochs,)))
    assert found.settings.augment.spec_augment != is_short
    lines = "\n".join(found.lines(found.settings))
    assert ("11,520 steps in all phases are few (below 12,000)" in lines) == is_short


@pytest.mark.parametrize(
    "hours,epochs,units,last_fc",
    [
        (0.4, 100, 256, False),
        (0.6, 100, 320, True),
        (0.6, 20, 256, False),
        (4, 12, 320, False),
        (4, 13, 320, True),
    ],
)
def test_deepspeech_1_is_larger_where_there_is_time(hours, epochs, units, last_fc):
    for iters in (0, 2):  # dense networks are as large as those that they are compared with
        planned = Planned(iters=iters, epochs=(epochs,))
        settings = fitted(corpus(hours), ds1.Config(), DS1, planned).settings
        assert (settings.hidden_size, settings.network.last_fc) == (units, last_fc)
    assert not fitted(corpus(hours), ds2.Config(), DS2, planned).settings.network.last_fc


def test_a_training_whose_first_phase_is_given_is_none_of_the_short_ones(fit):
    """Its weights have learned already; and the first of epochs, which is not used, decides nothing."""
    long = fit(corpus(0.5)).settings
    for epochs in ((1, 2), (500, 2)):
        settings = fit(corpus(0.5), Planned(epochs=epochs, first_is_given=True)).settings
        assert (settings.augment, settings.network) == (long.augment, long.network)


def test_one_long_utterance_does_not_make_all_batches_large(fit):
    usual, long = fit(corpus(0.1)), fit(corpus(0.1, longest_seconds=59.2))
    assert long.settings.batches == usual.settings.batches
    says_so = [
        any("longer utterances are alone" in line for line in one.lines(one.settings))
        for one in (usual, long)
    ]
    assert says_so == [False, True]


@pytest.mark.parametrize("recipe", [ds1, ds2])
def test_the_network_begins_with_a_likely_blank(recipe):
    """As chosen, beside the paper's own of the same first weights."""
    base, numbers = RECIPES[recipe.__name__.rpartition(".")[2]]
    chosen = fitted(corpus(0.5), base, numbers).settings
    tokenizer = CharacterTokenizer()

    def first_bias(settings):
        torch.manual_seed(0)
        return recipe.make_model(settings, tokenizer).output.bias.detach()

    plain = replace(chosen, network=replace(chosen.network, blank_bias=base.network.blank_bias))
    added = first_bias(chosen) - first_bias(plain)
    expected = torch.zeros_like(added)
    expected[tokenizer.blank_id] = 3.0
    torch.testing.assert_close(added, expected)
    with pytest.raises(ValueError, match="blank_bias must be finite, got nan"):
        replace(chosen.network, blank_bias=float("nan"))


def test_an_alphabet_is_not_said_to_be_chosen_for_sub_words(fit):
    found = fit(corpus(1, alphabet=" abcé"))
    as_pieces = replace(found.settings, tokenizer=replace(found.settings.tokenizer, kind="subwords"))
    assert any("an alphabet of 29" in line for line in found.lines(found.settings))
    assert not any("an alphabet of" in line for line in found.lines(as_pieces))
    assert "tokenizer.alphabet" not in found.provenance(as_pieces)["chosen_automatically"]


def test_masks_are_said_in_what_both_kinds_of_features_have(fit):
    """An eighth of the bins: 20 of 161, 10 of 80."""
    settings = fit(corpus(1)).settings
    assert settings.augment.masks(settings.features.num_bins).freq_width_bins == 10
    assert any("up to an eighth of the bins" in line for line in fit(corpus(1)).lines(settings))


@pytest.mark.parametrize(
    ("rates_hz", "num_mels", "highest_hz"),
    [
        ((16_000,), 80, 8000.0),
        ((), 80, 8000.0),
        ((44_100,), 80, 8000.0),
        ((8_000, 16_000), 80, 8000.0),
        ((8_000,), 62, 4000.0),
        ((8_000, 11_025), 70, 5512.5),
        ((1_000,), 26, 1000.0),
    ],
)
def test_mel_filters_end_where_the_recordings_do(fit, rates_hz, num_mels, highest_hz):
    found = fit(corpus(1, sample_rates_hz=rates_hz))
    features = found.settings.features
    assert (features.kind, features.normalise) == ("mel", "mean")
    assert (features.num_mels, features.highest_hz) == (num_mels, highest_hz)
    filters = librosa.mel_frequencies(num_mels + 2, fmin=20, fmax=highest_hz)
    usual = librosa.mel_frequencies(82, fmin=20, fmax=8000)
    assert filters[1] - filters[0] == pytest.approx(usual[1] - usual[0], rel=0.02)
    lines = found.lines(found.settings)
    assert any(f"{num_mels} mel filters: as close as 80" in line for line in lines) == (highest_hz < 8000)
    assert any(f"log-mel ends at {highest_hz:,g} Hz: " in line for line in lines) == (highest_hz < 8000)


def test_recordings_of_unknown_rates_may_hold_all(fit):
    found = fit(corpus(1, sample_rates_hz=(8_000,), all_rates_known=False))
    assert (found.settings.features.num_mels, found.settings.features.highest_hz) == (80, 8000.0)


def test_what_a_user_sets_of_the_features_the_others_go_by(fit):
    telephone = corpus(1, sample_rates_hz=(8_000,))
    linear = fit(telephone, Planned(features="linear")).settings.features
    # As in runs of before these could be chosen.
    assert (linear.num_mels, linear.highest_hz, linear.normalise) == (80, 8000.0, "bin")
    for highest_hz, num_mels in ((8000.0, 80), (3000.0, 55), (999.0, 80)):  # the last is refused later
        found = fit(telephone, Planned(highest_hz=highest_hz))
        assert found.settings.features.num_mels == num_mels
        assert not any("log-mel ends" in line for line in found.lines(found.settings))
    found = fit(telephone)
    settings = replace(found.settings, features=replace(found.settings.features, num_mels=100))
    assert "features.highest_hz" in found.provenance(settings)["chosen_automatically"]
    assert any("log-mel ends at 4,000 Hz" in line for line in found.lines(settings))


@pytest.mark.parametrize(
    ("alphabet", "chosen"),
    [
        (" abcdeé", " 'abcdefghijklmnopqrstuvwxyzé"),
        (" αβγάς", " 'αβγάς"),
        (" дом", " 'дом"),
        (" कखि", " 'कखि"),
        (" abc", ENGLISH_ALPHABET),
        (" ABC", ENGLISH_ALPHABET),  # these the tokenizer refuses, and says what to do
        (" αβ5", " 'αβ"),
        (" abc.é", " 'abcdefghijklmnopqrstuvwxyzé"),
        (" ab-5", ENGLISH_ALPHABET),
        (" می‌شود", " 'میشود\u200c"),
        (" ab\u200d", ENGLISH_ALPHABET),
    ],
)
def test_letters_beside_a_to_z_become_the_alphabet(fit, alphabet, chosen):
    """But not upper case, digits and punctuation, which are more likely mishaps: the tokenizer refuses those lines."""
    found = fit(corpus(1, alphabet=alphabet))
    assert found.settings.tokenizer.alphabet == chosen


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"hours": 0.01}, "note: below the 4 min to 42 min that the rule was measured on"),
        ({"hours": 960.0}, "note: above the 4 min to 42 min"),
        ({"characters_a_second": 0.8}, "note: 0.8 characters a second are few"),
        ({"dev_utterances": 1}, "note: dev has 1 utterance, "),
        (
            {"alphabet": " oöu\u0308", "num_decomposed": 3},
            "note: ö: written in two ways, in 3 transcripts with accents apart",
        ),
        ({"speakers": 1}, "note: one speaker in training: "),
        ({"num_to_cut": 2}, "note: 2 utterances of more than 300 s, too long for a batch: cut"),
    ],
)
def test_what_a_user_should_know_beforehand(fit, changes, said):
    assert not [line for line in fit(corpus(0.5)).lines(SimpleNamespace()) if line.startswith("note")]
    assert any(
        line.startswith(said) for line in fit(corpus(**{"hours": 0.5, **changes})).lines(SimpleNamespace())
    )
