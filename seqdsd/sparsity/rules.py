"""Which parameters are pruned, and how much: rules, resolved against a model into a plan that can be read.

A rule is a glob on the parameter's name and, if given, the type of the module that holds it. The first rule
that matches decides. What a plan says is all that happens: nothing is pruned that has no row saying so.
Choosing the weights themselves is ``masks.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

Number = float | int  # 0 is a sparsity too; type checks at run time do not take an int for a float
ModuleTypes = type[nn.Module] | tuple[type[nn.Module], ...]

CONVOLUTIONS = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
)
EMBEDDINGS = (nn.Embedding, nn.EmbeddingBag)
MATRIX_NORMS = (nn.LayerNorm, nn.RMSNorm)  # the norms whose parameters may be matrices


@dataclass(frozen=True)
class FirstOf:
    """Stands for one module: the model's first (in definition order) of the given types."""

    types: ModuleTypes


@dataclass(frozen=True)
class Rule:
    """What happens to the parameters that match, unless an earlier rule has decided.

    Attributes:
        match: Glob on the bare parameter name (``"rnn.*"``), case-sensitive.
        sparsity: Share of each tensor to prune, in [0, 1). 0 keeps it dense always; None takes the phase's
            sparsity. Either way biases, norm parameters and other vectors stay dense, unless ``match`` is a
            vector's full name and ``sparsity`` is given.
        module: Only parameters held directly by a module of this type; ``FirstOf(type)`` for the first of it.
        why: The reason, shown in the plan.
    """

    match: str
    sparsity: Number | None = None
    module: ModuleTypes | FirstOf | None = None
    why: str = ""

    def __post_init__(self) -> None:
        if self.sparsity is not None:
            check_sparsity(self.sparsity)

    @property
    def prunes(self) -> bool:
        """Whether the rule asks for pruning, as opposed to keeping parameters dense."""
        return self.sparsity is None or self.sparsity > 0


@dataclass(frozen=True)
class PlanRow:
    """What happens to one parameter."""

    name: str
    shape: tuple[int, ...]
    numel: int
    sparsity: float
    rule: Rule | None
    why: str

    @property
    def kept(self) -> int:
        """Weights that stay: exactly ``numel - round(numel * sparsity)``."""
        return self.numel - round(self.numel * self.sparsity)


@dataclass(frozen=True)
class Plan:
    """The resolved rules: one row a parameter, in the model's order. ``str(plan)`` is a table."""

    rows: tuple[PlanRow, ...]

    @property
    def sparsities(self) -> dict[str, float]:
        """Sparsity by parameter name, of the parameters that are pruned."""
        return {row.name: row.sparsity for row in self.rows if row.sparsity > 0}

    @property
    def overall_sparsity(self) -> float:
        """Share of all the model's weights that the plan prunes."""
        pruned = sum(row.numel - row.kept for row in self.rows)
        return pruned / max(1, sum(row.numel for row in self.rows))

    def __str__(self) -> str:
        head = ("parameter", "shape", "weights", "sparsity", "kept", "rule", "why")
        cells = [head, *map(_cells, self.rows)]
        widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
        lines = ["  ".join(map(str.ljust, row, widths)) for row in cells]
        total = sum(row.numel for row in self.rows)
        footer = f"{total:,} weights, {self.overall_sparsity:.1%} of them pruned"
        return "\n".join([*(line.rstrip() for line in lines), footer])


def resolve(model: nn.Module, rules: Sequence[Rule], sparsity: Number) -> Plan:
    """Decide what a phase of the given sparsity does to each parameter of ``model``; the first match wins.

    Parameters that no rule matches, and frozen ones (``requires_grad`` off), stay dense.

    Args:
        model: The bare model; of tied parameters the first name counts.
        rules: In order of precedence.
        sparsity: The phase's sparsity, in [0, 1).

    Raises:
        ValueError: If a pruning rule decides for no parameter (a wrong name would otherwise prune silently
            nothing), or if the whole plan prunes nothing. A keep-dense rule may match nothing.
    """
    check_sparsity(sparsity)
    holders = list(_parameters_with_holder(model))
    rows = []
    used: set[int] = set()
    for name, parameter, holder in holders:
        index = next((i for i, rule in enumerate(rules) if _matches(rule, name, holder, model)), None)
        if index is not None:
            used.add(index)
        rows.append(_decide(name, parameter, holder, None if index is None else rules[index], sparsity))
    for index, rule in enumerate(rules):
        if rule.prunes and index not in used:
            raise ValueError(_unused_message(rule, model, holders))
    plan = Plan(tuple(rows))
    if not plan.overall_sparsity:
        raise ValueError(f"the plan prunes nothing (phase sparsity {sparsity}):\n{plan}")
    return plan


def check_sparsity(sparsity: Number) -> None:
    """Raise ValueError unless ``0 <= sparsity < 1``."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is the share of pruned weights and must be in [0, 1), got {sparsity!r}")


def _parameters_with_holder(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    for name, parameter in model.named_parameters():
        yield name, parameter, model.get_submodule(name.rpartition(".")[0])


def _matches(rule: Rule, name: str, holder: nn.Module, model: nn.Module) -> bool:
    if not fnmatchcase(name, rule.match):
        return False
    if rule.module is None:
        return True
    if isinstance(rule.module, FirstOf):
        types = rule.module.types
        return holder is next((module for module in model.modules() if isinstance(module, types)), None)
    return isinstance(holder, rule.module)


def _decide(
    name: str, parameter: nn.Parameter, holder: nn.Module, rule: Rule | None, phase_sparsity: Number
) -> PlanRow:
    is_vector = parameter.ndim < 2 or isinstance(holder, MATRIX_NORMS)
    if rule is None:
        sparsity, why = 0.0, "no rule matches"
    elif not parameter.requires_grad:
        sparsity, why = 0.0, "frozen: it could not be retrained"
    elif is_vector and rule.prunes and (rule.sparsity is None or rule.match != name):
        sparsity, why = 0.0, "biases and norms are never pruned"
    else:
        sparsity, why = float(phase_sparsity if rule.sparsity is None else rule.sparsity), rule.why
    return PlanRow(name, tuple(parameter.shape), parameter.numel(), sparsity, rule, why)


def _unused_message(rule: Rule, model: nn.Module, holders: list[tuple[str, nn.Parameter, nn.Module]]) -> str:
    shadowed = [name for name, _, holder in holders if _matches(rule, name, holder, model)]
    if shadowed:
        return f"{rule} decides nothing: earlier rules decide for all it matches ({', '.join(shadowed)})"
    names = ", ".join(name for name, _, _ in holders) or "none"
    return f"{rule} matches no parameter; the model's parameters are: {names}"


def _cells(row: PlanRow) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape)) or "scalar"
    sparsity = f"{row.sparsity:.1%}" if row.sparsity else "dense"
    rule = "-" if row.rule is None else row.rule.match
    return (row.name, shape, f"{row.numel:,}", sparsity, f"{row.kept:,}", rule, row.why)


SPEECH_RULES = (
    Rule("*", 0, CONVOLUTIONS, why="speech: fully connected and recurrent weights only (section 4.5)"),
    Rule("*", 0, EMBEDDINGS, why="embedding table"),
    Rule("output.*", 0, why="CTC output layer, not one of the FC layers of Table 6"),
    Rule("*", why="fully connected and recurrent weights (section 4.5)"),
)
"""The paper's DeepSpeech rules: only the fully connected and recurrent matrices are pruned."""

CAPTION_RULES = (
    Rule("*", 0, EMBEDDINGS, why="word embedding (section 4.4)"),
    Rule("*", why="all layers but the word embedding (section 4.4)"),
)
"""The paper's NeuralTalk rules: everything but the word table and what is frozen (the CNN)."""

VISION_RULES = (
    Rule("*", 0, FirstOf(CONVOLUTIONS), why="first convolution: sensitive to pruning (section 4)"),
    Rule("*", 0, EMBEDDINGS, why="embedding table"),
    Rule("*", why="convolutions and fully connected layers (section 4)"),
)
"""The paper's ImageNet rules: all but the first convolution."""
