"""Captions in TensorBoard, read back with TensorBoard's own reader."""

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from seqdsd.recipes.caption_board import log_captions
from seqdsd.records import RunFolder, write_json_lines
from seqdsd.reports.captions.changes import read_run_captions
from seqdsd.sparsity import Schedule

REFS = ["a red square on white", "there is a square"]
# By image: the caption of each phase. The first gains most, the last loses most.
CAPTIONS = {
    "gain.png": ("a blue circle", "a red square on white"),
    "little.png": ("a red", "a red square"),
    "same.png": ("a red square", "a red square"),
    "loss.png": ("a red square on white", "green"),
}
PHASES = ("Dense Iter 0", "Sparse Iter 1")


@pytest.fixture
def run(tmp_path, phase_records) -> RunFolder:
    """Two phases; pictures of 6 x 4 pixels."""
    folder = RunFolder(tmp_path / "run")
    schedule = Schedule.dsd(1, (1,), (0.5,), (1e-3,))
    scores: dict = {f"bleu{order}": 10.0 for order in (1, 2, 3, 4)}
    scores |= {"brevity_penalty": 1.0, "cider_d": 0.5, "rouge_l": 0.4, "decoding": "greedy"}
    records = phase_records(schedule.phases[: len(PHASES)])
    folder.write_phases({**record, "dev": scores, "test": scores} for record in records)
    for phase, name in enumerate(PHASES):
        rows = ({"id": id_, "refs": REFS, "hyp": said[phase]} for id_, said in CAPTIONS.items())
        write_json_lines(folder.hypotheses(name, "test"), rows)
    paths = []
    for number, id_ in enumerate(CAPTIONS):
        path = tmp_path / id_
        Image.fromarray(np.full((4, 6, 3), 50 * number, np.uint8)).save(path)
        paths.append({"id": id_, "path": str(path)})
    write_json_lines(folder.images, paths)
    return folder


def log(run, **options) -> EventAccumulator:
    log_captions(read_run_captions(run), run.tensorboard, **options)
    return EventAccumulator(str(run.tensorboard), size_guidance={"images": 0}).Reload()


def text_of(board, id_) -> str:
    [event] = board.Tensors(f"captions/{id_}/text_summary")
    return event.tensor_proto.string_val[0].decode()


def image_tags(board) -> set[str]:
    return {tag.removeprefix("captions/") for tag in board.Tags()["images"]}


def text_tags(board) -> set[str]:
    return {tag.removeprefix("captions/").removesuffix("/text_summary") for tag in board.Tags()["tensors"]}


def test_each_image_beside_what_every_phase_said_of_it(run):
    board = log(run)
    assert image_tags(board) == text_tags(board) == set(CAPTIONS)
    lines = text_of(board, "gain.png").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    assert rows[0] == ["phase", "BLEU", "caption"]
    assert [(row[0], row[2]) for row in rows[2:]] == list(zip(PHASES, CAPTIONS["gain.png"], strict=True))
    assert rows[3][1] == "100.0" and float(rows[2][1]) < 50
    assert [f"- {ref}" for ref in REFS] == lines[-2:]


def test_the_pictures_are_the_images(run):
    board = log(run)
    for number, id_ in enumerate(CAPTIONS):
        [event] = board.Images(f"captions/{id_}")
        assert (event.width, event.height) == (6, 4)
        path = run.path / "decoded.png"
        path.write_bytes(event.encoded_image_string)
        assert np.asarray(Image.open(path)).max() == 50 * number


@pytest.mark.parametrize(
    ("count", "shown"), [(1, {"gain.png"}), (2, {"gain.png", "loss.png"}), (99, set(CAPTIONS))]
)
def test_the_largest_gains_and_losses_come_first(run, count, shown):
    assert text_tags(log(run, count=count)) == shown


def test_images_that_are_gone_or_broken_leave_their_text(run):
    folder = run.path.parent
    (folder / "gain.png").unlink()
    (folder / "loss.png").write_bytes(b"\x89PNG")
    board = log(run)
    assert image_tags(board) == {"little.png", "same.png"} and text_tags(board) == set(CAPTIONS)


def test_a_run_on_a_feature_file_alone_has_text_alone(run):
    run.images.unlink()
    board = log(run)
    assert image_tags(board) == set() and text_tags(board) == set(CAPTIONS)


def test_a_greyscale_image_and_one_with_alpha(run):
    folder = run.path.parent
    Image.new("L", (5, 7), 200).save(folder / "gain.png")
    Image.new("RGBA", (5, 7), (255, 0, 0, 0)).save(folder / "same.png")
    board = log(run)
    assert image_tags(board) == set(CAPTIONS)
    assert board.Images("captions/gain.png")[0].height == 7
