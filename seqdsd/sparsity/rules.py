"""Which parameters are pruned, and how much: rules, resolved against a model into a plan that can be read.

A rule is a glob on the parameter's name and, if given, the type of the module that holds it. The first rule
that matches decides; of tied weights every name counts. What a plan says is all that happens: nothing is pruned
that has no row saying so. Choosing the weights themselves is ``masks.py``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from seqdsd.sparsity.parameters import NamedParameter, named_parameters
from seqdsd.sparsity.weights import CONVOLUTIONS, EMBEDDINGS, why_no_weight

Number = float | int  # 0 is a sparsity too; type checks at run time do not take an int for a float
ModuleTypes = type[nn.Module] | tuple[type[nn.Module], ...]


@dataclass(frozen=True)
class FirstOf:
    """Stands for one module: the model's first (in definition order) of the given types."""

    types: ModuleTypes


@dataclass(frozen=True)
class Rule:
    """What happens to the parameters that match, unless an earlier rule has decided.

    Attributes:
        match: Glob on the bare parameter name (``"rnn.*"``), case-sensitive: as in the model itself, without what
            ``torch.compile``, DDP or Fabric put before it. A tied weight matches by any of its names.
        sparsity: Share of each tensor to prune, in [0, 1). 0 keeps it dense always; None takes the phase's
            sparsity. Either way only weights are pruned: biases, scales, norm parameters, embeddings and what is
            tied to them, tokens and positions stay dense whatever their shape. So does what is not called a
            weight in a layer that torch does not know, and what a parametrization turns into other weights
            (orthogonal ones); unless ``match`` is the full name and ``sparsity`` is given.
        module: Only parameters held directly by a module of this type; ``FirstOf(type)`` for the first of it.
            The holder of a parametrized weight (weight norm, spectral norm) is its layer.
        why: The reason, shown in the plan.
        optional: The rule may match nothing. Otherwise that is an error, since it is a wrong name more often.
    """

    match: str
    sparsity: Number | None = None
    module: ModuleTypes | FirstOf | None = None
    why: str = ""
    optional: bool = False

    def __post_init__(self) -> None:
        if self.sparsity is not None:
            check_sparsity(self.sparsity)

    @property
    def prunes(self) -> bool:
        """Whether the rule asks for pruning, as opposed to keeping parameters dense."""
        return self.sparsity is None or self.sparsity > 0

    def insists(self, parameter: NamedParameter) -> bool:
        """Whether the rule names this one parameter and says how much of it to prune."""
        return bool(self.sparsity) and self.match in parameter.aliases


@dataclass(frozen=True)
class PlanRow:
    """What happens to one parameter; ``aliases`` are its other names, where weights are tied."""

    name: str
    shape: tuple[int, ...]
    numel: int
    sparsity: float
    rule: Rule | None
    why: str
    aliases: tuple[str, ...] = ()

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


def resolve(model: nn.Module, rules: Iterable[Rule], sparsity: Number) -> Plan:
    """Decide what a phase of the given sparsity does to each parameter of ``model``; the first match wins.

    Parameters that no rule matches, and frozen ones (``requires_grad`` off), stay dense.

    Args:
        model: Bare or in known wrappers; names are the bare model's, of tied parameters the first.
        rules: In order of precedence.
        sparsity: The phase's sparsity, in [0, 1).

    Raises:
        ValueError: If a rule matches nothing and is not ``optional``; if earlier rules decide all that a pruning
            rule matches; if all weights of a parameter would be pruned, or none of the whole plan; or if the model
            is in a wrapper that cannot be seen through.
    """
    check_sparsity(sparsity)
    rules = tuple(rules)  # gone through for every parameter
    matches = [
        (parameter, [rule for rule in rules if _matches(rule, parameter, model)])
        for parameter in named_parameters(model)
    ]
    for rule in rules:
        if not rule.optional:
            _check_used(rule, matches)
    plan = Plan(tuple(_decide(parameter, matching, sparsity) for parameter, matching in matches))
    for row in plan.rows:
        if row.numel and not row.kept:
            raise ValueError(
                f"{row.name}: sparsity {row.sparsity} prunes all of its weights, which are {row.numel}; "
                f"put Rule({row.name!r}, 0) first to keep it dense"
            )
    if not plan.overall_sparsity:
        raise ValueError(f"the plan prunes nothing (phase sparsity {sparsity}):\n{plan}")
    return plan


def check_sparsity(sparsity: Number) -> None:
    """Raise ValueError unless ``0 <= sparsity < 1``."""
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is the share of pruned weights and must be in [0, 1), got {sparsity!r}")


def _matches(rule: Rule, parameter: NamedParameter, model: nn.Module) -> bool:
    """Whether the rule matches under any of the parameter's names."""
    return any(
        fnmatchcase(name, rule.match) and _is_held_by(rule.module, holder, model)
        for name, holder in zip(parameter.aliases, parameter.holders, strict=True)
    )


def _is_held_by(types: ModuleTypes | FirstOf | None, holder: nn.Module, model: nn.Module) -> bool:
    if types is None:
        return True
    if isinstance(types, FirstOf):
        return holder is next((module for module in model.modules() if isinstance(module, types.types)), None)
    return isinstance(holder, types)


def _decide(parameter: NamedParameter, matching: list[Rule], phase_sparsity: Number) -> PlanRow:
    rule = next(iter(matching), None)
    sparsity = 0.0
    if rule is None:
        why = "no rule matches"
    elif not parameter.parameter.requires_grad:
        why = "frozen: it could not be retrained"
    elif rule.prunes and not rule.insists(parameter) and (no_weight := why_no_weight(parameter)):
        why = no_weight
    else:
        sparsity, why = float(phase_sparsity if rule.sparsity is None else rule.sparsity), rule.why
    shape = parameter.parameter.shape
    return PlanRow(parameter.name, tuple(shape), shape.numel(), sparsity, rule, why, parameter.aliases[1:])


def _check_used(rule: Rule, matches: list[tuple[NamedParameter, list[Rule]]]) -> None:
    """Raise ValueError if the rule matches nothing, or prunes and decides nothing."""
    matched = [parameter.name for parameter, matching in matches if rule in matching]
    if not matched:
        raise ValueError(_unmatched_message(rule, [parameter for parameter, _ in matches]))
    if rule.prunes and not any(rule in matching[:1] for _, matching in matches):
        raise ValueError(
            f"{rule} decides nothing: earlier rules decide for all it matches ({', '.join(matched)})"
        )


def _unmatched_message(rule: Rule, parameters: list[NamedParameter]) -> str:
    names = [name for parameter in parameters for name in parameter.aliases]
    parts = [name.rpartition(".") for name in names]
    globs = {f"{module}.*" for module, _, _ in parts} | {f"*.{own}" for _, _, own in parts}
    close = difflib.get_close_matches(rule.match, [*names, *sorted(globs - set(names))])
    hint = f"did you mean {' or '.join(map(repr, close))}?; " if close else ""
    if rule.module is None:
        have = f"the model's parameters are: {', '.join(names) or 'none'}"
    else:
        types = sorted({type(holder).__name__ for parameter in parameters for holder in parameter.holders})
        have = f"the model's modules with parameters are: {', '.join(types) or 'none'}"
    return f"{rule} matches no parameter; {hint}if it may match nothing, give it optional=True; {have}"


def _cells(row: PlanRow) -> tuple[str, ...]:
    shape = "x".join(map(str, row.shape)) or "scalar"
    sparsity = f"{row.sparsity:.1%}" if row.sparsity else "dense"
    rule = "-" if row.rule is None else row.rule.match
    names = " = ".join((row.name, *row.aliases))
    return (names, shape, f"{row.numel:,}", sparsity, f"{row.kept:,}", rule, row.why)


SPEECH_RULES = (
    Rule("*", 0, CONVOLUTIONS, why="speech: fully connected and recurrent only (section 4.5)", optional=True),
    Rule("output.*", 0, why="CTC output layer, not one of the FC layers of Table 6"),
    Rule("*", why="fully connected and recurrent weights (section 4.5)"),
)
"""The paper's DeepSpeech rules: only the fully connected and recurrent matrices are pruned."""

CAPTION_RULES = (
    Rule("*", 0, EMBEDDINGS, why="word embedding (section 4.4)", optional=True),
    Rule("*", why="all layers but the word embedding (section 4.4)"),
)
"""The paper's NeuralTalk rules: everything but the word table and what is frozen (the CNN)."""

VISION_RULES = (
    Rule("*", 0, FirstOf(CONVOLUTIONS), why="first convolution: sensitive (section 4)", optional=True),
    Rule("*", why="convolutions and fully connected layers (section 4)"),
)
"""The paper's ImageNet rules: all but the first convolution."""
