"""What DSD does in the real Trainer alone, on tiny random networks; the rest is in ``test_every_trainer.py``."""

import importlib.util
import math
import os
import shutil
import subprocess
import sys
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import peft
import pytest
import torch
import transformers
from accelerate.state import AcceleratorState, PartialState
from accelerate.utils import DistributedType
from huggingface_hub import HfApi, RepoUrl
from safetensors.torch import load_file, save_file
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.utils.data import SequentialSampler
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    get_cosine_schedule_with_warmup,
)

from seqdsd.integrations.transformers import STATE_FILE, DSDCallback
from seqdsd.sparsity import DSD, Rule, Schedule

SCHEDULE = Schedule.dsd(iters=1, epochs=(2, 2, 1), sparsities=[0.5], learning_rates=[1e-2, 5e-3, 1e-3])
RULES = [Rule("*classifier*", 0, why="the head", optional=True), Rule("*")]
TINY = {
    "vocab_size": 20,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 8,
}


def bert(kind=BertForSequenceClassification, **config) -> nn.Module:
    torch.manual_seed(0)
    return kind(BertConfig(**TINY, **config))


def sentences(num: int = 8, *, tokens_as_labels: bool = False) -> list[dict]:
    """Random tokens; even and odd ones have other labels."""
    made = torch.Generator().manual_seed(1)
    tokens = torch.randint(0, 20, (num, 8), generator=made)
    return [
        {"input_ids": one, "labels": one if tokens_as_labels else torch.tensor(index % 2)}
        for index, one in enumerate(tokens)
    ]


@pytest.fixture
def arguments(tmp_path):
    """Makes arguments of a training of as many epochs as the schedule, two steps each."""

    def make(**changes) -> TrainingArguments:
        settings = {
            "output_dir": tmp_path / "out",
            "num_train_epochs": SCHEDULE.total_epochs,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
        }
        return TrainingArguments(**{**settings, **changes})

    return make


class Watch(TrainerCallback):
    """Notes the weights that the schedule prunes, before and after every step."""

    def __init__(self, dsd: DSDCallback):
        self.dsd, self.before, self.after = dsd, [], []

    def weights(self, model):
        names = self.dsd.dsd.plans[SCHEDULE.phases[1]].sparsities
        return torch.cat([model.get_parameter(name).detach().flatten().clone() for name in names])

    def on_step_begin(self, args, state, control, *, model, **kwargs):
        self.before.append(self.weights(model))

    def on_optimizer_step(self, args, state, control, *, model, **kwargs):
        self.after.append(self.weights(model))


class FailsAt(TrainerCallback):
    """An error at the beginning of a step."""

    def __init__(self, step: int):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise RuntimeError("as asked")


def hooks(trainer: Trainer) -> int:
    """How many hooks of the kinds that hold weights there are."""
    optimizer = trainer.optimizer.optimizer
    return (
        sum(len(one._post_accumulate_grad_hooks or ()) for one in trainer.model.parameters())
        + sum(len(module._load_state_dict_post_hooks) for module in trainer.model.modules())
        + len(optimizer._optimizer_step_post_hooks)
    )


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 2))

    def forward(self, inputs, labels):
        return {"loss": nn.functional.cross_entropy(self.layers(inputs), labels)}


class InOrder(Trainer):
    def _get_train_sampler(self, *_):
        return SequentialSampler(self.train_dataset)


def assert_same_bits(one: nn.Module, other: nn.Module) -> None:
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_ends_with_the_weights_of_a_plain_loop(arguments):
    torch.manual_seed(0)
    by_trainer, by_hand = Net(), Net()
    by_hand.load_state_dict(by_trainer.state_dict())
    inputs, labels = torch.randn(24, 8), torch.randint(0, 2, (24,))
    adam = partial(torch.optim.AdamW, weight_decay=0.1)
    trainer = InOrder(
        by_trainer,
        arguments(
            gradient_accumulation_steps=2,
            max_grad_norm=0.1,
            lr_scheduler_type="cosine",
            warmup_steps=0.25,
            per_device_train_batch_size=4,
        ),
        train_dataset=[{"inputs": x, "labels": y} for x, y in zip(inputs, labels, strict=True)],
        optimizers=(adam(by_trainer.parameters(), lr=7), None),
        callbacks=[DSDCallback(SCHEDULE, RULES)],
    )
    trainer.train()

    rates = []
    dsd = DSD(by_hand, SCHEDULE, RULES)
    batches = list(zip(inputs.split(4), labels.split(4), strict=True))
    for phase in dsd.phases():
        optimizer = adam(by_hand.parameters(), lr=phase.learning_rate)
        steps = 3 * phase.phase.epochs
        scheduler = get_cosine_schedule_with_warmup(optimizer, math.ceil(steps / 4), steps)
        with dsd.hold(optimizer):
            for _ in phase.remaining_epochs:
                for first in (0, 2, 4):
                    optimizer.zero_grad()
                    for batch in batches[first : first + 2]:
                        (by_hand(*batch)["loss"] / 2).backward()
                    nn.utils.clip_grad_norm_(by_hand.parameters(), 0.1)
                    optimizer.step()
                    rates += scheduler.get_last_lr()
                    scheduler.step()
                dsd.epoch_done()
    logs = trainer.state.log_history
    assert [log["learning_rate"] for log in logs if "learning_rate" in log] == rates
    assert all(log["grad_norm"] > 0.1 for log in logs if "grad_norm" in log)  # clipped, always
    assert_same_bits(by_trainer, by_hand)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training with dropout that nothing broke, and its folder with a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("whole")
    trainer = resumable(folder)
    trainer.train()
    return trainer


def resumable(folder, schedule=SCHEDULE, rules=RULES, *, callback=None, **changes) -> Trainer:
    settings = {"num_train_epochs": schedule.total_epochs, "lr_scheduler_type": "linear", **changes}
    arguments = TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=4,
        save_steps=1,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        **settings,
    )
    callbacks = [callback or DSDCallback(schedule, rules)]
    return Trainer(bert(), arguments, train_dataset=sentences(), callbacks=callbacks)


@pytest.mark.parametrize("start", ["former", "fresh"])
def test_restored_weights_begin_as_asked_and_a_training_goes_on_to_the_same_bits(tmp_path, start):
    def trainer(folder):
        callback = DSDCallback(SCHEDULE, RULES, restored_start=start, make_fresh=bert)
        made = resumable(folder, callback=callback)
        made.add_callback(watch := Watch(callback))
        return made, watch

    whole, watch = trainer(tmp_path / "whole")
    whole.train()
    names = watch.dsd.dsd.plans[SCHEDULE.phases[1]].sparsities
    first = torch.cat([bert().get_parameter(name).detach().flatten() for name in names])
    pruned = watch.before[4] == 0  # of ten steps 4 are dense, 4 sparse, 2 redense
    expected = watch.after[3] if start == "former" else first
    assert 0 < int(pruned.sum()) and torch.equal(watch.before[8][pruned], expected[pruned])
    for step in (5, 8, 9):  # in the sparse phase, between both, in the redense phase
        again, _ = trainer(tmp_path / f"from {step}")
        again.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{step}")
        assert_same_bits(again.model, whole.model)


def test_how_far_restored_weights_have_come_back_is_logged_and_too_little_warned_of(arguments, caplog):
    callback = DSDCallback(SCHEDULE, RULES)
    trainer = Trainer(bert(), arguments(), train_dataset=sentences(), callbacks=[callback])
    trainer.add_callback(watch := Watch(callback))
    trainer.train()
    logs = {log["step"]: log["dsd/restored"] for log in trainer.state.log_history if "dsd/restored" in log}
    pruned = watch.before[4] == 0
    now = watch.weights(trainer.model)
    share = float(now[pruned].abs().sum() / watch.after[3][pruned].abs().sum())
    assert list(logs) == [9, 10] and logs[10] == pytest.approx(share, rel=1e-4)
    assert callback.dsd.regrown["Dense Iter 1"].share == pytest.approx(share, rel=1e-4)
    assert share < 0.25
    [said] = [one for one in caplog.messages if "nearly sparse" in one]
    assert said.startswith("Dense Iter 1 was too short or too slow")


# In each phase, and between two.
@pytest.mark.parametrize("step", [3, 4, 5, 8, 10])
def test_a_training_goes_on_to_the_same_bits(whole, tmp_path, step):
    checkpoint = tmp_path / "moved" / "elsewhere"
    shutil.copytree(f"{whole.args.output_dir}/checkpoint-{step}", checkpoint)
    trainer = resumable(tmp_path / "out")
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert_same_bits(trainer.model, whole.model)
    states = [one.optimizer.state_dict() for one in (trainer, whole)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert all(
        torch.equal(states[0]["state"][index][key], state[key])
        for index in states[1]["state"]
        for state in [states[1]["state"][index]]
        for key in state
    )


def test_a_checkpoint_without_optimizer_and_scheduler_goes_on_at_its_phase_s_rate(whole, tmp_path):
    """As ``save_only_model`` leaves it: Hugging Face's scheduler would begin again, at the dense phase's."""
    checkpoint = tmp_path / "checkpoint-5"
    shutil.copytree(f"{whole.args.output_dir}/checkpoint-5", checkpoint)
    for name in ("optimizer.pt", "scheduler.pt"):
        (checkpoint / name).unlink()
    trainer, rates = resumable(tmp_path / "out"), []

    class Rates(TrainerCallback):
        def on_pre_optimizer_step(self, args, state, control, *, optimizer, **kwargs):
            rates.append(optimizer.param_groups[0]["lr"])

    trainer.add_callback(Rates())
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert rates == pytest.approx([3.75e-3, 2.5e-3, 1.25e-3, 1e-3, 5e-4])  # of four steps, and of two


def test_after_an_error_it_goes_on_from_the_last_checkpoint(whole, tmp_path):
    trainer = resumable(tmp_path)
    failing = FailsAt(5)
    trainer.add_callback(failing)
    with pytest.raises(RuntimeError, match="as asked"):
        trainer.train()
    assert "Sparse Iter 1" in repr(whole_callback(trainer).dsd)
    assert hooks(trainer) == 0
    trainer.remove_callback(failing)
    trainer.train(resume_from_checkpoint=True)
    assert_same_bits(trainer.model, whole.model)


def test_a_checkpoint_opens_without_seqdsd_and_its_masks_take_a_bit_a_weight(whole):
    folder = Path(whole.args.output_dir) / "checkpoint-6"
    model = BertForSequenceClassification.from_pretrained(folder)
    weights = Watch(whole_callback(whole)).weights(model)
    assert (weights == 0).float().mean() == 0.5
    masks = weights.numel() / 8
    assert masks < (folder / STATE_FILE).stat().st_size < masks + 8_000  # names, shapes and the schedule


def test_masks_come_from_the_checkpoint_and_not_from_its_weights(whole, tmp_path):
    shutil.copytree(f"{whole.args.output_dir}/checkpoint-5", folder := tmp_path / "checkpoint-5")
    pruned = Watch(whole_callback(whole)).weights(BertForSequenceClassification.from_pretrained(folder)) == 0
    weights = load_file(folder / "model.safetensors")
    save_file({name: torch.randn_like(one) for name, one in weights.items()}, folder / "model.safetensors")
    trainer = resumable(tmp_path)
    trainer.add_callback(watch := Watch(whole_callback(trainer)))
    trainer.train(resume_from_checkpoint=True)
    assert torch.equal(watch.after[0] == 0, pruned)


class Hub(HfApi):
    """A folder in place of the Hub, which has a checkpoint as it was when the Trainer handed it over."""

    def __init__(self, folder: Path):
        super().__init__()
        self.folder = folder

    def create_repo(self, *_, **__):
        return RepoUrl("https://huggingface.co/me/mine")

    def upload_folder(self, *, folder_path, path_in_repo="", ignore_patterns=(), **_):
        hidden = shutil.ignore_patterns(*ignore_patterns)
        shutil.copytree(folder_path, self.folder / path_in_repo, ignore=hidden, dirs_exist_ok=True)
        (done := Future()).set_result(None)
        return done

    def stand_in(self, monkeypatch) -> None:
        """For the Hub, wherever the Trainer of a version looks for it."""
        monkeypatch.setattr(transformers.trainer, "hf_api", lambda: self, raising=False)
        for name in ("create_repo", "upload_folder"):
            monkeypatch.setattr(transformers.trainer, name, getattr(self, name), raising=False)


def test_an_uploaded_checkpoint_goes_on(whole, tmp_path, monkeypatch):
    """Its masks are in it, and only once: ``on_save``, which comes later, writes nothing beside an upload."""
    hub = tmp_path / "hub"
    Hub(hub).stand_in(monkeypatch)
    trainer = resumable(tmp_path / "out", push_to_hub=True, hub_strategy="all_checkpoints")
    trainer.train()
    uploaded = {path.parent.name: path for path in hub.glob(f"*/{STATE_FILE}")}
    assert uploaded.keys() == {f"checkpoint-{step}" for step in range(1, 11)}
    for name, path in uploaded.items():
        here = tmp_path / "out" / name / STATE_FILE
        assert path.read_bytes() == here.read_bytes()
        assert here.stat().st_mtime_ns <= path.parent.stat().st_ctime_ns
    trainer = resumable(tmp_path / "again")
    trainer.train(resume_from_checkpoint=str(hub / "checkpoint-5"))
    assert_same_bits(trainer.model, whole.model)


def test_a_checkpoint_that_waits_for_no_upload_has_its_masks(whole, tmp_path, monkeypatch):
    class Slow(Hub):
        def upload_folder(self, **_):
            return Future()

    Slow(tmp_path).stand_in(monkeypatch)
    monkeypatch.setattr(Trainer, "_finish_current_push", lambda _: None)  # it would wait for ever
    resumable(tmp_path / "out", push_to_hub=True, hub_strategy="all_checkpoints").train()
    assert len(list((tmp_path / "out").glob(f"checkpoint-*/{STATE_FILE}"))) == 10


def whole_callback(trainer: Trainer) -> DSDCallback:
    return next(one for one in trainer.callback_handler.callbacks if isinstance(one, DSDCallback))


def test_logs_say_phase_and_zeros_and_still_the_loss(arguments):
    trainer = Trainer(
        bert(),
        arguments(logging_steps=2),
        train_dataset=sentences(),
        callbacks=[DSDCallback(SCHEDULE, RULES)],
    )
    trainer.log({"loss": 0.0})  # before the training, of which there is nothing to say yet
    assert len(trainer.state.log_history) == 1
    trainer.train()
    logs = trainer.state.log_history
    told = [(log["step"], log["dsd/phase"], log["dsd/zeros"]) for log in logs if "dsd/zeros" in log]
    assert [step for step, *_ in told] == [2, 4, 6, 8, 10]
    assert [phase for _, phase, _ in told] == [0, 0, 1, 1, 2]
    zeros = [share for *_, share in told]
    assert zeros[:4] == [0] * 2 + [0.5] * 2
    assert zeros[4] < 0.05
    assert [log["step"] for log in logs if "loss" in log] == [2, 4, 6, 8, 10]


def test_the_best_model_is_the_last_phases(arguments):
    scores = iter([0.9, 0.8, 0.95, 0.7, 0.6])
    trainer = Trainer(
        bert(),
        arguments(
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=True,
        ),
        train_dataset=sentences(),
        eval_dataset=sentences(4),
        compute_metrics=lambda _: {"score": next(scores)},
        callbacks=[DSDCallback(SCHEDULE, RULES)],
    )
    trainer.train()
    assert trainer.state.best_metric == 0.6
    assert trainer.state.best_model_checkpoint.endswith("checkpoint-10")


@pytest.mark.filterwarnings("ignore:mtime may not be reliable")  # of transformers 5.0, where saving is quick
def test_best_weights_within_the_last_phase_are_loaded(arguments):
    schedule = Schedule.dsd(iters=1, epochs=(1, 1, 3), sparsities=[0.5], learning_rates=[1e-2, 5e-3, 1e-3])
    scores = iter([0.1, 0.2, 0.5, 0.3, 0.4])
    trainer = Trainer(
        bert(),
        arguments(
            eval_strategy="epoch",
            save_strategy="epoch",
            save_total_limit=1,
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=False,
        ),
        train_dataset=sentences(),
        eval_dataset=sentences(4),
        compute_metrics=lambda _: {"score": next(scores)},
        callbacks=[DSDCallback(schedule, RULES)],
    )
    trainer.train()
    best = trainer.state.best_model_checkpoint
    assert best.endswith("checkpoint-8")
    assert_same_bits(trainer.model, BertForSequenceClassification.from_pretrained(best))


def test_a_checkpoint_holds_the_best_weights_of_the_phase(arguments, tmp_path):
    scores = iter([0.1, 0.2, 0.3, 0.4, 0.5])
    trainer = Trainer(
        bert(BertForMaskedLM),
        arguments(
            eval_strategy="epoch",
            save_strategy="epoch",
            load_best_model_at_end=True,
            metric_for_best_model="score",
            greater_is_better=False,
        ),
        train_dataset=sentences(tokens_as_labels=True),
        eval_dataset=sentences(4, tokens_as_labels=True),
        compute_metrics=lambda _: {"score": next(scores)},
        callbacks=[DSDCallback(SCHEDULE, [Rule("*")])],
    )
    trainer.train()
    kept = load_file(tmp_path / "out" / "checkpoint-8" / STATE_FILE)
    best = BertForMaskedLM.from_pretrained(tmp_path / "out" / "checkpoint-6").state_dict()
    assert {name.removeprefix("best/") for name in kept if name.startswith("best/")} == best.keys()
    assert all(torch.equal(kept[f"best/{name}"], one) for name, one in best.items())


def test_tied_embeddings_stay_dense_and_tied(arguments):
    model = bert(BertForMaskedLM)
    trainer = Trainer(
        model,
        arguments(),
        train_dataset=sentences(tokens_as_labels=True),
        callbacks=[callback := DSDCallback(SCHEDULE, [Rule("*")]), watch := Watch(callback)],
    )
    trainer.train()
    table = model.get_input_embeddings().weight
    assert table is model.get_output_embeddings().weight
    assert (watch.before[5] == 0).float().mean() == 0.5
    rows = {row.name: row for row in callback.dsd.plans[SCHEDULE.phases[1]].rows}
    assert rows["bert.embeddings.word_embeddings.weight"].sparsity == 0


def test_bf16_autocast(arguments):
    trainer = Trainer(
        bert(),
        arguments(bf16=True),
        train_dataset=sentences(),
        callbacks=[callback := DSDCallback(SCHEDULE, RULES), watch := Watch(callback)],
    )
    trainer.train()
    assert [(weights == 0).float().mean().item() for weights in watch.after[4:8]] == [0.5] * 4


def test_phases_take_their_share_of_max_steps(arguments):
    trainer = Trainer(
        bert(),
        arguments(max_steps=5, num_train_epochs=1),
        train_dataset=sentences(),
        callbacks=[callback := DSDCallback(SCHEDULE, RULES), watch := Watch(callback)],
    )
    trainer.train()
    assert [(weights == 0).float().mean() > 0.4 for weights in watch.after] == [False] * 2 + [True] * 2 + [
        False
    ]


def test_groups_keep_the_ratios_of_their_rates(arguments):
    model = bert()
    head = {"params": list(model.classifier.parameters()), "lr": 1.0}
    rest = [one for name, one in model.named_parameters() if not name.startswith("classifier")]
    optimizer = torch.optim.SGD([{"params": rest, "lr": 0.25}, head])

    class Rates(TrainerCallback):
        seen = []

        def on_pre_optimizer_step(self, args, state, control, *, optimizer, **kwargs):
            self.seen.append(tuple(group["lr"] for group in optimizer.param_groups))

    trainer = Trainer(
        model,
        arguments(lr_scheduler_type="constant"),
        train_dataset=sentences(),
        optimizers=(optimizer, None),
        callbacks=[DSDCallback(SCHEDULE, RULES), Rates],
    )
    trainer.train()
    assert Rates.seen == [(1e-2, 4e-2)] * 4 + [(5e-3, 2e-2)] * 4 + [(1e-3, 4e-3)] * 2


def test_watch_adds_it_to_a_trainer_that_is_there(arguments):
    trainer = Trainer(bert(), arguments(), train_dataset=sentences())
    callback = DSDCallback(SCHEDULE, RULES)
    callback.watch(trainer)
    trainer.add_callback(watch := Watch(callback))
    trainer.train()
    assert (watch.before[8] == 0).float().mean() == 0.5


def test_added_without_watch_it_says_so(arguments):
    trainer = Trainer(bert(), arguments(), train_dataset=sentences())
    trainer.add_callback(DSDCallback(SCHEDULE, RULES))
    with pytest.raises(RuntimeError, match=r"watch\(trainer\)"):
        trainer.train()


def other_scheduler(model):
    optimizer = torch.optim.SGD(model.parameters(), lr=1)
    return optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": {"num_train_epochs": 4}}, r"TrainingArguments\(num_train_epochs=5\)"),
        ({"arguments": {"num_train_epochs": 5.5}}, "num_train_epochs is 5.5"),
        ({"rules": [Rule("nothing.*")]}, "matches no parameter"),
        ({"rules": [Rule("*.bias")]}, "prunes nothing"),
        ({"optimizers": other_scheduler}, "scheduler of its own"),
        ({"arguments": {"optim": "schedule_free_adamw"}}, "schedule-free"),
    ],
)
def test_what_cannot_be_is_refused_before_training(arguments, changes, message):
    model = bert()
    with pytest.raises(ValueError, match=message):
        Trainer(
            model,
            arguments(**changes.get("arguments", {})),
            train_dataset=sentences(),
            optimizers=changes.get("optimizers", lambda _: (None, None))(model),
            callbacks=[DSDCallback(SCHEDULE, changes.get("rules", RULES))],
        )


def test_a_scheduler_made_by_a_subclass_is_refused(arguments):
    class Constant(Trainer):
        def create_scheduler(self, *arguments, **named):
            raise AssertionError("never asked")

    with pytest.raises(ValueError, match="leave create_scheduler as it is"):
        Constant(bert(), arguments(), train_dataset=sentences(), callbacks=[DSDCallback(SCHEDULE, RULES)])


def test_ratios_to_a_rate_of_0_are_refused(arguments):
    model = bert()
    first, *others = model.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.0}, {"params": others}], lr=1.0)
    callback = DSDCallback(SCHEDULE, RULES)
    trainer = Trainer(
        model, arguments(), train_dataset=sentences(), optimizers=(optimizer, None), callbacks=[callback]
    )
    with pytest.raises(ValueError, match="first group is 0"):
        trainer.train()
    assert hooks(trainer) == 0


def test_the_trainers_own_rate_may_be_0(arguments):
    callback = DSDCallback(SCHEDULE, RULES)
    Trainer(bert(), arguments(learning_rate=0.0), train_dataset=sentences(), callbacks=[callback]).train()
    assert callback.dsd.phase is None


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")  # peft's
@pytest.mark.parametrize("wrapped", [True, False])
def test_a_peft_model_is_refused(arguments, wrapped):
    settings, bare = peft.LoraConfig(target_modules=["query"]), bert()
    model = peft.get_peft_model(bare, settings) if wrapped else peft.inject_adapter_in_model(settings, bare)
    with pytest.raises(ValueError, match="PEFT"):
        Trainer(model, arguments(), train_dataset=sentences(), callbacks=[DSDCallback(SCHEDULE, RULES)])


@pytest.fixture
def group_of_one(monkeypatch):
    """This process as ``torchrun`` would start it, alone."""
    monkeypatch.setattr(os, "environ", os.environ.copy())  # Accelerate leaves there what it was told
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    yield
    if distributed.is_initialized():
        distributed.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)


def test_fsdp_is_refused(arguments, group_of_one):
    """Without the callback the same Trainer trains this model here, its weights sharded: so it is FSDP."""
    sharding = arguments(fsdp=True, fsdp_config={"fsdp_version": 2})
    # Accelerate shards nothing on a CPU: it is told, and only that, that the group is one of GPUs.
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    plain = Trainer(Net(), sharding)
    assert plain.accelerator.distributed_type == DistributedType.FSDP
    with pytest.raises(ValueError, match="DeepSpeed or FSDP.*train by DDP"):
        DSDCallback(SCHEDULE, RULES).watch(plain)
    with pytest.raises(ValueError, match="DeepSpeed or FSDP.*train by DDP"):
        Trainer(Net(), sharding, callbacks=[DSDCallback(SCHEDULE, RULES)])


def test_weights_that_are_sharded_already_are_refused(arguments, group_of_one):
    settings, model = arguments(), Net()
    fully_shard(model, mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(ValueError, match="DeepSpeed or FSDP.*train by DDP"):
        Trainer(model, settings, callbacks=[DSDCallback(SCHEDULE, RULES)])


@pytest.mark.skipif(
    not importlib.util.find_spec("deepspeed"), reason="needs deepspeed, which no extra installs"
)
@pytest.mark.filterwarnings("ignore")  # its own
def test_deepspeed_is_refused(arguments, group_of_one):
    stage = {"zero_optimization": {"stage": 1}, "train_micro_batch_size_per_gpu": "auto"}
    with pytest.raises(ValueError, match="DeepSpeed or FSDP.*train by DDP"):
        Trainer(Net(), arguments(deepspeed=stage), callbacks=[DSDCallback(SCHEDULE, RULES)])


def test_what_accelerate_calls_deepspeed_is_refused(arguments):
    """Also where it is not installed: a real Trainer, and the flag that it reads off Accelerate."""
    trainer = Trainer(Net(), arguments())
    assert trainer.is_deepspeed_enabled is False
    trainer.is_deepspeed_enabled = True
    with pytest.raises(ValueError, match="DeepSpeed or FSDP.*train by DDP"):
        DSDCallback(SCHEDULE, RULES).watch(trainer)


def test_a_search_of_hyperparameters_is_refused_before_the_first_step(arguments):
    trainer = Trainer(
        args=arguments(),
        model_init=lambda: bert(),
        train_dataset=sentences(),
        eval_dataset=sentences(4),
        callbacks=[DSDCallback(SCHEDULE, RULES)],
    )
    with pytest.raises(ValueError, match="make a Trainer for each trial"):
        trainer.hyperparameter_search(lambda trial: {"seed": trial.suggest_int("seed", 1, 9)}, n_trials=2)
    assert trainer.state.is_hyper_param_search
    assert trainer.state.global_step == 0
    assert hooks(trainer) == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_steps": 2}, "2 steps are too few"),
        ({"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"}, "no function of the step"),
    ],
)
def test_what_the_trainer_makes_is_refused_before_the_first_step(arguments, settings, message):
    trainer = Trainer(
        bert(),
        arguments(**settings),
        train_dataset=sentences(),
        eval_dataset=sentences(4),
        callbacks=[DSDCallback(SCHEDULE, RULES)],
    )
    with pytest.raises(ValueError, match=message):
        trainer.train()
    assert trainer.state.global_step == 0


def test_an_optimizer_without_the_pruned_weights_is_refused_before_the_first_step(arguments):
    model = bert()
    trainer = Trainer(
        model,
        arguments(),
        train_dataset=sentences(),
        optimizers=(torch.optim.SGD(model.classifier.parameters(), lr=1), None),
        callbacks=[DSDCallback(SCHEDULE, RULES)],
    )
    with pytest.raises(ValueError, match="does not hold these masked parameters"):
        trainer.train()
    assert trainer.state.global_step == 0
    assert hooks(trainer) == 0


LONGER = Schedule.dsd(iters=1, epochs=(2, 1, 2), sparsities=[0.5], learning_rates=[1e-2, 5e-3, 1e-3])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": LONGER}, "saved with another schedule: phase 2"),
        ({"rules": [Rule("*query*")]}, "saved with other rules"),
        ({"max_steps": 30}, "saved with max_steps 10, here 30"),
    ],
)
def test_a_checkpoint_of_another_training_is_refused_by_name(whole, tmp_path, changes, message):
    trainer = resumable(tmp_path, **changes)
    with pytest.raises(ValueError, match=rf"checkpoint-5/{STATE_FILE}: {message}"):
        trainer.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-5")
    assert hooks(trainer) == 0


@pytest.mark.parametrize("content", [None, b"cut short"])
def test_a_checkpoint_without_a_whole_state_is_refused_by_name(whole, tmp_path, content):
    shutil.copytree(f"{whole.args.output_dir}/checkpoint-5", folder := tmp_path / "checkpoint-5")
    (folder / STATE_FILE).unlink()
    if content:
        (folder / STATE_FILE).write_bytes(content)
    with pytest.raises(ValueError, match=f"checkpoint-5/{STATE_FILE}"):
        resumable(tmp_path).train(resume_from_checkpoint=True)


def test_an_early_end_is_told(arguments, caplog):
    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 5

    trainer = Trainer(
        bert(), arguments(), train_dataset=sentences(), callbacks=[DSDCallback(SCHEDULE, RULES), Stop]
    )
    trainer.train()
    assert "ended before its schedule: in Sparse Iter 1, after 5 of 10 steps" in caplog.text
    assert hooks(trainer) == 0


def test_without_transformers_it_says_what_to_install():
    code = "import sys; sys.modules['transformers'] = None; import seqdsd.integrations.transformers"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'seqdsd[transformers]'" in done.stderr
