"""What is analysed: a spec, a run or a function of a file becomes a model on the meta device.

Nothing is allocated and no weights are read. What is wrong with the command line is found before
torch is imported.
"""

from __future__ import annotations

import contextlib
import fnmatch
import inspect
import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdfia_cli import registry, run
from rdfia_cli.config import ComponentConfig, resolve_component
from rdfia_cli.errors import ComponentError, UsageError, nearest
from rdfia_cli.spec import InputSpec, MadeFor, parse_spec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import nn

USUAL = InputSpec((3, 224, 224), 1000)
"""What a model is fed that tells nothing about it: ImageNet's images and classes."""


DIGITS = 6
"""Of a size: the product of three has to fit the 64 bits in which torch counts elements."""


@dataclass(frozen=True)
class Request:
    """A model that is asked for, checked but not built.

    Attributes:
        label: how it was asked for.
        chosen: the component and its hyper-parameters.
        shape: what it is to be fed, without the batch axis; None for the model's own.
        classes: how many classes it is to tell apart; None for the model's own.
        folder: of the run that is meant, if one is.
        warnings: what the user should know about it, a line each.
    """

    label: str
    chosen: ComponentConfig
    shape: tuple[int, ...] | None = None
    classes: int | None = None
    folder: Path | None = None
    warnings: tuple[str, ...] = ()

    def __str__(self) -> str:
        return self.label


@dataclass(frozen=True)
class Subject:
    """A model to look into.

    Attributes:
        label: how it was asked for.
        model: on the meta device, in evaluation mode.
        input: what it is fed.
        component: what it was built by.
        chosen: its hyper-parameters.
    """

    label: str
    model: nn.Module
    input: InputSpec
    component: registry.Component
    chosen: ComponentConfig

    def realise(self) -> nn.Module:
        """The same model on the CPU, its weights drawn from a fixed seed.

        Raises:
            ComponentError: its builder fails.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return _build(self.component, self.chosen, self.input)

    def is_scripted(self) -> bool:
        """Whether some of its modules run without Python, so that those in them are not seen."""
        from rdfia_cli.analysis.graph import can_be_watched

        return not all(map(can_be_watched, self.model.modules()))

    def naming(self) -> contextlib.AbstractContextManager[None]:
        """Name the model's component in whatever it raises when it is called."""
        return registry.naming(self.component, f"fails on inputs of shape {self.input.shape}")


def parse_shape(text: str) -> tuple[int, ...]:
    """The shape of one example as `--input` gives it: CxHxW, or F for points.

    Raises:
        UsageError: it is none.
    """
    sizes = text.lower().split("x")
    if not all(re.fullmatch(r"\d+", size, re.ASCII) and int(size) for size in sizes):
        raise UsageError(
            f"--input {text or repr(text)} is no shape", "write --input CxHxW, such as 3x224x224"
        )
    if any(len(size) > DIGITS for size in sizes):
        raise UsageError(f"--input {text} is too large", f"write sizes of at most {DIGITS} digits")
    return tuple(int(size) for size in sizes)


def request(text: str, shape: tuple[int, ...] | None = None, classes: int | None = None) -> Request:
    """Check what a MODEL argument asks for: a spec, `./file.py:function`, or a run folder.

    A run's model is fed what the run fed it, unless another input is given.

    Raises:
        UsageError: a setting is wrong, or the folder holds no run.
        ComponentError: there is no such model.
    """
    folder = Path(text)
    if not _is_run(text):
        return Request(text, resolve_component("model", text, "MODEL"), shape, classes)
    chosen = run.load_config(folder).model
    if shape is None or classes is None:
        fed = _input_of_run(folder)
        shape, classes = shape or fed.shape, classes or fed.classes
    component = registry.find("models", parse_spec(chosen.name))
    return Request(
        text, chosen, shape, classes, folder, tuple(run.changed_code(folder, [component]))
    )


def expand(texts: Sequence[str]) -> list[str]:
    """The models that are asked for, a pattern such as `timm/*` replaced by all that it means.

    Raises:
        UsageError: a pattern means none.
    """
    return [name for text in texts for name in _expand_one(text)]


def _expand_one(text: str) -> list[str]:
    pattern, colon, settings = text.partition(":")
    if not re.search(r"[*?\[]", pattern) or Path(pattern).exists():
        return [text]
    family, slash, member = pattern.partition("/")
    lister = f"rdfia list models '{family}/*'" if slash else "rdfia list models"
    if slash:
        component = registry.find("models", parse_spec(family))
        known = [f"{family}/{name}" for name in registry.members(component)]
        found = [f"{family}/{name}" for name in registry.members(component, member)]
    else:
        # A family is no model: its members are.
        named = {name: registry.claimants("models", name)[0] for name in registry.names("models")}
        known = [name for name, component in named.items() if not registry.is_family(component)]
        found = fnmatch.filter(known, pattern)
    if not found:
        raise UsageError(f"no model is called '{text}'", nearest(member or family, known, lister))
    return [f"{name}{colon}{settings}" for name in found]


def _is_run(text: str) -> bool:
    """Whether a folder is meant; a component's name comes first, and `./name` is the folder."""
    return Path(text).is_dir() and not registry.claimants("models", text)


def _input_of_run(folder: Path) -> InputSpec:
    try:
        stored = json.loads((folder / run.ENVIRONMENT).read_bytes())
        return InputSpec(tuple(stored["input"]), stored["classes"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UsageError(
            f"'{folder}' does not tell what its model is fed",
            "it is of an older rdfia: give --input CxHxW and --classes N",
        ) from None


def build(asked: Request) -> Subject:
    """Build a model on the meta device for what is asked, else for what it was made for.

    Raises:
        ComponentError: its builder fails.
    """
    component = registry.find("models", parse_spec(asked.chosen.name))
    own = _own_input(registry.load(component))
    model = None
    if own is None:
        model = _build_on_meta(component, asked.chosen, None)
        own = model.made_for if isinstance(model, MadeFor) else USUAL
    fed = InputSpec(asked.shape or own.shape, asked.classes or own.classes)
    if model is None or asked.shape or asked.classes:
        model = _build_on_meta(component, asked.chosen, fed)
    subject = Subject(asked.label, model, fed, component, asked.chosen)
    with subject.naming():
        return replace(subject, model=_on_meta(model, fed.shape))


def _own_input(builder: Callable[..., Any]) -> InputSpec | None:
    """The input that a builder was made for; None where only the model that it builds tells."""
    first = next(iter(inspect.signature(builder).parameters.values()), None)
    default = USUAL if first is None or first.default is first.empty else first.default
    return default if isinstance(default, InputSpec) else None


def _build_on_meta(
    component: registry.Component, chosen: ComponentConfig, input: InputSpec | None
) -> nn.Module:
    """Call the builder under the meta device, else on the CPU; no generator is left changed."""
    import torch

    from rdfia_cli.analysis.blank import leaving_blank

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            with torch.device("meta"), leaving_blank():
                return _build(component, chosen, input)
        except ComponentError as error:
            # A constructor that looks at numbers, such as RegNet's, cannot run without any.
            if error.__cause__ is None:
                raise
            return _build(component, chosen, input)


def _build(
    component: registry.Component, chosen: ComponentConfig, input: InputSpec | None
) -> nn.Module:
    """Call the builder, without the keywords that say where weights come from."""
    from torch import nn

    dropped = registry.first_weights(component)
    kept = {key: value for key, value in chosen.parameters.items() if key not in dropped}
    model = registry.build(component, input, **kept)
    if not isinstance(model, nn.Module):
        raise ComponentError(
            f"{component.address} returns {type(model).__name__}, not Module",
            "its builder breaks the contract of its group: see rdfia_cli/spec.py",
        )
    return model


def _on_meta(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    """The model on the meta device in evaluation mode; lazy layers learn their sizes before."""
    import torch
    from torch.nn.parameter import is_lazy

    from rdfia_cli.analysis.blank import shadow

    model.eval()
    if any(is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        device = next(model.parameters()).device
        with torch.no_grad(), torch.device(device):
            model(torch.zeros(1, *shape))
    return shadow(model)
