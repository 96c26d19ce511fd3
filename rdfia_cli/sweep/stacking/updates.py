"""The updates of PyTorch's optimizers on stacked parameters, with settings of each trial's own.

Every formula has the order of operations of the class that it stands for. An optimizer of another
class makes its own step on the parameters of its trial, one trial after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from rdfia_cli.lean_torch import has_step_hooks


@dataclass
class Group:
    """A parameter group of all trials.

    Attributes:
        settings: for each trial its `param_groups` entry, which a schedule changes.
        names: of its parameters that learn.
    """

    settings: Sequence[Mapping[str, Any]]
    names: Sequence[str]
    _made: dict[str, tuple[list[Any], Tensor]] = field(default_factory=dict[str, Any])

    def values(self, key: str) -> list[Any]:
        """A setting of each trial."""
        return [settings[key] for settings in self.settings]

    def column(self, key: str, like: Tensor) -> Tensor:
        """A setting of each trial as (T, 1, ...), made anew only when it changed."""
        return self.made(key, self.values(key), like)

    def made(self, key: str, values: list[Any], like: Tensor) -> Tensor:
        """Numbers of each trial as (T, 1, ...) of the type of `like`."""
        before = self._made.get(key)
        if before is None or before[0] != values or before[1].dtype != like.dtype:
            before = values, torch.tensor(values, dtype=like.dtype, device=like.device)
            self._made[key] = before
        return before[1].view(-1, *(1,) * (like.ndim - 1))


Update = Callable[[Group, str, Tensor, Tensor], None]


class StackedOptimizer:
    """All trials' optimizers over one stack.

    Their states are views of stacked moments, so that each can be saved as it stands.

    Args:
        optimizers: one a trial, of one class and with alike groups; what is 0 for one of them,
            such as its momentum, is 0 for all.
        models: the trials' models.
        parameters: the stacked parameters that learn, (T, ...) by name.
    """

    def __init__(
        self,
        optimizers: Sequence[Optimizer],
        models: Sequence[nn.Module],
        parameters: Mapping[str, Tensor],
    ) -> None:
        self._optimizers = optimizers
        self._parameters = parameters
        self._models = models
        self._moments: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
        names = {p: name for name, p in models[0].named_parameters()}
        self._groups = [
            Group(
                [optimizer.param_groups[index] for optimizer in optimizers],
                [names[p] for p in group["params"] if names[p] in parameters],
            )
            for index, group in enumerate(optimizers[0].param_groups)
        ]
        self._steps: Tensor | None = None
        self._counts: list[int] = []
        self._update = self._choose()
        if self._update is not None:
            self._stack_state()
            for optimizer in optimizers:
                # By this mark a schedule knows that the optimizer steps before it does.
                optimizer._opt_called = True  # pyright: ignore

    @property
    def stacked(self) -> bool:
        """Whether one computation updates all trials."""
        return self._update is not None

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Update all trials once; a parameter without a gradient stays as it is."""
        if self._update is None:
            self._step_apart(gradients)
            return
        if self._steps is not None:
            self._steps += 1
            self._counts = [count + 1 for count in self._counts]
        for group in self._groups:
            for name in group.names:
                gradient = gradients[name]
                if gradient is not None:
                    self._update(group, name, self._parameters[name], gradient)

    def _step_apart(self, gradients: Mapping[str, Tensor | None]) -> None:
        seen: set[int] = set()
        for slot, (optimizer, model) in enumerate(zip(self._optimizers, self._models, strict=True)):
            if id(optimizer) in seen:
                continue
            seen.add(id(optimizer))
            for name, parameter in model.named_parameters():
                gradient = gradients.get(name)
                parameter.grad = None if gradient is None else gradient[slot]
            with torch.enable_grad():
                optimizer.step()

    def _choose(self) -> Update | None:
        """The formula for the optimizers' class and flags, or None."""
        kinds = {type(optimizer) for optimizer in self._optimizers}
        unusual = any(any(self._all(key)) for key in ("maximize", "amsgrad", "capturable"))
        unusual = unusual or any(has_step_hooks(optimizer) for optimizer in self._optimizers)
        if len(kinds) > 1 or unusual or any(isinstance(rate, Tensor) for rate in self._all("lr")):
            return None
        kind = kinds.pop()
        if kind is SGD and self._alike("nesterov") and not any(self._all("dampening")):
            return self._sgd
        if kind is Adam and not any(self._all("decoupled_weight_decay")):
            return self._adam
        if kind is AdamW or kind is Adam:
            return self._adam if self._alike("decoupled_weight_decay") else None
        return self._rmsprop if kind is RMSprop and self._alike("centered") else None

    def _all(self, key: str) -> list[Any]:
        return [s.get(key) for group in self._groups for s in group.settings]

    def _alike(self, key: str) -> bool:
        return len({*self._all(key)}) <= 1

    def _stack_state(self) -> None:
        """Bring the moments that the trials have into stacks, and let their states be views."""
        kind = type(self._optimizers[0])
        if kind is not SGD:
            self._counts = [self._count(optimizer) for optimizer in self._optimizers]
            self._steps = torch.tensor([float(count) for count in self._counts])
        for group in self._groups:
            for name in group.names:
                for key in self._keys(kind, group):
                    self._moments[name][key] = self._stack_moment(name, key)
                self._share(name)

    def _keys(self, kind: type, group: Group) -> Sequence[str]:
        momentum = any(group.values("momentum")) if kind in (SGD, RMSprop) else False
        if kind is SGD:
            return ["momentum_buffer"] if momentum else []
        if kind is RMSprop:
            centred = group.settings[0]["centered"]
            return [
                "square_avg",
                *(["momentum_buffer"] if momentum else []),
                *(["grad_avg"] if centred else []),
            ]
        return ["exp_avg", "exp_avg_sq"]

    def _count(self, optimizer: Optimizer) -> int:
        steps = [int(state["step"]) for state in optimizer.state.values() if "step" in state]
        return max(steps, default=0)

    def _stack_moment(self, name: str, key: str) -> Tensor:
        stacked = torch.zeros_like(self._parameters[name], requires_grad=False)
        for slot, (optimizer, model) in enumerate(zip(self._optimizers, self._models, strict=True)):
            before = optimizer.state.get(model.get_parameter(name), {}).get(key)
            if before is not None:
                stacked[slot] = before
        return stacked

    def _share(self, name: str) -> None:
        """Let each trial's state of a parameter be views of the stacks."""
        seen: set[int] = set()
        for slot, (optimizer, model) in enumerate(zip(self._optimizers, self._models, strict=True)):
            if id(optimizer) in seen:
                continue
            seen.add(id(optimizer))
            state: dict[str, Any] = {}
            if self._steps is not None:
                state["step"] = self._steps[slot]
            for key, moment in self._moments[name].items():
                state[key] = moment[slot]
            if state:
                optimizer.state[model.get_parameter(name)] = state

    def _decay(self, group: Group, parameter: Tensor, gradient: Tensor) -> Tensor:
        """The gradient with the L2 term of the weights."""
        if not any(group.values("weight_decay")):
            return gradient
        return torch.addcmul(gradient, parameter, group.column("weight_decay", parameter))

    def _sgd(self, group: Group, name: str, parameter: Tensor, gradient: Tensor) -> None:
        gradient = self._decay(group, parameter, gradient)
        buffer = self._moments[name].get("momentum_buffer")
        if buffer is not None:
            momentum = group.column("momentum", parameter)
            buffer.mul_(momentum).add_(gradient)
            nesterov = group.settings[0]["nesterov"]
            gradient = torch.addcmul(gradient, buffer, momentum) if nesterov else buffer
        rate = group.made("-lr", [-rate for rate in group.values("lr")], parameter)
        parameter.addcmul_(gradient, rate)

    def _adam(self, group: Group, name: str, parameter: Tensor, gradient: Tensor) -> None:
        rates, betas = group.values("lr"), group.values("betas")
        if group.settings[0].get("decoupled_weight_decay"):
            decays = group.values("weight_decay")
            kept = [1 - rate * decay for rate, decay in zip(rates, decays, strict=True)]
            parameter.mul_(group.made("kept", kept, parameter))
        else:
            gradient = self._decay(group, parameter, gradient)
        first, second = self._moments[name]["exp_avg"], self._moments[name]["exp_avg_sq"]
        first.lerp_(gradient, group.made("1-beta1", [1 - b for b, _ in betas], parameter))
        second.mul_(group.made("beta2", [b for _, b in betas], parameter))
        second.addcmul_(
            gradient * gradient, group.made("1-beta2", [1 - b for _, b in betas], parameter)
        )
        counts = self._counts
        sizes = [-r / (1 - b[0] ** n) for r, b, n in zip(rates, betas, counts, strict=True)]
        roots = [(1 - b[1] ** n) ** 0.5 for b, n in zip(betas, counts, strict=True)]
        denominator = second.sqrt().div_(group.made("root", roots, parameter))
        denominator.add_(group.column("eps", parameter))
        ratio = first / denominator
        parameter.addcmul_(ratio, group.made("size", sizes, parameter))

    def _rmsprop(self, group: Group, name: str, parameter: Tensor, gradient: Tensor) -> None:
        gradient = self._decay(group, parameter, gradient)
        moments, alphas = self._moments[name], group.values("alpha")
        square = moments["square_avg"]
        rest = group.made("1-alpha", [1 - alpha for alpha in alphas], parameter)
        square.mul_(group.column("alpha", parameter)).addcmul_(gradient * gradient, rest)
        if "grad_avg" in moments:
            mean = moments["grad_avg"]
            mean.lerp_(gradient, rest)
            average = torch.addcmul(square, mean, mean, value=-1).sqrt_()
        else:
            average = square.sqrt()
        average.add_(group.column("eps", parameter))
        rate = group.made("-lr", [-rate for rate in group.values("lr")], parameter)
        update = gradient / average
        if "momentum_buffer" in moments:
            update = (
                moments["momentum_buffer"].mul_(group.column("momentum", parameter)).add_(update)
            )
        parameter.addcmul_(update, rate)
