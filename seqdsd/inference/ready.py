"""Networks that come with the package, by their names; ``seqdsd models`` lists them and writes their model cards.

What is said of a network stands in its file's header alone. Left out: networks that would have to be fetched.
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from msgspec import Struct
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from seqdsd.compression import FileSizes, file_sizes
from seqdsd.compression.header import AGAIN
from seqdsd.inference.model_files import READY, SUFFIX, SavedFile
from seqdsd.kinds import CAPTIONS, CLASSIFICATION, KIND_OF_RECIPE, SPEECH, Kind
from seqdsd.printable import printable
from seqdsd.recipes.command import run_command
from seqdsd.records import RunFolderError, checked, is_test_split

PROG = "seqdsd models"
_DESCRIPTION = """List the networks that come with the package, or write the model card of one.

Their names stand wherever a command or seqdsd.load takes a run: seqdsd classify mnist-lenet300 digit.png. A run or
file of the same name comes first.

Examples:
  seqdsd models
  seqdsd models mnist-lenet300
  seqdsd models mnist-lenet300 --card > card.md
  seqdsd models runs/mine.dsdz --card
  seqdsd models --json
"""
MAX_ABOUT_BYTES = 2**16
"""Of a TOML file, all of which goes into the header."""
_USE = {SPEECH.name: "transcribe", CAPTIONS.name: "caption", CLASSIFICATION.name: "classify"}
_ITEM = {SPEECH.name: "recording.wav", CAPTIONS.name: "photo.jpg", CLASSIFICATION.name: "image.png"}


def usual_command(kind: Kind, where: str) -> str:
    """What a network of a kind is used by, for messages; ``where`` is as a command takes it."""
    return f"seqdsd {_USE[kind.name]} {where} {_ITEM[kind.name]}"


class About(Struct, forbid_unknown_fields=True):
    """What the maker of a file says of it: ``seqdsd compress --about`` reads it, a model card shows it.

    Attributes:
        title: What it is, in a sentence.
        corpus: What it was trained on.
        terms: Of that corpus.
        licence: Of the file.
        use: What it is meant for.
        limits: What it cannot do, or was not tried at.
        commands: All that made it, from the corpus as it is published on.
    """

    title: str = ""
    corpus: str = ""
    terms: str = ""
    licence: str = ""
    use: str = ""
    limits: str = ""
    commands: list[str] = []


def read_about(path: Path) -> dict[str, Any]:
    """What a TOML file says of a network, for ``write_model``.

    Raises:
        ValueError: If there is none, it is larger than a header should be, or it has other members than ``About``.
    """
    try:
        if path.stat().st_size > MAX_ABOUT_BYTES:
            raise ValueError(
                f"{path}: larger than {MAX_ABOUT_BYTES:,} bytes; shorten it, the file is to be small"
            )
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from error
    except (UnicodeError, tomllib.TOMLDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as TOML: {error}") from error
    checked(values, About, str(path), remedy=f"its members may be {', '.join(About.__struct_fields__)}")
    return values


def read_described(path: Path) -> SavedFile:
    """A file whose header can be shown: what it says of ``About``'s members is of their types.

    Raises:
        ValueError: See ``SavedFile.read``; or it is not.
    """
    saved = SavedFile.read(located(path))
    said = {name: saved.about[name] for name in About.__struct_fields__ if name in saved.about}
    checked(said, About, f"{saved.path}: its header", remedy=AGAIN.removeprefix("; "))
    return saved


def ready_files() -> dict[str, Path]:
    """The files that come with the package, by name."""
    return {path.stem: path for path in sorted(READY.glob(f"*{SUFFIX}"))}


def located(path: Path) -> Path:
    """The file of a ready network, where that is what a path names; a run or file that is there comes first.

    Raises:
        RunFolderError: If it is a bare name, and neither is there.
    """
    files = ready_files()
    is_name = str(path) == path.name and path.suffix in ("", SUFFIX)
    if not is_name or path.exists():
        return path
    if str(path) not in files:
        raise RunFolderError(
            f"{path}: not a run folder, nor a file, nor one of the networks that come with the package "
            f"({', '.join(files) or 'none'}; seqdsd models says what they are)"
        )
    return files[str(path)]


@dataclass(frozen=True)
class Models:
    """What to show."""

    name: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[NAME]")] = None
    """One of those listed, or a .dsdz file; without it all are listed."""
    card: bool = False
    """Write the model card, in Markdown."""
    json: bool = False
    """Print JSON: a list of what the headers say, or of the one that is named."""

    def __post_init__(self) -> None:
        if self.card and (self.name is None or self.json):
            raise ValueError("card: of one network, without --json; name it")


def main(argv: Sequence[str]) -> None:
    """Entry point of ``seqdsd models``."""

    def parse_and_run() -> None:
        asked = tyro.cli(
            Models, prog=PROG, description=_DESCRIPTION, args=argv, config=(tyro.conf.FlagCreatePairsOff,)
        )
        if asked.name is None:
            networks = {name: read_described(path) for name, path in ready_files().items()}
        else:
            networks = {asked.name.stem: read_described(asked.name)}
        if asked.card:
            [(name, saved)] = networks.items()
            print(card(name, saved), end="")
        elif asked.json:
            print(json.dumps([as_object(name, saved) for name, saved in networks.items()]))
        else:
            show(networks, Console())

    run_command(parse_and_run)


def as_object(name: str, saved: SavedFile) -> dict[str, Any]:
    """What a file's header says of the network, for JSON."""
    about, kind = saved.about, _kind(saved)
    return {
        "name": name,
        "path": str(saved.path),
        "kind": kind.name,
        "network": _network(saved),
        "size_bytes": saved.file.size_bytes,
        "dense_bytes": _dense_bytes(saved),
        "phase": about["phase"],
        "scores": about.get("scores", {}),
        "data": about["data"],
        **{member: about.get(member) for member in About.__struct_fields__},
        "command": about["provenance"].get("command"),
        "provenance": about["provenance"],
    }


def show(networks: Mapping[str, SavedFile], console: Console) -> None:
    """Print a row a network; below, the terms of each one's data, and what made it."""
    table = Table("name", "network", "score", "KB", "trained on", box=box.SIMPLE, pad_edge=False)
    table.columns[0].no_wrap = True
    table.columns[3].justify = "right"
    for name, saved in networks.items():
        size = f"{saved.file.size_bytes / 1000:.0f}"
        cells = (name, _network(saved), ", ".join(_scores(saved)), size, _corpus(saved))
        table.add_row(*(escape(printable(cell)) for cell in cells))
    console.print(table)
    for name, saved in networks.items():
        terms = saved.about.get("terms")
        said = [
            f"{name}: {saved.about.get('title') or ''}".rstrip(),
            f"  use:   {_use(name, saved)}",
            *([f"  terms: {terms}"] if terms else []),
            "  made by:",
        ]
        for line in (*said, *(f"    {command}" for command in _commands(saved))):
            console.print(printable(line), highlight=False, markup=False, soft_wrap=True)


def card(name: str, saved: SavedFile) -> str:
    """A model card in Markdown, of what the file's header says and of its own bytes."""
    about, sizes = saved.about, file_sizes(saved.file)
    lines = [
        *_head(name, saved),
        *_scores_table(name, saved),
        *_said(about),
        *_sizes_table(sizes),
        *_made(saved),
    ]
    return "\n".join(lines)


def _head(name: str, saved: SavedFile) -> Iterator[str]:
    about = saved.about
    yield f"# {_text(name)}\n"
    if about.get("title"):
        yield f"{_text(about['title'])}\n"
    dense = _dense_bytes(saved)
    facts = {
        "network": _network(saved),
        "use": f"`{_use(name, saved)}`",
        "size": f"{saved.file.size_bytes:,} bytes, {dense / saved.file.size_bytes:.1f} times smaller than in float32",
        "pruned": f"{about['phase']['measured_sparsity']:.1%} of the weights of its pruned layers",
        "trained on": _corpus(saved),
        "terms of the data": about.get("terms"),
        "licence": about.get("licence"),
    }
    yield from _markdown(("", ""), ([one, fact] for one, fact in facts.items() if fact))


def _scores_table(name: str, saved: SavedFile) -> Iterator[str]:
    kind, scores = _kind(saved), saved.about.get("scores", {})
    yield "\n## Scores\n"
    if not scores:
        yield "None are known."
        return
    metrics = [one for one in kind.metrics if any(one.key in split for split in scores.values())]
    titles = [f"{one.title}{one.unit and ' ' + one.unit}" for one in metrics]
    rows = [
        [
            split,
            *(one.written(found.get(one.key)) for one in metrics),
            found.get(kind.counted, ""),
            found.get("signature", ""),
        ]
        for split, found in scores.items()
    ]
    yield from _markdown(("set", *titles, f"{kind.item}s", "signature"), rows)
    data = "" if saved.about["data"] is None else " --data DATA"
    features = saved.about["settings"].get("features")
    # A captioner's; a recogniser's are settings of its own.
    given = f" --features {shlex.quote(Path(features).name)}" if isinstance(features, str) else ""
    yield f"\nAs found by `seqdsd evaluate {_where(name, saved)}{data}{given}`."
    if given:
        yield "From the images themselves scores may be others: the features in it were made elsewhere."


def _said(about: Mapping[str, Any]) -> Iterator[str]:
    for member, title in (("use", "What it is for"), ("limits", "What it is not for")):
        if about.get(member):
            yield f"\n## {title}\n\n{_text(about[member])}"


def _sizes_table(sizes: FileSizes) -> Iterator[str]:
    yield "\n## What its bytes go into\n"
    shared = [row for row in sizes.rows if row.coding != "raw"]
    dense = [row for row in sizes.rows if row.coding == "raw"]
    rows: list[list[Any]] = [
        [
            row.name,
            f"{row.weights:,}",
            f"{row.density:.1%}",
            f"{row.shared_code_bits:.1f} → {row.code_bits:.1f}",
            f"{row.shared_index_bits:.1f} → {row.index_bits:.1f}",
            f"{row.size_bytes:,}",
        ]
        for row in shared
    ]
    if dense:
        together = (
            f"{sum(row.weights for row in dense):,}",
            "",
            "",
            "",
            f"{sum(row.size_bytes for row in dense):,}",
        )
        rows.append([f"{len(dense)} dense tensors", *together])
    rows += [
        ["header", "", "", "", "", f"{sizes.header_bytes:,}"],
        ["all", "", "", "", "", f"{sizes.size_bytes:,}"],
    ]
    yield from _markdown(("layer", "weights", "kept", "code bits", "index bits", "bytes"), rows)
    yield "\nBits of each kept weight: after pruning and weight sharing → in the file."


def _made(saved: SavedFile) -> Iterator[str]:
    noted = saved.about["provenance"]
    yield "\n## How it was made\n\n```sh"
    yield from (printable(command).replace("```", "") for command in _commands(saved))
    yield "```\n"
    versions = noted.get("versions")
    with_ = [f"{one} {version}" for one, version in versions.items()] if isinstance(versions, dict) else []
    facts = {"seed": noted.get("seed"), "commit": noted.get("git_commit"), "started": noted.get("started")}
    said = [f"{one} {fact}" for one, fact in facts.items() if fact is not None]
    yield _text(", ".join([*with_, *said])) + "\n"


def _kind(saved: SavedFile) -> Kind:
    return KIND_OF_RECIPE[saved.recipe()]


def _dense_bytes(saved: SavedFile) -> int:
    return sum(entry.dense_bytes for entry in saved.file.entries)


def _corpus(saved: SavedFile) -> str:
    return saved.about.get("corpus") or saved.about["data"] or "the embedded corpus"


def _use(name: str, saved: SavedFile) -> str:
    return usual_command(_kind(saved), _where(name, saved))


def _where(name: str, saved: SavedFile) -> str:
    """As a command takes it."""
    return name if ready_files().get(name) == saved.path else shlex.quote(str(saved.path))


def _commands(saved: SavedFile) -> list[str]:
    own = saved.about["provenance"].get("command")
    return saved.about.get("commands") or ([own] if isinstance(own, str) else [])


def _scores(saved: SavedFile) -> Iterator[str]:
    """The primary one of the test sets, or of dev where there are none."""
    scores, metric = saved.about.get("scores", {}), _kind(saved).primary
    for split in [split for split in scores if is_test_split(split)] or list(scores):
        yield f"{split} {metric.title} {metric.written(scores[split].get(metric.key))} {metric.unit}".rstrip()


def _network(saved: SavedFile) -> str:
    return _kind(saved).network_name(saved.recipe(), saved.about["settings"])


def _markdown(titles: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{'|'.join(':--' for _ in titles)}|"
    for row in rows:
        yield f"| {' | '.join(_text(cell) for cell in row)} |"


def _text(value: Any) -> str:
    """A header's text as Markdown takes it for nothing else."""
    return printable(str(value)).replace("|", r"\|").replace("<", "&lt;")
