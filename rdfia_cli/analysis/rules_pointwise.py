"""Rules of operations whose every element depends on the same element of each operand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from rdfia_cli.analysis.intervals import Field, broadcast, everything, union
from rdfia_cli.analysis.operation import Operation, Rule


def elementwise(operation: Operation) -> Field:
    """The union of broadcast operands."""
    return union(operation.shape, operation.operands)


def _copy(operation: Operation) -> Field:
    return broadcast(operation.operand("src"), operation.shape)


def _same(operation: Operation) -> Field:
    return replace(operation.input, shape=operation.shape)


def _prelu(operation: Operation) -> Field:
    """A weight for each channel, which stands in the second axis and not in the last."""
    parts = [operation.operand("self")]
    if (weight := operation.field("weight")) is not None:
        parts.append(everything(weight, operation.shape))
    return union(operation.shape, parts)


def _table() -> Mapping[str, Rule]:
    groups: list[tuple[Rule, str]] = [
        (_copy, "copy"),
        (_same, "contiguous clone detach alias to _to_copy type_as lift_fresh lift dropout "
                "feature_dropout alpha_dropout feature_alpha_dropout native_dropout float double "
                "half bfloat16 requires_grad _conj conj resolve_conj resolve_neg real imag cpu"),
        (_prelu, "prelu"),
        (elementwise, "where masked_fill softplus glu_jvp _prelu_kernel rrelu threshold bernoulli "
                      "addcmul addcdiv lerp nan_to_num relu6 selu celu hardswish hardsigmoid "
                      "silu mish gelu clamp clip square rsub true_divide floor_divide "
                      "multiply divide subtract logit hardshrink softshrink logical_not "
                      "scalar_tensor dist_"),
    ]  # fmt: skip
    return {name: rule for rule, names in groups for name in names.split()}


POINTWISE_RULES = _table()
"""Beside these, whatever torch tags as pointwise follows `elementwise`."""
