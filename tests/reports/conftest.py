"""Runs written by hand, one and whole comparisons, and a real browser to open their pages in."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import tomli_w
from PIL import Image

from seqdsd.metrics import bleu, cer, wer
from seqdsd.records import RunFolder, write_json_lines

PHASES = ("Dense Iter 0", "Sparse Iter 1", "Dense Iter 1")

# DSD paper, Table 5: BLEU-1 to 4, sparsity, epochs, learning rate.
TABLE_5 = (
    ((57.2, 38.6, 25.4, 16.8), 0.0, 19, 1e-2),
    ((58.4, 39.7, 26.3, 17.5), 0.8, 10, 1e-3),
    ((59.2, 40.7, 27.4, 18.5), 0.0, 6, 1e-4),
)

# Image: (references, caption of each phase). One gains, one loses, one stays, one changes and stays.
CAPTIONS = {
    "gain.jpg": (
        ["a girl in a pink dress is on a swing", "a child swings"],
        [
            "a boy is standing on a rock wall",
            "a girl is on a rock wall",
            "a girl in a pink dress is on a swing",
        ],
    ),
    "loss.jpg": (
        ["a dog runs through the grass"],
        ["a dog runs through the grass", "a dog runs", "a cat sleeps on the sofa"],
    ),
    "same.jpg": (["two boys playing soccer"], ["two boys playing football"] * 3),
    "swap.jpg": (["a surfer rides a wave"], ["nothing here", "nothing there", "nobody there"]),
}


def phase_record(index: int, **scores: Any) -> dict[str, Any]:
    """A phase's record as the engine writes it, with the paper's numbers."""
    bleu, sparsity, epochs, learning_rate = TABLE_5[index]
    metrics = {f"neuraltalk_bleu{order}": value for order, value in enumerate(bleu, start=1)}
    metrics |= {f"bleu{order}": value - 1 for order, value in enumerate(bleu, start=1)}
    metrics |= {"brevity_penalty": 1.0, "cider_d": 0.5, "rouge_l": 0.4, "decoding": "greedy"}
    return {
        "index": index,
        "name": PHASES[index],
        "kind": ("dense", "sparse", "redense")[index],
        "epochs": epochs,
        "learning_rate": learning_rate,
        "sparsity": sparsity,
        "measured_sparsity": sparsity,
        "best_epoch": 1,
        "train_loss": [1.0] * epochs,
        "dev_score": [-bleu[3]] * epochs,
        "dev": dict(metrics),
        "test": metrics,
        "train_seconds": 60.0,
    }


def write_run(folder: Path, captions: dict[str, tuple[list[str], list[str]]]) -> RunFolder:
    """A finished run whose phases said ``captions`` of drawn images, listed in ``images.jsonl``."""
    run = RunFolder(folder)
    run.write_phases(phase_record(index) for index in range(len(PHASES)))
    for index, phase in enumerate(PHASES):
        rows = [{"id": id_, "refs": refs, "hyp": said[index]} for id_, (refs, said) in captions.items()]
        for split in ("dev", "test"):
            write_json_lines(run.hypotheses(phase, split), rows)
    run.config.write_text(
        'seed = 7\n[provenance]\ncommand = "python -m seqdsd.recipes.neuraltalk --seed 7"\nseed = 7\n'
        'git_commit = "789f74b51f27"\n[provenance.versions]\nseqdsd = "0.1.0"\n'
    )
    (folder / "drawn").mkdir()
    paths = []
    for number, id_ in enumerate(captions):
        path = Path("drawn") / f"{number}.png"  # relative to the run's folder, and unlike the id
        Image.new("RGB", (48, 32), (40 * number, 90, 160)).save(folder / path)
        paths.append({"id": id_, "path": str(path)})
    write_json_lines(folder / "images.jsonl", paths)
    return run


@pytest.fixture
def make_caption_run(tmp_path) -> Callable[..., RunFolder]:
    """Writes a run of other captions."""
    return lambda captions, name="run": write_run(tmp_path / name, captions)


@pytest.fixture
def caption_run(make_caption_run) -> RunFolder:
    """The run of ``CAPTIONS``."""
    return make_caption_run(CAPTIONS)


# A comparison of arms and seeds, written by hand

ARMS = {
    "dense": ("dsd", 0),
    "baseline": ("baseline", 2),
    "llr": ("llr", 2),
    "dsd": ("dsd", 1),
    "dsdsd": ("dsd", 2),
}
"""Folder of an arm: its method and rounds, as ``seqdsd compare`` writes them."""
SPOKEN = (
    "one two three four five",
    "go on",
    "rubout c m u",
    "stop",
    "erase five o nine",
    "yes",
    "enter six seven",
)
NUM_ITEMS = 42
LENGTHS = (4, 2, 2, 2, 2)
RATES = (2e-3, 1e-3, 5e-4, 2.5e-4, 1e-4)
SPARSITIES = (0.5, 0.25)

# Wrong words in 120 (or captions in 42) after an arm's last phase, by seed; earlier phases have 6 (or 3) more each.
WRONG = {
    "baseline": (20, 22, 19, 23, 21),
    "llr": (19, 22, 18, 21, 22),
    "dsd": (18, 19, 17, 20, 18),
    "dsdsd": (15, 16, 13, 17, 14),
}


def arm_phases(arm: str) -> list[tuple[str, str, int, float, float]]:
    """Name, kind, epochs, learning rate and sparsity of an arm's phases."""
    method, iters = ARMS[arm]
    if method == "baseline":
        return [("Baseline", "dense", sum(LENGTHS), RATES[0], 0.0)]
    named = [("Dense Iter 0", "dense", 0.0)]
    for number in range(1, iters + 1):
        named += [
            (f"Sparse Iter {number}", "sparse", SPARSITIES[number - 1]),
            (f"Dense Iter {number}", "redense", 0.0),
        ]
    if method == "llr":
        named = [named[0], *((f"LLR Phase {index}", "dense", 0.0) for index in range(1, len(named)))]
    return [
        (*one[:2], epochs, rate, one[2]) for one, epochs, rate in zip(named, LENGTHS, RATES, strict=False)
    ]


def num_wrong(arm: str, seed: int, index: int, kind: str) -> int:
    """Of a phase: the dense phase is the same one in all arms that have it, and DSDSD goes on from DSD."""
    step, last = (6, 3)[kind != "speech"], len(arm_phases(arm)) - 1
    if arm == "baseline":
        return WRONG[arm][seed % 5]
    if index == 0:
        return WRONG["baseline"][seed % 5] + 2 * step
    if arm == "dsdsd" and index < 3:
        arm, last = "dsd", 2
    return WRONG[arm][seed % 5] + step * (last - index)


def spoken_rows(wrong: int, random: Random) -> list[dict[str, Any]]:
    """Utterances of which ``wrong`` words are misheard."""
    refs = [SPOKEN[number % len(SPOKEN)].split() for number in range(NUM_ITEMS)]
    places = [(item, word) for item, ref in enumerate(refs) for word in range(len(ref))]
    misheard = set(random.sample(places, wrong))
    return [
        {
            "id": f"u{item:02d}",
            "ref": " ".join(ref),
            "hyp": " ".join("uh" if (item, word) in misheard else one for word, one in enumerate(ref)),
        }
        for item, ref in enumerate(refs)
    ]


def captioned_rows(wrong: int, random: Random) -> list[dict[str, Any]]:
    """Images of which ``wrong`` have a caption that is half right."""
    misseen = set(random.sample(range(NUM_ITEMS), wrong))
    scenes = [
        f"a {colour} {shape} on white paper"
        for colour in ("red", "green", "blue")
        for shape in ("cube", "ball")
    ]
    return [
        {
            "id": f"{item:02d}.png",
            "refs": [scenes[item % 6], f"there is {scenes[item % 6]}"],
            "hyp": "a pink thing on white paper" if item in misseen else scenes[item % 6],
        }
        for item in range(NUM_ITEMS)
    ]


def classed_rows(wrong: int, random: Random) -> list[dict[str, Any]]:
    """Images of seven classes, of which ``wrong`` are taken for the next class."""
    mistaken = set(random.sample(range(NUM_ITEMS), wrong))
    return [
        {
            "id": f"test/class {item % 7}/{item:02d}.png",
            "ref": f"class {item % 7}",
            "hyp": f"class {(item + (item in mistaken)) % 7}",
            "top5": [{"class": f"class {(item + 1 + n) % 7}", "probability": 0.2} for n in range(5)],
        }
        for item in range(NUM_ITEMS)
    ]


def scores_of(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The scores that the rows give, as the tasks record them."""
    hyps = [row["hyp"] for row in rows]
    if "top5" in rows[0]:
        wrong = sum(row["hyp"] != row["ref"] for row in rows)
        counts = {"top1_errors": wrong, "top5_errors": wrong // 4, "images": len(rows)}
        rates = {"top1_error": wrong / len(rows), "top5_error": wrong // 4 / len(rows)}
        return {**rates, **counts, "signature": "classes:7|images:3x32x32|seen:centre"}
    if "ref" in rows[0]:
        words, characters = (count([row["ref"] for row in rows], hyps) for count in (wer, cer))
        edits = ("hits", "substitutions", "deletions", "insertions")
        counts = {name: getattr(words, name) for name in (*edits, "ref_words")}
        return {
            "wer": words.rate,
            "cer": characters.rate,
            **counts,
            "utterances": len(rows),
            "signature": words.signature,
        }
    standard = bleu([row["refs"] for row in rows], hyps)
    variants = {"": standard, "neuraltalk_": standard.without_brevity_penalty()}
    return {
        **{
            f"{prefix}bleu{n}": getattr(one, f"bleu{n}")
            for prefix, one in variants.items()
            for n in (1, 2, 3, 4)
        },
        "brevity_penalty": standard.brevity_penalty,
        "cider_d": 0.5,
        "rouge_l": 0.4,
        "decoding": "greedy",
        "images": len(rows),
        "signature": standard.signature,
    }


ROWS = {"speech": spoken_rows, "captions": captioned_rows, "classification": classed_rows}
SETTINGS = {
    "speech": ("ds1", "data/an4", {}),
    "captions": ("neuraltalk", "data/flickr8k", {}),
    "classification": ("vision", "data/cifar10", {"network": "resnet20"}),
}
"""Recipe, data and further settings of a kind's runs."""


@cache
def judged(kind: str, wrong: int, random_seed: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a phase says, and its scores."""
    rows = ROWS[kind](wrong, Random(random_seed))
    return rows, scores_of(rows)


def layer_row(moment: int, name: str, weights: int) -> dict[str, Any]:
    """A layer at one of the five moments: a triangle, its middle cut out, and spread again."""
    counts = [0] * 101
    for number in range(weights):
        counts[50 + (number % 40) - (number // 40) % 40] += 1
    if moment in (1, 2, 3):
        cut = sum(counts[40:61])
        counts[40:61] = [0] * 10 + [cut] + [0] * 10
    pruned = weights // 2
    return {
        "name": name,
        "shape": [weights // 10, 10],
        "weights": weights,
        "low": -0.5,
        "high": 0.5,
        "histogram": counts,
        "threshold": 0.1,
        "zeros": pruned if moment in (1, 2, 3) else 0,
        "mean": 0.001,
        "sd": 0.1,
        "mean_abs": 0.08 - 0.01 * moment,
        "pruned": pruned,
        "pruned_mean_abs": (0.05, 0.0, 0.0, 0.0, 0.03)[moment],
        "kept_mean_abs": 0.15,
        "pruned_near_zero": pruned if moment < 4 else pruned - 7,
    }


def write_weights(run: RunFolder, iters: int) -> None:
    """Two layers at the five moments of each round."""
    moments = (
        ("before pruning", "Sparse"),
        ("after pruning", "Sparse"),
        ("after sparse retraining", "Sparse"),
        ("after restoring", "Dense"),
        ("after redense retraining", "Dense"),
    )
    rows = (
        {
            "round": number,
            "moment": moment,
            "phase": f"{phase} Iter {number}",
            "seconds": 0.01,
            "layers": [layer_row(index, "fc.weight", 400), layer_row(index, "rnn.weight", 1000)],
        }
        for number in range(1, iters + 1)
        for index, (moment, phase) in enumerate(moments)
    )
    write_json_lines(run.weight_statistics, rows)
    plan = [("fc.weight", 400, "fc.*", 0.5), ("rnn.weight", 1000, "rnn.*", 0.5), ("fc.bias", 10, None, 0.0)]
    rows = (
        {
            "parameter": name,
            "shape": [count // 10, 10],
            "count": count,
            "rule": rule,
            "why": "asked for" if rule else "matched by no rule",
            "sparsity_by_phase": {
                f"Sparse Iter {n}": share and SPARSITIES[n - 1] for n in range(1, iters + 1)
            },
        }
        for name, count, rule, share in plan
    )
    write_json_lines(run.plan, rows)


def write_arm(folder: Path, arm: str, seed: int, *, kind: str = "speech", **settings: Any) -> RunFolder:
    """The complete run folder of an arm and seed; ``settings`` are further ones of ``config.toml``."""
    (method, iters), run = ARMS[arm], RunFolder(folder)
    records = []
    trained = [("dsd" if arm == "dsdsd" and index < 3 else arm) for index in range(5)]  # and by whom it was
    trained[0] = arm if arm == "baseline" else "dense"
    for index, (name, phase_kind, epochs, rate, sparsity) in enumerate(arm_phases(arm)):
        wrong = num_wrong(arm, seed, index, kind)
        rows, scores = judged(kind, wrong, f"{trained[index]}{seed}{index}")
        for split in ("dev", "test"):
            write_json_lines(run.hypotheses(name, split), rows)
        score = (
            -scores["bleu4"] if kind == "captions" else scores["wer" if kind == "speech" else "top1_error"]
        )
        is_own = trained[index] == arm
        records.append(
            {
                **({} if is_own else {"taken_over_from": str(folder.parent / trained[index])}),
                "index": index,
                "name": name,
                "kind": phase_kind,
                "epochs": epochs,
                "epochs_planned": epochs,
                "best_epoch": epochs,
                "learning_rate": rate,
                "sparsity": sparsity,
                "measured_sparsity": sparsity,
                "train_loss": [40.0 / (index + 1) / (epoch + 1) for epoch in range(epochs)],
                "dev_loss": [44.0 / (index + 1) / (epoch + 1) for epoch in range(epochs)],
                "dev_score": [score + 0.01 * (epochs - 1 - epoch) for epoch in range(epochs)],
                "dev": scores,
                "test": scores,
                "train_seconds": 30.0 * epochs,
                "evaluate_seconds": 2.0 * epochs,
                "statistics_seconds": 0.02,
                "skipped": 0,
                "nonfinite_steps": 0,
            }
        )
    run.write_phases(records)
    recipe, data, more = SETTINGS[kind]
    if method == "dsd" and iters:
        write_weights(run, iters)
    values = {
        "data": data,
        "out": str(folder),
        "iters": iters,
        "epochs": list(LENGTHS),
        "hidden_size": 32,
        "seed": seed,
        "learning_rates": list(RATES),
        "sparsities": list(SPARSITIES),
        "method": method,
        "optimizer": {"momentum": 0.9, "anneal": 1.05 if arm == "baseline" else 1.0},
        **more,
        **settings,
    }
    provenance = {
        "recipe": recipe,
        "format": 1,
        "threads": 1,
        "command": f"python -m seqdsd.recipes.ds1 --out {folder.name} --seed {seed} --method {method}",
        "seed": seed,
        "started": "2026-11-22T15:05:48+00:00",
        "python": "3.11.7",
        "machine": "Linux x86_64, a processor, 2 CPUs",
        "git_commit": "6f7db7ee1d90",
        "versions": {"seqdsd": "0.1.0", "torch": "2.14.1"},
    }
    run.config.write_text(tomli_w.dumps({**values, "provenance": provenance}))
    return run


def write_comparison(
    folder: Path, *, kind: str = "speech", seeds: Sequence[int] = range(5), arms: Sequence[str] = tuple(ARMS)
) -> Path:
    """``FOLDER/seed-N/ARM``, every arm complete."""
    for seed in seeds:
        for arm in arms:
            write_arm(folder / f"seed-{seed}" / arm, arm, seed, kind=kind)
    return folder


@pytest.fixture(scope="session")
def comparison(tmp_path_factory) -> Path:
    """A comparison on speech of five seeds, to be looked at only."""
    return write_comparison(tmp_path_factory.mktemp("comparisons") / "an4")


@pytest.fixture(scope="session")
def caption_comparison(tmp_path_factory) -> Path:
    """A comparison on captions of three seeds, to be looked at only."""
    return write_comparison(
        tmp_path_factory.mktemp("comparisons") / "flickr8k", kind="captions", seeds=range(3)
    )


@pytest.fixture(scope="session")
def class_comparison(tmp_path_factory) -> Path:
    """A comparison of classifiers of three seeds, to be looked at only."""
    folder = tmp_path_factory.mktemp("comparisons") / "cifar10"
    return write_comparison(folder, kind="classification", seeds=range(3))


@pytest.fixture
def make_comparison(tmp_path) -> Callable[..., Path]:
    """Writes a comparison (``kind``, ``seeds``, ``arms``) that a test may change."""
    return lambda name="comparison", **settings: write_comparison(tmp_path / name, **settings)


@pytest.fixture
def make_arm(tmp_path) -> Callable[..., RunFolder]:
    """Writes one arm's run folder: its place below ``tmp_path``, arm, seed, and settings to change."""
    return lambda place, arm, seed=0, **settings: write_arm(tmp_path / place, arm, seed, **settings)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium: the system's, since playwright's own is a download."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no Chromium on this machine (Debian: apt install chromium)")
    with playwright.sync_playwright() as started:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        chromium = started.chromium.launch(executable_path=program, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def open_page(browser, tmp_path) -> Iterator[Callable[..., Any]]:
    """Opens a page from a file; the test fails where the browser complains, or asks for anything but files."""
    complaints: list[str] = []
    contexts: list[Any] = []

    def open_(html: str, **settings: Any) -> Any:
        path = tmp_path / "page.html"
        path.write_text(html, encoding="utf-8")
        contexts.append(browser.new_context(**settings))
        page = contexts[-1].new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith(("file:", "data:")) else complaints.append(request.url)
            ),
        )
        page.goto(path.as_uri())
        return page

    yield open_
    for context in contexts:
        context.close()
    assert complaints == []
