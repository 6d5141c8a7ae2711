"""Batch norm by two real processes against torch's own on all frames together."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import distributed, multiprocessing, nn

from seqdsd.models import FrameNorm

SHARES = {"even": (6, 6), "uneven": (1, 9), "one without frames": (7, 0)}


def frames_of(counts: tuple[int, int]) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [3 + 2 * torch.randn(count, 5, generator=generator) for count in counts]


def trained(norm: nn.Module, frames: torch.Tensor, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """Outputs, gradients of a weighted sum of them, and the statistics."""
    frames = frames.clone().requires_grad_()
    outputs = norm(frames)
    (outputs * weights).sum().backward()
    return {
        "outputs": outputs.detach(),
        "frames": frames.grad,
        "weight": norm.weight.grad,
        "bias": norm.bias.grad,
        "mean": norm.running_mean,
        "var": norm.running_var,
        "tracked": norm.num_batches_tracked,
    }


def fresh(kind: type[nn.Module]) -> nn.Module:
    norm = kind(5)
    with torch.no_grad():
        norm.weight.copy_(torch.arange(1.0, 6.0))
        norm.bias.copy_(torch.arange(5.0))
    return norm


def one_process(rank: int, folder: str, counts: tuple[int, int]) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    frames = frames_of(counts)[rank]
    weights = frames_of((sum(counts), 0))[0].split(counts)[rank]
    torch.save(trained(fresh(FrameNorm), frames, weights), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def by_two(one: Callable[..., None], *arguments: object) -> None:
    """Forked from a process that has imported torch, which takes seconds."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(
        ["seqdsd.recipes.ds1"]
    )  # as for others' runs
    multiprocessing.start_processes(one, args=arguments, nprocs=2, start_method="forkserver")


@pytest.mark.parametrize("counts", SHARES.values(), ids=SHARES)
def test_two_processes_are_as_one(tmp_path, counts):
    by_two(one_process, str(tmp_path), counts)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    weights = frames_of((sum(counts), 0))[0]
    whole = trained(fresh(nn.BatchNorm1d), torch.cat(frames_of(counts)), weights)
    for name in ("outputs", "frames"):
        torch.testing.assert_close(torch.cat((first[name], second[name])), whole[name])
    for name in ("weight", "bias"):  # each has its own share, which training adds up
        torch.testing.assert_close(first[name] + second[name], whole[name])
    for name in ("mean", "var", "tracked"):
        torch.testing.assert_close(first[name], whole[name])
        assert torch.equal(first[name], second[name])


def one_process_in_bfloat16(rank: int, folder: str) -> None:
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    frames, weights = (
        one.bfloat16() for one in (frames_of((600, 700))[rank], torch.ones(600 + 100 * rank, 5))
    )
    torch.save(trained(fresh(FrameNorm), frames, weights), Path(folder) / f"{rank}.pt")
    distributed.destroy_process_group()


def test_frames_in_bfloat16_have_statistics_in_single_precision(tmp_path):
    by_two(one_process_in_bfloat16, str(tmp_path))
    found = torch.load(tmp_path / "1.pt")
    frames = torch.cat(frames_of((600, 700))).bfloat16().float()
    assert found["outputs"].dtype == found["frames"].dtype == torch.bfloat16
    torch.testing.assert_close(found["mean"], 0.1 * frames.mean(0))
    torch.testing.assert_close(found["var"], 0.9 + 0.1 * frames.var(0))
    # Of a sum over outputs nothing depends on the frames.
    assert found["frames"].abs().max() < 0.05


def test_alone_it_is_torch_s():
    frames, weights = frames_of((8, 8))
    for name, value in trained(fresh(FrameNorm), frames, weights).items():
        assert torch.equal(value, trained(fresh(nn.BatchNorm1d), frames, weights)[name])


def test_a_frame_alone_goes_by_the_running_statistics_and_leaves_them():
    """It has no variance; torch's batch norm refuses it, which would stop a run at a very short utterance."""
    norm = fresh(FrameNorm)
    norm(torch.randn(50, 5))
    before = {name: one.clone() for name, one in norm.state_dict().items()}
    frame = torch.randn(1, 5)
    torch.testing.assert_close(norm.train()(frame), norm.eval()(frame))
    assert all(torch.equal(before[name], one) for name, one in norm.state_dict().items())
