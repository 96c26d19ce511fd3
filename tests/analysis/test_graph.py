"""The stack of module names during a forward pass, and what each call returned."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from rdfia_cli.analysis.blank import shadow
from rdfia_cli.analysis.graph import watch_calls
from rdfia_cli.analysis.layers import analyse
from rdfia_cli.analysis.parameters import count
from rdfia_cli.spec import InputSpec


@dataclass
class Pair:
    """An output that is no tuple."""

    first: Tensor
    rest: dict[str, tuple[Tensor, ...]]


class Splitter(nn.Module):
    def forward(self, inputs: Tensor) -> Pair:
        return Pair(inputs[:, :1], {"rest": (inputs[:, 1:], inputs)})


class Shared(nn.Module):
    """One layer under two names in each of two branches, and once by a name of its own."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.Linear(3, 3)
        self.left = nn.Sequential(layer, nn.ReLU())
        self.right = nn.Sequential(nn.Tanh(), layer)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.right(self.left(inputs))


def names_called(model: nn.Module, inputs: Tensor) -> list[str]:
    with watch_calls(model) as calls:
        model(inputs)
    return [returned.call.name for returned in calls.returned]


def test_a_shared_layer_is_named_by_whoever_calls_it():
    called = names_called(Shared(), torch.zeros(1, 3))
    assert called == ["left.0", "left.1", "left", "right.0", "right.1", "right", ""]


def test_calls_of_one_module_are_numbered():
    model = Shared()
    with watch_calls(model) as calls:
        model(torch.zeros(1, 3))
    numbers = [r.call.number for r in calls.returned if isinstance(r.call.module, nn.Linear)]
    assert numbers == [0, 1]


def test_the_shapes_in_any_nest_of_containers_are_known():
    model = Splitter()
    with watch_calls(model) as calls:
        model(torch.zeros(2, 5))
    assert calls.returned[0].shapes == ((2, 1), (2, 4), (2, 5))


def test_the_stack_names_the_innermost_module_while_it_runs():
    seen: list[tuple[str, int]] = []
    model = nn.Sequential(nn.Sequential(nn.ReLU()), nn.Tanh())
    with watch_calls(model, lambda call, output: seen.append((calls.current, call.depth))) as calls:
        model(torch.zeros(1))
    assert seen == [("0.0", 2), ("0", 1), ("1", 1), ("", 0)]
    assert calls.stack == []


def test_hooks_are_taken_off_even_where_the_model_fails():
    model = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(RuntimeError), watch_calls(model):
        model(torch.zeros(1, 3))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_a_transformer_layer_calls_its_modules_rather_than_a_fused_kernel():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    with torch.no_grad():
        assert {"linear1", "linear2", "norm1"} <= set(names_called(layer, torch.zeros(1, 3, 8)))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script. is deprecated")
@pytest.mark.parametrize("whole", [False, True])
def test_what_a_scripted_module_does_is_its_callers(whole: bool):
    def model() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(2, 1, 3)))

    first, last = model()
    script = torch.jit.script
    scripted = script(model()) if whole else nn.Sequential(first, script(last))
    plain, fed = model(), InputSpec((1, 9, 9), 2)
    assert count(scripted, fed) == count(plain, fed)
    fields = [analyse(shadow(each), fed.shape).layers for each in (plain, scripted)]
    names = [{layer.name: layer for layer in layers} for layers in fields]
    assert set(names[1]) == ({""} if whole else {"", "0"})
    assert all(names[1][name].rows == names[0][name].rows for name in names[1])
    assert names[1][""].kind == "Sequential"
    assert names[1][""].is_leaf == whole
