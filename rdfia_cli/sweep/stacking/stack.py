"""Trials in one computation: their tensors in stacks, and one step of all of them.

The model is the trials' own `nn.Module`: one copy stands for all, and is called under `vmap` with
the stacked parameters and buffers. A parameter of a trial is a view of its slot, so the trial's
own objects (model, optimizer, schedule, average, progress) are true at any time, and are saved,
evaluated and told like those of a run of its own.

No trial's numbers depend on which others are there: they meet in no sum, and `kernels` says how
many slots there are; those left over repeat the first trial.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rdfia_cli.spec import Batch
from rdfia_cli.sweep.stacking.alike import RATES
from rdfia_cli.sweep.stacking.draws import Draw, handing_out, note_draws
from rdfia_cli.sweep.stacking.updates import StackedOptimizer
from rdfia_cli.training.averaging import Average
from rdfia_cli.training.inputs import Pipeline
from rdfia_cli.training.loop import Plan, TrainingState
from rdfia_cli.training.metrics import Score
from rdfia_cli.training.randomness import derive_seed, draw_order

EVALUATED_TOGETHER = 16_384
"""Examples that some slots score at once, counted for each of them, which bounds the memory."""


@dataclass
class Member:
    """A trial in a stack: what `assembly.prepare` made of it."""

    state: TrainingState
    plan: Plan


class Stack:
    """Some trials of alike models, in the same step of whatever epoch each one is in.

    Args:
        members: the trials; their tensors become views of the stack's.
        least: slots that a stack of their models has at least, see `kernels`.
    """

    def __init__(self, members: Sequence[Member], *, least: int) -> None:
        self.members = members
        self._least = least
        self._first = members[0].plan
        self._device = self._first.train.device
        self._slots = [members[place] for place in self._pad(range(len(members)))]
        models = [slot.state.model for slot in self._slots]
        self._template = copy.deepcopy(models[0])
        self._rates = list(_find_rates(self._template, models))
        self._parameters, self._buffers = _stack_tensors(models)
        self._learning = {n: p for n, p in self._parameters.items() if p.requires_grad}
        self._optimizer = StackedOptimizer(
            [slot.state.optimizer for slot in self._slots], models, self._learning
        )
        self._averages = _stack_averages([slot.state.average for slot in self._slots])
        self._copied = {
            name
            for tensors in self._averages or ()
            for name, tensor in tensors.items()
            if not (tensor.is_floating_point() and tensor.isfinite().all())
        }
        self._draws: dict[int, Sequence[Draw]] = {}
        self._orders: Mapping[tuple[int, int], Tensor] = {}
        self._begin_progress()

    def begin_epoch(self) -> None:
        """Draw the order of each trial's next epoch, and set the modes of the modules."""
        self._template.train()
        frozen = {id(module) for module in self._first.frozen}
        pairs = zip(self._template.modules(), self.members[0].state.model.modules(), strict=True)
        for module, original in pairs:
            if id(original) in frozen:
                module.eval()
        for layer, key, rates in self._rates:
            setattr(layer, key, rates if layer.training else 0.0)
        count = len(self._first.train.split)
        keys = {(s.plan.seed, s.state.progress.epoch) for s in self._slots}
        self._orders = {key: draw_order(count, *key) for key in keys}

    def step(self, step: int) -> Tensor:
        """Update all trials once.

        Args:
            step: of the epoch, from 0.

        Returns:
            The loss of each trial, (T,) float, on the device.
        """
        began = time.perf_counter()
        inputs, labels, smooth_labels = self._batches(step)
        logits = self._forward(inputs, self._numbers(inputs, step))
        wide = logits if logits.dtype == torch.float64 else logits.float()
        losses = self._losses(wide, smooth_labels)
        gradients = self._gradients(losses)
        self._clip(gradients)
        for slot in self.members:
            slot.state.progress.learning_rate = float(slot.state.optimizer.param_groups[0]["lr"])
        self._optimizer.step(gradients)
        for slot in self.members:
            slot.state.schedule.step()
        self._average()
        losses = losses.detach()
        self._losses_of_epoch[:, step] = losses
        self._right += (logits.detach().argmax(-1) == labels).sum(1)
        share = (time.perf_counter() - began) / len(self.members)
        for slot in self.members:
            slot.state.progress.step = step + 1
            slot.state.progress.seconds += share
        return losses

    @torch.no_grad()
    def predict(
        self, pipeline: Pipeline, places: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """The logits of the scored models for a split, and its labels, on the CPU.

        Args:
            pipeline: the split's.
            places: those of the members that are asked for; None for all.

        Returns:
            Logits (T, N, classes) float32 and labels (N,) int64.
        """
        parameters, buffers = self._averages or (self._parameters, self._buffers)
        if places is not None:
            chosen = torch.tensor(self._pad(places), device=self._device)
            parameters = {name: t[chosen] for name, t in parameters.items()}
            buffers = {name: t[chosen] for name, t in buffers.items()}
        wanted = len(self.members if places is None else places)
        self._template.eval()
        for layer, key, _ in self._rates:
            setattr(layer, key, 0.0)
        parts: list[Tensor] = []
        labels: list[Tensor] = []
        for batch in pipeline.evaluation_batches():
            parts.append(torch.cat(list(self._score(parameters, buffers, batch.inputs, wanted))))
            labels.append(batch.labels.cpu())
        return torch.cat(parts, 1)[:wanted], torch.cat(labels)

    def _score(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        inputs: Tensor,
        wanted: int,
    ) -> Iterator[Tensor]:
        """The logits of some slots after the others, as many together as memory bears."""
        for part in self._divide(len(self._pad(range(wanted))), len(inputs)):
            # One input for all would fold the slots into one product, whose bits then depend on
            # how many they are.
            repeated = inputs.expand(part.stop - part.start, *inputs.shape)
            logits = self._call(
                {name: t[part] for name, t in parameters.items()},
                {name: t[part] for name, t in buffers.items()},
                repeated,
            )
            yield logits.float().cpu()

    def _divide(self, slots: int, examples: int) -> Iterator[slice]:
        """Slices of slots, of numbers that a stack may have, to score some examples each."""
        wanted = -(-slots * examples // EVALUATED_TOGETHER)
        parts = max(1, min(wanted, slots // self._least))
        for part in range(parts):
            yield slice(part * slots // parts, (part + 1) * slots // parts)

    def _pad(self, places: Sequence[int]) -> Sequence[int]:
        """The places of some members and, in slots left over, the first of them again."""
        slots = max(len(places), self._least)
        return [*places, *[places[0]] * (slots - len(places))]

    def _begin_progress(self) -> None:
        """The losses and counts of all trials in one tensor each, of which theirs are views."""
        progresses = [slot.state.progress for slot in self._slots]
        self._losses_of_epoch = torch.stack([progress.losses for progress in progresses])
        self._right = torch.stack([progress.correct for progress in progresses])
        for index, slot in enumerate(self.members):
            slot.state.progress.losses = self._losses_of_epoch[index]
            slot.state.progress.correct = self._right[index]

    def _batches(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs (T, B, ...), labels (T, B), and labels that may be mixed (T, B[, classes])."""
        keys = [(slot.plan.seed, slot.state.progress.epoch) for slot in self._slots]
        distinct = list(dict.fromkeys(keys))
        inputs, labels = self._take_batches(distinct, step)
        if distinct != keys:
            places = torch.tensor([distinct.index(key) for key in keys], device=inputs.device)
            inputs, labels = inputs.index_select(0, places), labels.index_select(0, places)
        truth = labels if labels.dtype == torch.int64 else labels.argmax(-1)
        return inputs, truth, labels

    def _take_batches(
        self, distinct: Sequence[tuple[int, int]], step: int
    ) -> tuple[Tensor, Tensor]:
        """The inputs (K, B, ...) and labels (K, B[, classes]) for some seeds and epochs."""
        train, size = self._first.train, self._first.batch_size
        chosen = [self._orders[key][step * size : (step + 1) * size] for key in distinct]
        if not train.augmentations and train.statistics.whitening is None:
            # Each example is scaled by itself, so that all are taken at once.
            indices = torch.cat(chosen).to(train.split.inputs.device)
            batch = train.batch(indices, 0, step)
            shape = (len(distinct), -1)
            return batch.inputs.unflatten(0, shape).contiguous(), batch.labels.unflatten(0, shape)
        batches: list[Batch] = []
        for (seed, epoch), indices in zip(distinct, chosen, strict=True):
            pipeline = replace(train, seed=seed)
            batches.append(pipeline.batch(indices.to(train.split.inputs.device), epoch, step))
        inputs = torch.stack([batch.inputs for batch in batches])
        return inputs.contiguous(), torch.stack([batch.labels for batch in batches])

    def _numbers(self, inputs: Tensor, step: int) -> Sequence[Tensor]:
        """What the layers draw in this step, (T, ...) each."""
        size = inputs.shape[1]
        if size not in self._draws:
            self._draws[size] = self._note_draws(inputs)
        if not self._draws[size]:
            return ()
        generators = [
            torch.Generator(self._device).manual_seed(
                derive_seed(slot.plan.seed, "layers", slot.state.progress.epoch, step)
            )
            for slot in self.members
        ]
        return [draw.make(generators, len(self._slots)) for draw in self._draws[size]]

    def _note_draws(self, inputs: Tensor) -> Sequence[Draw]:
        # A copy, since the pass moves the statistics of batch normalisation.
        model = copy.deepcopy(self._template)
        one = inputs[0]
        if one.ndim == 4:
            one = one.contiguous(memory_format=self._first.arithmetic.memory_format)
        with torch.no_grad(), self._first.arithmetic.autocast(self._device):
            return note_draws(lambda: model(one), len(self._slots))

    def _forward(self, inputs: Tensor, numbers: Sequence[Tensor]) -> Tensor:
        return self._call(self._parameters, self._buffers, inputs, numbers)

    def _call(
        self,
        parameters: Mapping[str, Tensor],
        buffers: Mapping[str, Tensor],
        inputs: Tensor,
        numbers: Sequence[Tensor] = (),
    ) -> Tensor:
        """The logits of all trials, (T, B, classes)."""

        def call(p: Any, b: Any, x: Tensor, drawn: Sequence[Tensor]) -> Tensor:
            if not drawn:
                return functional_call(self._template, (p, b), (x,))
            with handing_out(drawn, len(self._slots)):
                return functional_call(self._template, (p, b), (x,))

        with self._first.arithmetic.autocast(self._device):
            return torch.vmap(call, randomness="error")(
                dict(parameters), dict(buffers), inputs, tuple(numbers)
            )

    def _losses(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The loss of each trial, (T,), as `Objective` has it for one."""
        objective = self._first.objective
        smoothing = [slot.plan.objective.label_smoothing for slot in self._slots]
        logarithms = F.log_softmax(logits, -1)
        weights = objective.class_weights
        if weights is not None:
            weights = weights.to(logits.dtype)
        if labels.dtype == torch.int64:
            return _hard_losses(logarithms, labels, weights, smoothing)
        return _soft_losses(logarithms, labels, weights, smoothing)

    def _gradients(self, losses: Tensor) -> dict[str, Tensor | None]:
        # Each trial's loss depends on its own slot alone, so the sum's gradient is theirs.
        found = torch.autograd.grad(losses.sum(), list(self._learning.values()), allow_unused=True)
        return dict(zip(self._learning, found, strict=True))

    @torch.no_grad()
    def _clip(self, gradients: Mapping[str, Tensor | None]) -> None:
        """Scale each trial's gradient to its largest norm, as `clip_grad_norm_` does."""
        limits = [slot.plan.objective.clip_norm for slot in self._slots]
        if not any(limits):
            return
        there = [gradient for gradient in gradients.values() if gradient is not None]
        norms = torch.stack([gradient.flatten(1).norm(dim=1) for gradient in there], 1).norm(dim=1)
        factors = torch.tensor(limits, dtype=norms.dtype, device=norms.device) / (norms + 1e-6)
        factors = factors.clamp(max=1.0)
        for gradient in there:
            gradient.mul_(_column(factors, gradient))

    @torch.no_grad()
    def _average(self) -> None:
        if self._averages is None:
            return
        shares: list[float] = []
        for slot in self._slots:
            average = slot.state.average
            assert average is not None
            shares.append(average.share(slot.state.progress.total_steps))
        for kept, current in zip(self._averages, (self._parameters, self._buffers), strict=True):
            for name, tensor in kept.items():
                if name not in self._copied:
                    share = torch.tensor(shares, dtype=tensor.dtype, device=tensor.device)
                    tensor.lerp_(current[name], _column(share, tensor))
                else:
                    tensor.copy_(current[name])


def score_all(logits: Tensor, labels: Tensor) -> list[Score]:
    """Loss and accuracy of each trial: logits (T, N, classes), labels (N,) int64."""
    logarithms = F.log_softmax(logits.double(), -1)
    places = labels.expand(len(logits), -1).unsqueeze(-1)
    losses = -logarithms.gather(-1, places).squeeze(-1).mean(1)
    right = (logits.argmax(-1) == labels).sum(1)
    return [
        Score(loss, count / len(labels))
        for loss, count in zip(losses.tolist(), right.tolist(), strict=True)
    ]


def _find_rates(
    template: nn.Module, models: Sequence[nn.Module]
) -> Iterator[tuple[nn.Module, str, tuple[float, ...]]]:
    """The layers whose rate differs by trial, the name of the rate, and those of all."""
    for name, module in template.named_modules():
        key = RATES.get(type(module))
        if key is not None:
            rates = tuple(float(getattr(model.get_submodule(name), key)) for model in models)
            if any(rates):
                yield module, key, rates


def _stack_tensors(
    models: Sequence[nn.Module],
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Stacked parameters and buffers by name; those of the models become views of them."""
    parameters: dict[str, Tensor] = {}
    for name, first in models[0].named_parameters():
        own = [model.get_parameter(name) for model in models]
        stacked = torch.stack([p.detach() for p in own])
        for slot, parameter in reversed(list(enumerate(own))):
            parameter.data = stacked[slot]
        parameters[name] = stacked.requires_grad_(first.requires_grad)
    buffers: dict[str, Tensor] = {}
    for name, _ in models[0].named_buffers():
        own = [model.get_buffer(name) for model in models]
        buffers[name] = torch.stack(own)
        for slot, buffer in reversed(list(enumerate(own))):
            buffer.data = buffers[name][slot]
    return parameters, buffers


def _stack_averages(
    averages: Sequence[Average | None],
) -> tuple[dict[str, Tensor], dict[str, Tensor]] | None:
    models = [average.model for average in averages if average is not None]
    return _stack_tensors(models) if models else None


def _column(values: Tensor, like: Tensor) -> Tensor:
    return values.view(-1, *(1,) * (like.ndim - 1))


def _hard_losses(
    logarithms: Tensor, labels: Tensor, weights: Tensor | None, smoothing: Sequence[float]
) -> Tensor:
    """Mean cross-entropy of each trial: log-probabilities (T, B, C), labels (T, B) int64."""
    terms = -logarithms.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    if weights is None:
        plain = terms.mean(1)
    else:
        chosen = weights[labels]
        plain = (chosen * terms).sum(1) / chosen.sum(1)
    if not any(smoothing):
        return plain
    if weights is None:
        spread = -logarithms.sum(-1).mean(1)
    else:
        spread = -(logarithms * weights).sum((1, 2)) / weights[labels].sum(1)
    share = torch.tensor(smoothing, dtype=plain.dtype, device=plain.device)
    return (1 - share) * plain + share / logarithms.shape[-1] * spread


def _soft_losses(
    logarithms: Tensor, labels: Tensor, weights: Tensor | None, smoothing: Sequence[float]
) -> Tensor:
    """The same for labels (T, B, C) that are shares of the classes, smoothed in their own type."""
    smoothed = labels
    if any(smoothing):
        kept = labels.new_tensor([1 - share for share in smoothing])
        given = labels.new_tensor([share / labels.shape[-1] for share in smoothing])
        smoothed = labels * kept.view(-1, 1, 1) + given.view(-1, 1, 1)
    if weights is None:
        return -(logarithms * smoothed).sum((1, 2)) / labels.shape[1]
    total = (labels * weights).sum((1, 2))
    return -(logarithms * smoothed * weights).sum((1, 2)) / total
