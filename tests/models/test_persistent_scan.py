"""The recurrence as one launch: by Triton's interpreter the plain scan's numbers; a compiler that takes it; a GPU."""

import copy
import importlib
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from seqdsd import models
from seqdsd.models import FramePacking, SharedInputRNN, shared_input_rnn

pytest.importorskip("triton")

CLIP = 1.0
SHAPES = {
    "both directions": (2, 40, [9, 3, 7]),
    "forward, more units than a block": (1, 70, [5]),
    "more items than a program has": (2, 33, [*range(1, 21)]),
    "one frame each": (2, 16, [1, 1]),
}


MODULE = "seqdsd.models.persistent_scan"


@pytest.fixture
def persistent_scan(monkeypatch):
    """The kernel, interpreted: how it is run is decided as it is imported."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    # What is imported here is forgotten: as an attribute of the package, too.
    monkeypatch.setattr(models, "persistent_scan", None, raising=False)
    monkeypatch.setitem(sys.modules, MODULE, None)
    del sys.modules[MODULE]
    return importlib.import_module(MODULE)


def blocks_and_values(shape, dtype=torch.float32):
    directions, hidden, lengths = SHAPES[shape]
    torch.manual_seed(0)
    packing = FramePacking.of(torch.tensor(lengths), max(lengths), torch.device("cpu"))
    blocks = packing.time_blocks(directions)
    weight = torch.randn(directions, hidden, hidden, dtype=dtype) / hidden**0.5
    return blocks, torch.randn(len(blocks.rows), hidden, dtype=dtype), weight


@pytest.mark.parametrize("shape", SHAPES)
def test_states_and_gradients_are_those_of_the_plain_scan(persistent_scan, shape):
    blocks, inputs, weight = blocks_and_values(shape)
    states, same_states = inputs.clone(), inputs.clone()
    shared_input_rnn._scan_(states, weight, blocks, CLIP)
    persistent_scan.scan_(same_states, weight, blocks, CLIP)
    torch.testing.assert_close(same_states, states)
    assert bool((states == CLIP).any()) and bool((states == 0).any())
    deltas = torch.randn_like(states)
    same_deltas = deltas.clone()
    shared_input_rnn._scan_back_(deltas, states, weight, blocks, CLIP)
    persistent_scan.scan_back_(same_deltas, states, weight, blocks, CLIP)
    torch.testing.assert_close(same_deltas, deltas)


def test_what_is_no_number_stays_none_in_its_item_alone(persistent_scan):
    blocks, inputs, weight = blocks_and_values("both directions")
    longest_first = 0
    inputs[longest_first] = float("nan")
    states, same_states = inputs.clone(), inputs.clone()
    shared_input_rnn._scan_(states, weight, blocks, CLIP)
    persistent_scan.scan_(same_states, weight, blocks, CLIP)
    assert 0 < int(states.isnan().any(1).sum()) < len(states)
    torch.testing.assert_close(same_states, states, equal_nan=True)


def test_the_layer_has_the_same_gradients_with_it(persistent_scan, monkeypatch):
    torch.manual_seed(0)
    layer = SharedInputRNN(input_size=12, hidden_size=24, batch_norm=True, clip=CLIP)
    with_it = copy.deepcopy(layer)
    packing = FramePacking.of(torch.tensor([6, 11, 2]), 11, torch.device("cpu"))
    inputs = torch.randn(19, 12)

    def train(one):
        leaf = inputs.clone().requires_grad_()
        output = one(leaf, packing)
        output.square().sum().backward()
        return output, leaf.grad, [parameter.grad for parameter in one.parameters()]

    plain = train(layer)
    monkeypatch.setattr(shared_input_rnn, "is_persistent", lambda values, weight: True)
    torch.testing.assert_close(train(with_it), plain)


def test_its_gradients_are_those_of_finite_differences(persistent_scan, monkeypatch):
    monkeypatch.setattr(shared_input_rnn, "is_persistent", lambda values, weight: True)
    packing = FramePacking.of(torch.tensor([3, 2]), 3, torch.device("cpu"))
    torch.manual_seed(0)
    projected = torch.rand(5, 4, dtype=torch.float64, requires_grad=True)
    weight = (torch.randn(2, 4, 4, dtype=torch.float64) / 4).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda *of: shared_input_rnn._Scan.apply(*of, packing, CLIP), (projected, weight)
    )


def test_interpreted_programs_wait_for_none(persistent_scan):
    assert persistent_scan._programs(torch.device("cuda"), 256, groups=2) == 1


@pytest.mark.parametrize("hidden,programs", [(70, 2), (160, 3), (33, 2)])
def test_programs_share_the_units(persistent_scan, monkeypatch, hidden, programs):
    """Of items of one frame, which follow nothing: interpreted programs run in turn, so that none may wait."""
    monkeypatch.setattr(persistent_scan, "_programs", lambda *_, **__: programs)
    all_there = torch.full((2,), 1000, dtype=torch.int32)
    monkeypatch.setattr(persistent_scan.torch, "zeros", lambda *_, **__: all_there)
    packing = FramePacking.of(torch.ones(3, dtype=torch.long), 1, torch.device("cpu"))
    blocks = packing.time_blocks(2)
    states = torch.randn(6, hidden)
    expected = states.clamp(0, CLIP)
    persistent_scan.scan_(states, torch.randn(2, hidden, hidden), blocks, CLIP)
    torch.testing.assert_close(states, expected)


def test_a_matrix_may_lie_in_memory_as_it_likes(persistent_scan):
    blocks, inputs, weight = blocks_and_values("both directions")
    directions_last = weight.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    states, same_states = inputs.clone(), inputs.clone()
    persistent_scan.scan_(states, weight, blocks, CLIP)
    persistent_scan.scan_(same_states, directions_last, blocks, CLIP)
    torch.testing.assert_close(same_states, states)


COMPILED = """
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from seqdsd.models import persistent_scan as scan

kinds = dict(values="*fp32", states="*fp32", weight="*fp32", starts="*i64", active="*i64", arrived="*i32")
kinds |= dict.fromkeys(("num_steps", "hidden", "stride_direction", "stride_out"), "i32") | {"clip": "fp32"}
sizes = dict(ITEMS=scan.ITEMS, UNITS=scan.UNITS, INPUTS=scan.INPUTS, stride_in=1)
# What is known of usual sizes: addresses and widths are multiples of 16.
names = scan._scan.arg_names
usual = {(names.index(one),): [["tt.divisibility", 16]] for one in kinds if one not in ("num_steps", "clip")}
for generation, is_backward, programs, known in (
    (80, False, 8, usual), (90, True, 8, usual), (90, False, 1, usual), (90, False, 8, {})
):
    fixed = sizes | {"BACKWARD": is_backward, "PROGRAMS": programs}
    source = ASTSource(scan._scan, kinds | dict.fromkeys(fixed, "constexpr"), fixed, known)
    made = compile(source, target=GPUTarget("cuda", generation, 32), options={"launch_cooperative_grid": programs > 1})
    ptx = made.asm["ptx"]
    assert made.asm["cubin"] and ("acquire" in ptx and "release" in ptx) == (programs > 1)
    print(generation, is_backward, made.metadata.shared, int("cp.async.cg" in ptx))
"""


def test_it_compiles_for_gpus_that_are_not_here(monkeypatch, tmp_path):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 4 and all(int(shared) <= 96 * 1024 for *_, shared, _ in rows)
    assert [past_the_own_cache for *_, past_the_own_cache in rows] == ["1", "1", "1", "0"]


def test_it_is_for_single_precision_on_cuda_and_has_to_be_asked_for(monkeypatch):
    monkeypatch.delenv(shared_input_rnn.PERSISTENT, raising=False)
    with FakeTensorMode():
        on_cuda = torch.empty(1, device="cuda")
        assert not shared_input_rnn.is_persistent(on_cuda, on_cuda)
        monkeypatch.setenv(shared_input_rnn.PERSISTENT, "1")
        assert shared_input_rnn.is_persistent(on_cuda, on_cuda)
        assert not shared_input_rnn.is_persistent(on_cuda.double(), on_cuda.double())
        assert not shared_input_rnn.is_persistent(on_cuda, on_cuda.bfloat16())
        assert not shared_input_rnn.is_persistent(on_cuda.cpu(), on_cuda.cpu())


def test_checks_of_types_leave_the_kernel_as_triton_reads_it(monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    module = importlib.import_module(MODULE)
    assert module._scan.fn.__globals__ is vars(module)


@pytest.mark.parametrize(
    ("hidden", "groups", "expected"),
    [(1760, 4, 28), (1760, 2, 55), (256, 2, 8), (256, 200, 1), (33, 2, 2)],
    ids=[
        "two blocks each",
        "one each",
        "all at once",
        "more groups than processors",
        "a little more than one",
    ],
)
def test_programs_have_as_many_units_each_and_a_processor_each(hidden, groups, expected, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    module = importlib.import_module(MODULE)
    h200 = SimpleNamespace(multi_processor_count=132)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: h200)
    assert module._programs(torch.device("cuda"), hidden, groups=groups) == expected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize(
    "hidden,items,frames,bidirectional",
    [
        (256, 32, 100, True),
        (70, 5, 100, True),
        (1024, 32, 100, False),
        (1760, 40, 100, True),
        (64, 1100, 12, True),
    ],
)
def test_on_a_gpu_it_has_the_plain_scans_numbers(hidden, items, frames, bidirectional, monkeypatch):
    torch.manual_seed(0)
    device = torch.device("cuda")
    layer = SharedInputRNN(input_size=64, hidden_size=hidden, bidirectional=bidirectional, clip=CLIP).to(
        device
    )
    lengths = torch.linspace(frames // 5, frames, items).long()
    packing = FramePacking.of(lengths, frames, device)
    inputs = torch.randn(int(lengths.sum()), 64, device=device)
    found = []
    for asked in ("0", "1"):
        monkeypatch.setenv(shared_input_rnn.PERSISTENT, asked)
        layer.zero_grad()
        output = layer(inputs, packing)
        output.square().mean().backward()
        found.append((output.detach(), *(parameter.grad.clone() for parameter in layer.parameters())))
    torch.testing.assert_close(found[1], found[0], rtol=1e-3, atol=1e-5)
    assert apart(found[0][0], found[1][0]) <= 1e-5


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("hidden", [70, 1024, 1760])
def test_on_a_gpu_no_program_runs_ahead_of_another(hidden):
    """Nothing is added up in an order of chance, so that numbers that differ were read too early."""
    module = importlib.import_module(MODULE)
    torch.manual_seed(0)
    device = torch.device("cuda")
    packing = FramePacking.of(torch.linspace(20, 200, 40).long(), 200, device)
    blocks = packing.time_blocks(2)
    inputs, grads = (torch.randn(len(blocks.rows), hidden, device=device) for _ in range(2))
    weight = torch.randn(2, hidden, hidden, device=device) / hidden**0.5
    found = []
    for _ in range(20):
        states, deltas = inputs.clone(), grads.clone()
        module.scan_(states, weight, blocks, CLIP)
        module.scan_back_(deltas, states, weight, blocks, CLIP)
        found.append((states, deltas))
    for states, deltas in found[1:]:
        assert torch.equal(states, found[0][0]) and torch.equal(deltas, found[0][1])
    # Of the same states, so that the same ones are clamped: one wait that is missed is apart by 1e-3.
    states, deltas = found[0]
    shared_input_rnn._scan_back_(grads, states, weight, blocks, CLIP)
    assert apart(grads, deltas) <= 1e-5
    shared_input_rnn._scan_(inputs, weight, blocks, CLIP)
    assert apart(inputs, states) <= 1e-5
