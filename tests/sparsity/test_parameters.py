"""Names under every wrapper, and of tied weights, against the bare model's own."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import distributed, nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.distributed.fsdp import FullyShardedDataParallel
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.nn.utils import parametrizations
from torch.optim.swa_utils import AveragedModel

from seqdsd.fabric import Fabric
from seqdsd.sparsity.parameters import bare, by_alias, named_parameters

compiled = partial(torch.compile, backend="eager")


def net() -> nn.Sequential:
    """A convolution within a block, and a linear layer."""
    return nn.Sequential(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), nn.Flatten(), nn.Linear(2, 3))


@pytest.fixture
def one_process(tmp_path: Path):
    """A process group of this process alone."""
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


WRAPPINGS = {
    "compiled": compiled,
    "DataParallel": DataParallel,
    "DDP": DistributedDataParallel,
    "averaged": AveragedModel,
    "Fabric": Fabric(accelerator="cpu").setup,
    "checkpointed": checkpoint_wrapper,
    "DDP of compiled": lambda model: DistributedDataParallel(compiled(model)),
    "compiled Fabric": lambda model: compiled(Fabric(accelerator="cpu").setup(model)),
    "averaged, compiled DDP": lambda model: AveragedModel(compiled(DistributedDataParallel(model))),
}


@pytest.mark.parametrize("wrap", WRAPPINGS.values(), ids=list(WRAPPINGS))
def test_a_wrapped_model_has_its_own_names(one_process, wrap: Callable[[nn.Module], nn.Module]):
    model = net()
    wrapped = wrap(model)
    assert "0.0.weight" not in dict(nn.Module.named_parameters(wrapped))
    found = named_parameters(wrapped)
    assert [one.name for one in found] == [name for name, _ in model.named_parameters()]
    held = {id(parameter) for parameter in wrapped.parameters()}
    assert {id(one.parameter) for one in found} == held
    assert [type(one.holders[0]) for one in found] == [nn.Conv2d, nn.Conv2d, nn.Linear, nn.Linear]


@pytest.mark.parametrize("wrap", [compiled, checkpoint_wrapper, DataParallel])
def test_wrappers_within_a_model(wrap: Callable[[nn.Module], nn.Module]):
    model = net()
    names = [name for name, _ in model.named_parameters()]
    model[0][0], model[0] = wrap(model[0][0]), wrap(model[0])
    assert [one.name for one in named_parameters(model)] == names


def test_bare_is_the_model_itself():
    model = net()
    assert bare(model) is model
    assert bare(DataParallel(compiled(model))) is model


def test_tied_parameters_with_all_their_names_and_holders():
    model = nn.ModuleDict({"words": nn.Embedding(5, 3), "hidden": nn.Linear(3, 3), "out": nn.Linear(3, 5)})
    model["out"].weight = model["words"].weight
    model["again"] = model["hidden"]
    found = {one.name: one for one in named_parameters(model)}
    assert list(found) == ["words.weight", "hidden.weight", "hidden.bias", "out.bias"]
    assert found["words.weight"].aliases == ("words.weight", "out.weight")
    assert found["words.weight"].holders == (model["words"], model["out"])
    assert found["hidden.bias"].aliases == ("hidden.bias", "again.bias")
    every = by_alias(compiled(model))
    assert set(every) == {name for name, _ in model.named_parameters(remove_duplicate=False)}
    assert all(one.parameter is model.get_parameter(name) for name, one in every.items())
    assert found["words.weight"].parameter is model["out"].weight


def test_names_and_order_are_torchs_where_nothing_is_wrapped():
    model = nn.Transformer(4, 2, 1, 1, 4, batch_first=True)
    model.encoder.twin = model.decoder.layers[0]
    for names, unique in ((lambda one: one.aliases[:1], True), (lambda one: one.aliases, False)):
        expected = [name for name, _ in model.named_parameters(remove_duplicate=unique)]
        assert sorted(name for one in named_parameters(model) for name in names(one)) == sorted(expected)
    assert [one.name for one in named_parameters(model)] == [name for name, _ in model.named_parameters()]


@pytest.mark.parametrize(
    ("parametrize", "names"),
    [
        (parametrizations.weight_norm, ["original0", "original1"]),
        (parametrizations.spectral_norm, ["original"]),
    ],
)
def test_a_parametrized_layer_is_the_holder(parametrize: Callable[[nn.Module], nn.Module], names: list[str]):
    model = nn.Sequential(parametrize(nn.Conv1d(2, 3, 4, bias=False)))
    found = named_parameters(model)
    assert [one.name for one in found] == [f"0.parametrizations.weight.{name}" for name in names]
    assert all(one.holders == (model[0],) for one in found)


class Wrapper(nn.Module):
    """Somebody's own."""

    def __init__(self, attribute: str, model: nn.Module) -> None:
        super().__init__()
        self.add_module("stub", nn.Identity())
        self.add_module(attribute, model)


@pytest.mark.parametrize("attribute", ["module", "_module", "_orig_mod", "_fsdp_wrapped_module"])
def test_an_unknown_wrapper_is_refused_by_name(attribute: str):
    with pytest.raises(
        ValueError, match=rf"Wrapper looks like a wrapper.*\.{attribute}.*hand over that model"
    ):
        named_parameters(compiled(Wrapper(attribute, net())))
    with_its_own = Wrapper(attribute, net())
    with_its_own.scale = nn.Parameter(torch.ones(1))
    assert named_parameters(with_its_own)[0].name == "scale"
    for own in ("encoder", "_model", "_net", "_modules_of_a_kind", "model"):
        assert named_parameters(Wrapper(own, net()))[0].name == f"{own}.0.0.weight"
    assert named_parameters(nn.Sequential(Wrapper("module", net())))[0].name == "0.module.0.0.weight"


def test_what_hides_its_weights_is_refused_by_name(one_process):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one process shards nothing; scripting is deprecated
        sharded = FullyShardedDataParallel(net(), device_id=torch.device("cpu"))
        scripted = nn.Sequential(torch.jit.script(nn.Linear(1, 1)))
    with pytest.raises(ValueError, match=r"FullyShardedDataParallel.*fully_shard"):
        named_parameters(sharded)
    with pytest.raises(ValueError, match=r"RecursiveScriptModule.*made from"):
        named_parameters(scripted)
