# ruff: noqa: E501
"""Each check of the kit finds the one promise that a component breaks, and says which."""

from __future__ import annotations

import textwrap

import pytest

from rdfia_cli.errors import ComponentError
from rdfia_cli.testing import CHECKS
from rdfia_cli.testing.subject import subject_of, subjects_of
from rdfia_cli.testing.suite import promise, run_check

pytestmark = pytest.mark.usefixtures("one_thread")

HEAD = """
import torch
from torch import nn
from rdfia_cli.spec import Batch, InputSpec, Split, Splits
from rdfia_cli.errors import ComponentError

def size(input):
    number = 1
    for side in input.shape:
        number *= side
    return number

class Model(nn.Module):
    def __init__(self, input):
        super().__init__()
        self.first, self.last = nn.Linear(size(input), 8), nn.Linear(8, input.classes)
    def forward(self, x):
        return self.last(self.first(x.flatten(1)).relu())

class Flow(nn.Module):
    def __init__(self, output):
        super().__init__()
        self.output, self.evaluation = output, None
    def draw(self, batch, generator):
        shape = (len(batch.labels), *(1 for _ in batch.inputs.shape[1:]))
        return torch.rand(shape, generator=generator)
    def forward(self, batch, generator):
        return Batch(batch.inputs * self.draw(batch, generator), batch.labels)

"""

MODEL_FAULTS = {
    "signature_is_bindable": [
        ("def build(input, width: int = 8): return Model(input)", "'width' is positional"),
        ("def build(input, *widths): return Model(input)", "*widths cannot be set by name"),
        ("def build(input, **others): return Model(input)", "**others takes any keyword"),
        ("def build(input, *, width=8): return Model(input)", "'width' has no annotation"),
        ("def build(input, *, sizes: list = [1]): return Model(input)", "which every call shares"),
        ("def build(*, input: int = 3): return Model(input)", "first parameter must be positional"),
    ],
    "source_tells_the_signature": [
        ("W = 8\ndef build(input, *, width: int = W): return Model(input)", "without an import"),
    ],
    "defaults_are_of_their_types": [
        ("def build(input, *, width: int = 1.5): return Model(input)", "does not fit"),
    ],
    "docstring_describes_it": [
        ("def build(input): return Model(input)", "has no docstring"),
        (f"def build(input):\n '''{'x' * 101}'''\n return Model(input)", "has 101 letters"),
    ],
    "import_has_no_side_effects": [
        ("print('hello')\ndef build(input): return Model(input)", "prints to standard output"),
        ("torch.manual_seed(3)\ndef build(input): return Model(input)", "changes torch's seed"),
        ("torch.set_default_dtype(torch.float64)\ndef build(input): pass", "default dtype"),
        ("import os\nos.environ['OMP_NUM_THREADS'] = '7'\ndef build(input): pass", "OMP_NUM_THREA"),
        ("import pathlib\npathlib.Path('left.txt').touch()\ndef build(input): pass", "the files in the working directory"),
        ("import os\nos._exit(3)\ndef build(input): pass", "ended the process with 3"),
    ],
    "logits_have_their_shape": [
        ("def build(input): return nn.Sequential(nn.Flatten(), nn.Linear(size(input), 3))",
         "it returns (1, 3)"),
        ("def build(input): return nn.Sequential(nn.Flatten(), nn.Linear(3072, input.classes))",
         "RuntimeError"),
        ("def build(input): raise ComponentError('no')", "takes none of 3x32x32"),
        ("def build(input): return 3", "returns int, not nn.Module"),
    ],
    "gradients_reach_every_parameter": [
        ("class M(Model):\n def forward(self, x): return self.last(self.first(x.flatten(1)).detach())"
         "\ndef build(input): return M(input)", "no gradient reaches first.bias, first.weight"),
    ],
    "evaluation_is_pure": [
        ("class M(Model):\n def forward(self, x): return super().forward(x - x.mean(0))"
         "\ndef build(input): return M(input)", "depend on the others in the batch"),
        ("class M(Model):\n def forward(self, x): return super().forward(x.mul_(2))"
         "\ndef build(input): return M(input)", "differ"),
        ("class M(Model):\n def forward(self, x): return super().forward(x) + torch.rand(1)"
         "\ndef build(input): return M(input)", "differ"),
    ],
    "training_differs_only_where_it_may": [
        ("class M(Model):\n def forward(self, x): return super().forward(x) * (1 + self.training)"
         "\ndef build(input): return M(input)", "though it draws nothing"),
    ],
    "state_round_trips": [
        ("class M(Model):\n def __init__(self, input):\n  super().__init__(input)\n"
         "  self.shift = torch.rand(1)\n def forward(self, x): return super().forward(x) + self.shift"
         "\ndef build(input): return M(input)", "must be in there"),
    ],
    "a_seed_decides_everything": [
        ("import numpy\nG = numpy.random.default_rng()\ndef build(input):\n m = Model(input)\n"
         " nn.init.constant_(m.last.bias, G.random())\n return m", "differ in last.bias"),
        ("def build(input):\n torch.manual_seed(5)\n return Model(input)", "gives the same weights"),
    ],
    "a_run_resumes_exactly": [
        ("class M(Model):\n def __init__(self, input):\n  super().__init__(input)\n  self.calls = 0\n"
         " def forward(self, x):\n  self.calls += self.training\n"
         "  return super().forward(x) * (1 + .1 * self.calls)\ndef build(input): return M(input)",
         "all that changes must be in state_dict()"),
    ],
    "it_computes_in_bf16": [
        ("def build(input): return Model(input).to(torch.bfloat16)", "keep it in fp32"),
        ("class M(Model):\n def forward(self, x): return super().forward(x) / (x.dtype != "
         "self.first(x.flatten(1)).dtype) * 0 + float('nan')\ndef build(input): return M(input)",
         "the loss in bf16 is nan"),
    ],
    "it_takes_channels_last": [
        ("class M(Model):\n def forward(self, x):\n"
         "  return super().forward(x) + x.is_contiguous()\ndef build(input): return M(input)",
         "channels lie last in memory"),
    ],
    "it_is_counted_without_numbers": [
        ("class M(Model):\n def forward(self, x): raise ValueError('never')\n"
         "def build(input): return M(input)", "ValueError: never"),
    ],
    "its_receptive_field_is_found": [
        ("class M(Model):\n def forward(self, x): raise ValueError('never')\n"
         "def build(input): return M(input)", "never"),
    ],
    "torch_is_left_as_it_was": [
        ("def build(input):\n torch.set_num_threads(3)\n return Model(input)", "torch's threads"),
    ],
}  # fmt: skip

AUGMENTATION_FAULTS = {
    "shape_and_dtype_are_as_promised": [
        ("class F(Flow):\n def forward(self, b, g): return Batch(b.inputs[:, :, 1:], b.labels)",
         "`output` says"),
        ("class F(Flow):\n def forward(self, b, g): return Batch(b.inputs.double(), b.labels)",
         "torch.float64"),
        ("class F(Flow):\n def forward(self, b, g): return b.inputs", "returns Tensor, not Batch"),
    ],
    "pixels_stay_in_range": [
        ("class F(Flow):\n def forward(self, b, g): return Batch(b.inputs * 2, b.labels)", "2"),
    ],
    "labels_stay_labels": [
        ("class F(Flow):\n def forward(self, b, g): return Batch(b.inputs, b.labels * 0.5)",
         "torch.float32"),
    ],
    "its_input_is_left_alone": [
        ("class F(Flow):\n def forward(self, b, g): return Batch(b.inputs.mul_(.5), b.labels)",
         "it changes the batch"),
        ("class F(Flow):\n def forward(self, b, g): return Batch(b.inputs.flip(3)[:, :, :], b.labels)"
         "\n def forward(self, b, g): return Batch(b.inputs[:], b.labels)", "shares memory"),
    ],
    "the_generator_decides_everything": [
        ("class F(Flow):\n def draw(self, b, g): return torch.rand(len(b.labels), 1, 1, 1)",
         "torch's global generator"),
        ("import numpy\nclass F(Flow):\n def draw(self, b, g): return numpy.random.default_rng().random()",
         "differ"),
    ],
    "each_sample_has_its_own_draw": [
        ("class F(Flow):\n def draw(self, b, g): return torch.rand(1, generator=g)",
         "all become alike"),
    ],
    "test_time_draws_nothing": [
        ("class F(Flow):\n def __init__(self, o):\n  super().__init__(o)\n"
         "  self.evaluation = Flow(o)", "`evaluation` draws"),
    ],
    "the_layout_decides_nothing": [
        ("class F(Flow):\n def forward(self, b, g): return Batch(b.inputs * b.inputs.is_contiguous(),"
         " b.labels)", "memory give other pixels"),
    ],
    "a_run_resumes_exactly": [
        ("class F(Flow):\n calls = 0\n def forward(self, b, g):\n  F.calls += 1\n"
         "  return Batch(b.inputs / F.calls, b.labels)", "with the same seed end with different"),
    ],
}  # fmt: skip

OPTIMIZER_FAULTS = {
    "it_has_a_learning_rate": [
        ("def build(model): return torch.optim.SGD(model.parameters(), .1)", "no setting 'lr'"),
    ],
    "every_parameter_moves": [
        ("def build(model, *, lr: float = .1): return torch.optim.SGD([next(model.parameters())], lr)",
         "is in no group"),
        ("def build(model, *, lr: float = .1): return 3", "returns int"),
    ],
    "a_convex_loss_decreases": [
        ("def build(model, *, lr: float = .1):\n"
         " return torch.optim.SGD(model.parameters(), lr, maximize=True)", "take a logistic"),
    ],
    "the_rate_decides_the_step": [
        ("class O(torch.optim.SGD):\n def step(self, closure=None):\n  with torch.no_grad():\n"
         "   for g in self.param_groups:\n    for p in g['params']:\n"
         "     if p.grad is not None: p.sub_(.1 * p.grad)\n"
         "def build(model, *, lr: float = .1): return O(model.parameters(), lr)",
         "read group['lr'] at each step"),
    ],
    "frozen_parameters_stay": [
        ("class O(torch.optim.SGD):\n def step(self, closure=None):\n  with torch.no_grad():\n"
         "   for g in self.param_groups:\n    for p in g['params']: p.mul_(.9)\n"
         "def build(model, *, lr: float = .1): return O(model.parameters(), lr)", "do not learn"),
    ],
    "layers_may_have_their_own_rates": [
        ("class O(torch.optim.SGD):\n def step(self, closure=None):\n"
         "  g, = self.param_groups\n  return super().step(closure)\n"
         "def build(model, *, lr: float = .1): return O(model.parameters(), lr)", "too many values"),
    ],
    "a_run_resumes_exactly": [
        ("class O(torch.optim.SGD):\n n = 0\n def step(self, closure=None):\n  self.n += 1\n"
         "  for g in self.param_groups: g['lr'] = .1 / self.n\n  return super().step(closure)\n"
         "def build(model, *, lr: float = .1): return O(model.parameters(), lr)",
         "all that changes must be in state_dict()"),
    ],
}  # fmt: skip

SCHEDULE_FAULTS = {
    "signature_is_bindable": [
        ("def build(optimizer, *, epochs: int): pass", "must take the keywords steps_per_epoch"),
    ],
    "rates_are_finite_to_the_last_step": [
        ("return S(optimizer, lambda t: 1 - t)", "a rate is no rate"),
        ("return S(optimizer, lambda t: 0.0)", "all rates are 0"),
        ("return optimizer", "no LRScheduler"),
    ],
    "groups_keep_their_ratio": [
        ("return S(optimizer, [lambda t: 1.0, lambda t: 1 / (1 + t)])", "rates of 0.1 and 0.001"),
    ],
    "nothing_is_kept_between_runs": [
        ("KEPT.append(1)\n return S(optimizer, lambda t: 1 / len(KEPT))", "have other rates"),
    ],
    "a_run_resumes_exactly": [
        ("c = iter(range(1, 99))\n return S(optimizer, lambda t: 1 / next(c))", "all that changes"),
    ],
}
DATASET = """
def split(n, seed=0, **more):
    g = torch.Generator().manual_seed(seed)
    inputs = torch.rand(n, 1, 4, 4, generator=g)
    return Split(**{"inputs": inputs, "labels": torch.arange(n) % 2, **more})
def build(root):
    "Noise."
"""
DATASET_FAULTS = {
    "splits_keep_their_contract": [
        ("return Splits(split(8), split(4, 1, labels=torch.arange(4)), ('a', 'b'))", "outside 0"),
        ("return 3", "returns int"),
    ],
    "classes_have_names": [
        ("return Splits(split(8), split(4, 1), ('a', 'a'))", "the same name"),
        ("return Splits(split(8), split(4, 1), ('a', 'b', 'c'))", "train shows 2 of the 3"),
    ],
    "inputs_are_pixels_or_points": [
        ("return Splits(split(8, inputs=torch.rand(8, 1, 4, 4) * 255), split(4, 1), ('a', 'b'))",
         "pixels from"),
    ],
    "it_is_the_same_each_time": [
        ("return Splits(split(8, inputs=torch.rand(8, 1, 4, 4)), split(4, 1), ('a', 'b'))",
         "another one the second time"),
    ],
    "test_is_not_train": [
        ("return Splits(split(8), split(8), ('a', 'b'))", "test holds the examples of train"),
    ],
}  # fmt: skip


LOGGER_FAULTS = {
    "nothing_is_written_before_the_first_line": [
        ("def build(folder, config):\n (folder / 'x').touch()\n return L(folder)", "it wrote x before"),
    ],
    "every_line_is_taken": [
        ("def build(folder, config): return L(folder, lambda f, line: line['validation'])", "KeyError"),
        ("def build(folder, config): return 3", "no Logger"),
    ],
    "a_run_that_goes_on_tells_all_again": [
        ("def build(folder, config): return L(folder, lambda f, line: (f / str(len(line))).mkdir())",
         "FileExistsError"),
    ],
    "the_lines_and_the_run_stay_as_they_are": [
        ("def build(folder, config): return L(folder, lambda f, line: line.pop('epoch'))",
         "it changed a line"),
        ("def build(folder, config):\n"
         " return L(folder, lambda f, line: line.get('test', {}).pop('top5', 0))",
         "it changed a line"),
        ("def build(folder, config):\n"
         " return L(folder, lambda f, line: (f / 'metrics.jsonl').unlink(missing_ok=True))",
         "it changed metrics.jsonl"),
    ],
}  # fmt: skip
LOGGER = """
class L:
    def __init__(self, folder, told=lambda folder, line: None): self.folder, self.told = folder, told
    def write(self, line): self.told(self.folder, line)
    def close(self, *, complete): pass
"""


def cases(faults, group, wrap=lambda text: text):
    """One case a fault: group, check, source, what is said."""
    return [
        pytest.param(group, name, HEAD + textwrap.dedent(wrap(source)), told, id=f"{name}-{number}")
        for name, each in faults.items()
        for number, (source, told) in enumerate(each)
    ]


def schedule(text):
    head = "KEPT = []\nfrom torch.optim.lr_scheduler import LambdaLR as S\n"
    builder = "def build(optimizer, *, steps_per_epoch: int, epochs: int):\n "
    return text if text.startswith("def ") else head + builder + text


ALL = [
    *cases(MODEL_FAULTS, "models"),
    *cases(
        AUGMENTATION_FAULTS, "augmentations", lambda t: t + "\ndef build(input): return F(input)"
    ),
    *cases(OPTIMIZER_FAULTS, "optimizers"),
    *cases(SCHEDULE_FAULTS, "schedules", schedule),
    *cases(DATASET_FAULTS, "datasets", lambda t: DATASET + "    " + t),
    *cases(LOGGER_FAULTS, "loggers", lambda t: LOGGER + t),
]


def run(group, name, source, tmp_path):
    """What a check finds of the function `build` of a file."""
    (tmp_path / "faulty.py").write_text(source, encoding="utf-8")
    check = next(c for c in CHECKS[group] if c.__name__ == name)
    return run_check(check, subject_of(group, "./faulty.py:build"))


@pytest.mark.parametrize(("group", "name", "source", "told"), ALL)
def test_a_check_finds_the_promise_that_is_broken(group, name, source, told, tmp_path):
    import torch

    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    outcome = run(group, name, source, tmp_path)
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)
    assert outcome.state == "failed", outcome
    assert told in outcome.reason


def test_every_check_has_a_component_that_fails_it():
    tried = {(case.values[0], case.values[1]) for case in ALL}
    anywhere = {name for _, name in tried}
    builders = {check.__name__ for check in CHECKS["models"]} & {
        check.__name__ for check in CHECKS["datasets"]
    }
    for group, checks in CHECKS.items():
        for check in checks:
            found = anywhere if check.__name__ in builders else {n for g, n in tried if g == group}
            assert check.__name__ in found | {"distribution_says_what_it_is_made_for"}


def test_every_check_says_in_one_line_what_it_holds_a_component_to():
    for checks in CHECKS.values():
        for check in checks:
            assert promise(check).endswith(".")


GOOD = HEAD + "def build(input):\n    'Two layers.'\n    return Model(input)\n"


def test_a_plain_component_fails_nothing(tmp_path):
    (tmp_path / "good.py").write_text(GOOD, encoding="utf-8")
    subject = subject_of("models", "./good.py:build")
    outcomes = [run_check(check, subject) for check in CHECKS["models"]]
    assert {o.state for o in outcomes} == {"passed", "not applicable"}, outcomes


def test_a_declared_exception_is_excepted_with_its_reason(tmp_path):
    declared = 'CONFORMANCE_EXCEPTIONS = {"build": {"docstring_describes_it": "it is anonymous"}}\n'
    source = HEAD + declared + "def build(input): return Model(input)\n"
    outcome = run("models", "docstring_describes_it", source, tmp_path)
    assert (outcome.state, outcome.reason) == ("excepted", "it is anonymous")


def test_an_exception_that_no_longer_holds_fails(tmp_path):
    declared = 'CONFORMANCE_EXCEPTIONS = {"build": {"docstring_describes_it": "it is anonymous"}}\n'
    outcome = run("models", "docstring_describes_it", GOOD + declared, tmp_path)
    assert outcome.state == "failed"
    assert "remove that line" in outcome.reason


@pytest.mark.parametrize("declared", ['{"no_such_check": "x"}', '{"docstring_describes_it": ""}'])
def test_an_exception_from_no_check_or_without_a_reason_is_refused(declared, tmp_path):
    with pytest.raises(ComponentError, match="declares an exception"):
        run("models", "docstring_describes_it",
            GOOD + f'CONFORMANCE_EXCEPTIONS = {{"build": {declared}}}\n', tmp_path)  # fmt: skip


def test_a_distribution_that_is_not_installed_is_named():
    with pytest.raises(ComponentError, match="no distribution 'absent' provides a component"):
        subjects_of("absent")


def test_a_logger_that_changes_its_lines_is_found_out_whatever_ran_before(tmp_path):
    source = (
        HEAD + LOGGER + "def build(folder, config):\n return L(folder, lambda f, x: x.clear())\n"
    )
    outcomes = {c.__name__: run("loggers", c.__name__, source, tmp_path) for c in CHECKS["loggers"]}
    assert outcomes["the_lines_and_the_run_stay_as_they_are"].reason == "it changed a line"


def test_a_logger_that_says_what_it_lacks_is_not_to_blame(tmp_path):
    source = (
        HEAD
        + LOGGER
        + textwrap.dedent("""
        from rdfia_cli.errors import ComponentError
        def build(folder, config):
            try:
                import no_such_package
            except ImportError as error:
                raise ComponentError("logger 'l' needs no_such_package", "install it") from error
    """)
    )
    outcome = run("loggers", "every_line_is_taken", source, tmp_path)
    assert (outcome.state, outcome.reason) == ("not applicable", "logger 'l' needs no_such_package")
