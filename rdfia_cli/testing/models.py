"""What every model promises."""

from __future__ import annotations

from collections.abc import Iterator

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ConstantLR

from rdfia_cli.analysis.layers import analyse
from rdfia_cli.analysis.parameters import measure
from rdfia_cli.analysis.subject import Request, build
from rdfia_cli.config import resolve_component
from rdfia_cli.errors import RdfiaError
from rdfia_cli.spec import HandDifferentiated, InputSpec
from rdfia_cli.testing.process_state import changes, settings_of_torch
from rdfia_cli.testing.short_run import FP32, descent, noise, plan_for, require_exact_resume
from rdfia_cli.testing.subject import KEYS, NonConformityError, NotApplicableError, Subject, require
from rdfia_cli.training.precision import Arithmetic
from rdfia_cli.training.step import training_step

INPUTS = (
    InputSpec((3, 32, 32), 10),
    InputSpec((1, 28, 28), 10),
    InputSpec((3, 33, 29), 7),
    InputSpec((1, 17, 23), 3),
    InputSpec((4, 40, 40), 2),
    InputSpec((2,), 3),
)
"""Usual images, odd sizes and channels, and points."""
LARGE = InputSpec((3, 224, 224), 5)
"""For a model that takes none of INPUTS."""

STEPS = 5
"""Steps within which a gradient must have come everywhere: the first may find layers at zero."""


def build_model(subject: Subject, fed: InputSpec, seed: int = 0) -> nn.Module:
    """The model for an input, initialised from a seed."""
    torch.manual_seed(seed)
    model = subject.build(fed)
    require(isinstance(model, nn.Module), f"it returns {type(model).__name__}, not nn.Module")
    return model


def accepted(subject: Subject) -> Iterator[tuple[InputSpec, nn.Module]]:
    """The model for each of INPUTS, else for LARGE, that its builder does not refuse in words."""
    taken = 0
    for fed in (*INPUTS, LARGE):
        if taken and fed is LARGE:
            return
        try:
            model = build_model(subject, fed)
        except RdfiaError as error:
            if error.__cause__ is not None:
                raise
            continue
        taken += 1
        yield fed, model


def usual_input(subject: Subject) -> InputSpec:
    """The first of INPUTS that the builder takes.

    Raises:
        NonConformityError: it refuses all of them.
    """
    for fed, _ in accepted(subject):
        return fed
    shapes = ", ".join("x".join(map(str, fed.shape)) for fed in (*INPUTS, LARGE))
    raise NonConformityError(f"the builder takes none of {shapes}")


def logits_have_their_shape(subject: Subject) -> None:
    """Logits are (B, classes) for every input that the builder takes, and it takes one at least."""
    usual_input(subject)
    for fed, model in accepted(subject):
        model.eval()
        for count in (1, 3):
            with torch.no_grad():
                logits = model(noise(fed, count).inputs)
            kind = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            expected = (count, fed.classes)
            where = f"for {count} inputs of {fed.shape} and {fed.classes} classes"
            require(kind == expected, f"it returns {kind} {where}, not {expected}")
            require(logits.isfinite().all(), f"it returns NaN or infinity {where}")


def gradients_reach_every_parameter(subject: Subject) -> None:
    """Within a few steps every parameter that learns has had a gradient other than zero."""
    fed = usual_input(subject)
    model = build_model(subject, fed).train()
    waiting = {name for name, p in model.named_parameters() if p.requires_grad}
    optimizer = descent(model.parameters(), 0.01)
    for step in range(STEPS):
        _train(model, fed, optimizer, FP32, step)
        for name, parameter in model.named_parameters():
            if parameter.grad is not None and parameter.grad.any():
                require(parameter.grad.isfinite().all(), f"the gradient of '{name}' is infinite")
                waiting.discard(name)
    require(not waiting, f"no gradient reaches {', '.join(sorted(waiting))}: use or remove it")


def _train(
    model: nn.Module,
    fed: InputSpec,
    optimizer: torch.optim.Optimizer,
    arithmetic: Arithmetic,
    seed: int = 0,
) -> Tensor:
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    loss, _ = training_step(model, noise(fed, 8, seed), optimizer, arithmetic, scaler)
    return loss


def evaluation_is_pure(subject: Subject) -> None:
    """In evaluation mode it draws nothing, changes nothing, and sees each example on its own."""
    fed = usual_input(subject)
    model, batch = build_model(subject, fed).eval(), noise(fed, 4)
    untouched, state = batch.inputs.clone(), _state(model)
    generator = torch.get_rng_state()
    with torch.no_grad():
        first, second = model(batch.inputs), model(batch.inputs)
        alone = torch.cat([model(example[None]) for example in batch.inputs])
    require(torch.equal(first, second), "two passes in evaluation mode differ")
    require(torch.equal(torch.get_rng_state(), generator), "it draws random numbers")
    require(torch.equal(batch.inputs, untouched), "it changes the inputs that it is given")
    changed = [
        name for name, tensor in _state(model).items() if not torch.equal(tensor, state[name])
    ]
    require(not changed, f"it changes its state: {', '.join(changed)}")
    require(_close(alone, first), "the logits of an example depend on the others in the batch")


def training_differs_only_where_it_may(subject: Subject) -> None:
    """Training mode gives other logits only by drawing numbers or by statistics that it keeps."""
    fed = usual_input(subject)
    model, batch = build_model(subject, fed), noise(fed, 4)
    with torch.no_grad():
        evaluated = model.eval()(batch.inputs)
        state, generator = _state(model), torch.get_rng_state()
        trained = model.train()(batch.inputs)
    require(trained.shape == evaluated.shape, "logits have another shape in training mode")
    drew = not torch.equal(torch.get_rng_state(), generator)
    kept = any(not torch.equal(tensor, state[name]) for name, tensor in _state(model).items())
    require(
        drew or kept or _close(trained, evaluated),
        "training mode gives other logits, though it draws nothing and keeps no statistics",
    )


def state_round_trips(subject: Subject) -> None:
    """Its state goes through safetensors into a fresh model, which then gives the same bits."""
    fed = usual_input(subject)
    model, other = build_model(subject, fed), build_model(subject, fed, seed=1)
    odd = [name for name, value in model.state_dict().items() if not isinstance(value, Tensor)]
    require(not odd, f"its state holds what is no tensor: {', '.join(odd)}")
    content = safetensors.torch.save({k: v.contiguous() for k, v in _state(model).items()})
    other.load_state_dict(safetensors.torch.load(content))
    inputs = noise(fed, 3).inputs
    with torch.no_grad():
        require(
            torch.equal(model.eval()(inputs), other.eval()(inputs)),
            "a model with the same state_dict() gives other logits: what it needs must be in there",
        )


def a_seed_decides_everything(subject: Subject) -> None:
    """Equal seeds give equal weights, other seeds others."""
    fed = usual_input(subject)
    first, again = (_state(build_model(subject, fed)) for _ in range(2))
    unequal = [name for name, tensor in first.items() if not torch.equal(tensor, again[name])]
    require(not unequal, f"two models from one seed differ in {', '.join(unequal)}")
    other = _state(build_model(subject, fed, seed=1))
    require(
        any(not torch.equal(tensor, other[name]) for name, tensor in first.items()),
        "another seed gives the same weights: draw them from torch's global generator",
    )


def a_run_resumes_exactly(subject: Subject) -> None:
    """A run of it that is stopped and resumed ends with the same bytes as one never stopped."""
    fed = usual_input(subject)

    def parts() -> tuple[nn.Module, torch.optim.Optimizer, type[ConstantLR]]:
        model = build_model(subject, fed)
        optimizer = descent(model.parameters(), 0.01, momentum=0.9)
        return model, optimizer, ConstantLR

    require_exact_resume(plan_for(fed), parts)


def it_computes_in_bf16(subject: Subject) -> None:
    """A step under autocast to bf16 gives finite loss and gradients, and weights in fp32."""
    fed = usual_input(subject)
    model = build_model(subject, fed).train()
    if isinstance(model, HandDifferentiated):
        raise NotApplicableError("it writes its own gradients, which rdfia keeps in fp32")
    optimizer = descent(model.parameters(), 0.01)
    loss = _train(model, fed, optimizer, Arithmetic("bf16", channels_last=False))
    require(loss.isfinite(), f"the loss in bf16 is {loss.item()}")
    for name, parameter in model.named_parameters():
        found = parameter.grad
        require(found is None or found.isfinite().all(), f"the gradient of '{name}' is infinite")
        require(parameter.dtype.itemsize >= 4, f"'{name}' is {parameter.dtype}: keep it in fp32")


def it_takes_channels_last(subject: Subject) -> None:
    """The layout of images in memory does not decide the logits."""
    fed = usual_input(subject)
    if len(fed.shape) != 3:
        raise NotApplicableError("it takes no images")
    model, inputs = build_model(subject, fed).eval(), noise(fed, 4).inputs
    with torch.no_grad():
        expected = model(inputs)
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        found = model(inputs.contiguous(memory_format=torch.channels_last))
    require(_close(found, expected), "it gives other logits where the channels lie last in memory")


def it_is_counted_without_numbers(subject: Subject) -> None:
    """`rdfia param-count` counts it, and finds as many parameters as the real model has."""
    fed = usual_input(subject)
    found = build(_request(subject, fed))
    costs = measure(found.model, fed, realise=found.realise)
    real = sum(parameter.numel() for parameter in build_model(subject, fed).parameters())
    counted = costs.total.parameters
    require(counted == real, f"{counted} parameters are counted on the meta device, not {real}")
    require(costs.total.macs > 0, "no multiply-accumulate is counted")


def its_receptive_field_is_found(subject: Subject) -> None:
    """`rdfia receptive-field` follows it to its logits."""
    fed = usual_input(subject)
    found = analyse(build(_request(subject, fed)).model, fed.shape)
    last = next((layer for layer in found.layers if not layer.name), None)
    outputs = [layer.output for layer in found.layers]
    require(outputs, "it calls no module")
    require(last is None or last.output[-1] == fed.classes, "the field ends before the logits")


def torch_is_left_as_it_was(subject: Subject) -> None:
    """Building and calling it changes none of torch's global settings."""
    before, fed = settings_of_torch(), usual_input(subject)
    model = build_model(subject, fed)
    _train(model.train(), fed, descent(model.parameters(), 0.01), FP32)
    changed = list(changes(before, settings_of_torch()))
    require(not changed, f"it changes {', '.join(changed)}")


def _request(subject: Subject, fed: InputSpec) -> Request:
    chosen = resolve_component(KEYS["models"], subject.spec, "the check")
    return Request(subject.spec, chosen, fed.shape, fed.classes)


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {
        name: value.detach().clone()
        for name, value in model.state_dict().items()
        if isinstance(value, Tensor)
    }


def _close(found: Tensor, expected: Tensor) -> bool:
    """Equal but for the order of additions."""
    scale = float(expected.abs().max().clamp(min=1.0))
    return torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * scale)


CHECKS = (
    logits_have_their_shape,
    gradients_reach_every_parameter,
    evaluation_is_pure,
    training_differs_only_where_it_may,
    state_round_trips,
    a_seed_decides_everything,
    a_run_resumes_exactly,
    it_computes_in_bf16,
    it_takes_channels_last,
    it_is_counted_without_numbers,
    its_receptive_field_is_found,
    torch_is_left_as_it_was,
)
