"""Components come from entry points; one that is broken is named, and breaks nothing else."""

from __future__ import annotations

import json
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdfia_cli import config, recipe, registry
from rdfia_cli.errors import ComponentError, UsageError
from rdfia_cli.sources import Sources
from rdfia_cli.spec import InputSpec, Spec, parse_spec

PLAIN = """
    def build(input, *, dim: int = 4, dropout: float = 0.0):
        '''A model of somebody else.'''
        from torch import nn
        return nn.Sequential(nn.Flatten(), nn.Linear(64, dim), nn.Linear(dim, input.classes))
"""
ON_DIGITS = ("--precision", "fp32", "--device", "cpu", "--dry-run", "--json")


@dataclass(frozen=True)
class Broken:
    """A plugin that cannot be used.

    Attributes:
        source: its module.
        reason: what the user is told.
        from_source: its source says so, before any import.
    """

    source: str
    reason: str
    from_source: bool = False


UNIMPORTABLE = {
    "raises ImportError": Broken(
        "raise ImportError('libfoo.so.1: cannot open')\ndef build(input): pass",
        "ImportError: libfoo.so.1: cannot open",
    ),
    "raises in many lines": Broken(
        "raise RuntimeError('one\\ntwo')\ndef build(input): pass", "RuntimeError: one two"
    ),
    "calls sys.exit": Broken(
        "import sys\nsys.exit('no licence')\ndef build(input): pass", "SystemExit: no licence"
    ),
    "calls sys.exit silently": Broken(
        "import sys\nsys.exit(0)\ndef build(input): pass", "SystemExit: 0"
    ),
    "has a syntax error": Broken(
        "def build(input:\n    pass", "SyntaxError in plug_broken.py (line 1)", from_source=True
    ),
    "misses a dependency": Broken(
        "import plug_absent\ndef build(input): pass",
        "plug_broken.py imports 'plug_absent', which is not installed",
        from_source=True,
    ),
    "misses a submodule": Broken(
        "import json.plug_absent\ndef build(input): pass",
        "ModuleNotFoundError: No module named 'json.plug_absent'",
    ),
    "misses its function": Broken(
        "def other(input): pass",
        "module 'plug_broken' has no function 'build'",
        from_source=True,
    ),
    "names something that is no function": Broken(
        "build = 3", "TypeError: plug_broken:build is not a function"
    ),
    "has a nonsensical annotation": Broken(
        "def build(input, *, dim: int[3] = 2): pass", "TypeError: type 'int' is not subscriptable"
    ),
}
"""Found by `rdfia list --check` at the latest."""


@pytest.fixture
def install_broken(install):
    """Install the distribution `broken`, which provides `strange`, a model where not said."""

    def write(source: str, group: str = "models") -> None:
        install("broken", source, f"[rdfia.{group}]\nstrange = {{module}}:build\n")

    return write


def entry_of(outcome, name: str, distribution: str) -> dict:
    """What `rdfia list --json` says about one component."""
    found = [c for c in outcome.json["components"] if c["name"] == name]
    return next(c for c in found if c["distribution"] == distribution)


def built_ins_are_fine(rdfia) -> None:
    """Listing and planning work as if no plugin were there."""
    for arguments in (["list"], ["list", "--json"], ["list", "--check", "--json"]):
        outcome = rdfia(*arguments)
        assert (outcome.code, outcome.err) == (0, "")
    own = [c for c in outcome.json["components"] if c["distribution"] == "rdfia-cli"]
    assert {c["state"] for c in own} == {"ok"}
    assert {"cnn", "digits", "sgd", "cosine", "random_crop"} <= {c["name"] for c in own}
    planned = rdfia("train", "cnn", *ON_DIGITS)
    assert planned.code == 0, planned.err
    assert planned.json["config"]["model"] == "cnn"


def test_a_plugin_is_used_like_a_built_in(install, rdfia):
    install("rdfia-plain", PLAIN, "[rdfia.models]\nplain = {module}:build\n")
    listed = rdfia("list", "models")
    assert "A model of somebody else. (rdfia-plain 1.2)" in listed.out
    assert "plug_rdfia_plain" not in sys.modules
    entry = entry_of(rdfia("list", "--json"), "plain", "rdfia-plain")
    assert (entry["state"], entry["error"], entry["version"]) == ("ok", None, "1.2")
    assert [(p["name"], p["type"], p["default"]) for p in entry["parameters"]] == [
        ("dim", "int", 4),
        ("dropout", "float", 0.0),
    ]
    planned = rdfia("train", "plain:dim=3", *ON_DIGITS)
    assert planned.json["parameters"] == 64 * 3 + 3 + 3 * 10 + 10
    assert planned.json["config"]["model.dim"] == 3


@pytest.mark.parametrize("case", UNIMPORTABLE.values(), ids=UNIMPORTABLE)
def test_a_broken_plugin_is_named_when_it_is_asked_for(install_broken, rdfia, case):
    install_broken(case.source)
    outcome = rdfia("train", "strange", *ON_DIGITS)
    assert outcome.code == 4
    assert outcome.json["error"] == "component"
    assert "model 'strange' of broken 1.2" in outcome.json["message"]
    assert case.reason in outcome.json["message"]
    assert len(outcome.err.splitlines()) == 2


@pytest.mark.parametrize("case", UNIMPORTABLE.values(), ids=UNIMPORTABLE)
def test_a_broken_plugin_stays_listed_and_breaks_nothing_else(install_broken, rdfia, case):
    install_broken(case.source)
    built_ins_are_fine(rdfia)
    states = [
        entry_of(rdfia("list", "--json", *check), "strange", "broken")["state"]
        for check in ([], ["--check"])
    ]
    assert states == ["broken" if case.from_source else "ok", "broken"]
    checked = entry_of(rdfia("list", "--check", "--json"), "strange", "broken")
    assert case.reason in checked["error"]
    assert f"(broken 1.2) broken: {checked['error']}" in rdfia("list", "--check").out


def test_listing_imports_no_plugin_unless_it_is_asked_to_check(install_broken, rdfia):
    install_broken("print('imported')\ndef build(input): pass")
    assert "imported" not in rdfia("list", "--json").err
    assert "plug_broken" not in sys.modules
    checked = rdfia("list", "--check", "--json")
    assert checked.err == "imported\n"
    assert len(checked.out.splitlines()) == 1


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("raise ValueError('dim too small')", "cannot be built: ValueError: dim too small"),
        ("raise SystemExit(3)", "cannot be built: SystemExit: 3"),
        ("input.nothing", "AttributeError: 'InputSpec' object has no attribute 'nothing'"),
        ("return 3", "returns int, not Module"),
        ("return None", "returns NoneType, not Module"),
        ("from torch import nn; return nn.Flatten()", "has no parameters to train"),
        ("from torch import nn; return nn.Linear(7, 10)", "fails on inputs of shape (1, 8, 8)"),
        (
            "from torch import nn; return nn.Sequential(nn.Flatten(), nn.Linear(64, 9))",
            "returns (2, 9) for 2 examples of 10 classes, not (2, 10)",
        ),
    ],
)
def test_a_builder_that_fails_or_returns_no_model_is_named(install_broken, rdfia, source, reason):
    install_broken(f"def build(input): {source}")
    outcome = rdfia("train", "strange", *ON_DIGITS)
    assert outcome.code == 4
    assert reason in outcome.json["message"]
    assert "model 'strange' of broken 1.2" in outcome.json["message"]


def test_what_a_builder_prints_does_not_mix_with_the_result(install_broken, rdfia):
    source = textwrap.dedent(PLAIN).replace("    from torch", "    print('noise')\n    from torch")
    install_broken(f"print('noise')\n{source}")
    outcome = rdfia("train", "strange", *ON_DIGITS)
    assert outcome.code == 0
    assert json.loads(outcome.out)["schema"] == "rdfia.plan/1"
    assert outcome.err.count("noise") == 2


def test_a_built_in_keeps_its_name_and_a_plugin_gets_its_own(install, rdfia):
    install("evil", PLAIN, "[rdfia.models]\ncnn = {module}:build\n")
    built_ins_are_fine(rdfia)
    theirs = rdfia("train", "cnn@evil:dim=2", *ON_DIGITS)
    assert theirs.json["config"]["model"] == "cnn@evil"
    assert theirs.json["parameters"] == 64 * 2 + 2 + 2 * 10 + 10
    own = rdfia("train", "cnn@rdfia-cli", *ON_DIGITS)
    assert own.json["parameters"] == rdfia("train", "cnn", *ON_DIGITS).json["parameters"]
    listed = rdfia("list", "--json")
    assert entry_of(listed, "cnn", "rdfia-cli")["state"] == "ok"
    shadowed = entry_of(listed, "cnn", "evil")
    assert shadowed["state"] == "shadowed"
    assert shadowed["error"] == "'cnn' belongs to rdfia-cli: ask for cnn@evil"
    assert [p["name"] for p in shadowed["parameters"]] == ["dim", "dropout"]


def test_two_plugins_that_claim_one_name_are_both_named_and_both_reachable(install, rdfia):
    for distribution in ("alpha", "beta"):
        install(distribution, PLAIN, "[rdfia.models]\nsame = {module}:build\n")
    built_ins_are_fine(rdfia)
    refused = rdfia("train", "same", *ON_DIGITS)
    assert refused.code == 4
    assert (refused.json["message"], refused.json["remedy"]) == (
        "model 'same' is claimed by alpha 1.2 and beta 1.2 (MODEL)",
        "say which: same@alpha or same@beta",
    )
    for distribution in ("alpha", "beta"):
        chosen = rdfia("train", f"same@{distribution}", *ON_DIGITS)
        assert chosen.json["config"]["model"] == f"same@{distribution}"
        listed = entry_of(rdfia("list", "--json"), "same", distribution)
        assert (listed["state"], listed["error"]) == (
            "shadowed",
            f"'same' is claimed by alpha and beta: ask for same@{distribution}",
        )


def test_a_distribution_that_lacks_the_component_is_refused(install):
    install("alpha", PLAIN, "[rdfia.models]\nsame = {module}:build\n")
    with pytest.raises(ComponentError, match="model 'same' is not provided by 'alpah'") as caught:
        registry.find("models", parse_spec("same@alpah"))
    assert caught.value.remedy == "did you mean 'alpha'?"


@pytest.mark.parametrize("asked", ["my-plug-in", "My.Plug_In", "my_plug.in", "MY-PLUG-IN"])
def test_a_distribution_is_found_in_any_spelling_that_pip_accepts(install, asked):
    install("My.Plug_In", PLAIN, "[rdfia.models]\nsame = {module}:build\n")
    assert registry.find("models", Spec("same", asked)).distribution == "my-plug-in"


def test_the_same_plugin_found_twice_on_the_path_is_one(install, monkeypatch, tmp_path):
    install("alpha", PLAIN, "[rdfia.models]\nsame = {module}:build\n")
    monkeypatch.syspath_prepend(tmp_path / "site")
    registry.forget()
    assert len(registry.claimants("models", "same")) == 1


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ("strange = {module}", "module 'plug_broken' has no function ''"),
        ("strange = not a module!:build", "module 'not a module!:build' is not installed"),
        ("strange = plug_elsewhere:build", "module 'plug_elsewhere' is not installed"),
        ("strange = rdfia_cli.elsewhere:build", "module 'rdfia_cli.elsewhere' does not exist"),
    ],
)
def test_an_entry_point_that_leads_nowhere_breaks_only_itself(install, rdfia, entries, reason):
    install("broken", "def build(input): pass", f"[rdfia.models]\n{entries}\n")
    built_ins_are_fine(rdfia)
    listed = entry_of(rdfia("list", "--json"), "strange", "broken")
    assert listed["state"] == "broken"
    assert reason in listed["error"]
    assert rdfia("train", "strange", "--dry-run").code == 4


def test_a_distribution_without_metadata_breaks_nothing(install, rdfia):
    install("broken", PLAIN, "[rdfia.models]\nstrange = {module}:build\n", metadata=False)
    built_ins_are_fine(rdfia)
    assert entry_of(rdfia("list", "--json"), "strange", "unknown")["state"] == "ok"


def test_plugins_of_other_kinds_are_named_by_their_kind(install, rdfia):
    groups = {"augment": "augmentations", "optimizer": "optimizers", "schedule": "schedules"}
    entries = "".join(f"[rdfia.{group}]\nstrange = {{module}}:build\n" for group in groups.values())
    install("broken", "raise OSError('no disk')\ndef build(x): pass", entries)
    for flag, group in groups.items():
        outcome = rdfia("train", f"--{flag}", "strange", *ON_DIGITS)
        assert outcome.code == 4
        kind = group.removesuffix("s")
        told = f"{kind} 'strange' of broken 1.2 cannot be imported: OSError: no disk"
        assert outcome.json["message"] == told


def test_what_rdfia_passes_to_a_schedule_is_no_hyper_parameter(rdfia):
    listed = entry_of(rdfia("list", "schedules", "--json"), "cosine", "rdfia-cli")
    assert {p["name"] for p in listed["parameters"]} == {"floor", "warmup"}
    refused = rdfia("train", "--set", "schedule.epochs=3", "--dry-run")
    assert refused.code == 2
    assert "schedule 'cosine' has no setting 'epochs'" in refused.err


def test_a_plugin_that_takes_any_keyword_gets_it_as_a_typed_value(install, rdfia):
    source = (
        "def build(input, *, dim: int = 4, **others): raise RuntimeError(sorted(others.items()))"
    )
    install("loose", source, "[rdfia.models]\nloose = {module}:build\n")
    outcome = rdfia("train", "loose:rate=0.5,deep=true,word=x", *ON_DIGITS)
    assert "[('deep', True), ('rate', 0.5), ('word', 'x')]" in outcome.json["message"]
    resolved = config.resolve(Sources({"model": "loose:rate=0.5"}))
    assert set(resolved.values()) == set(resolved.origins)


def test_a_plugin_whose_parameters_only_its_import_tells_is_read_all_the_same(install, rdfia):
    install("late", "WIDTH = 3\ndef build(input, *, dim: int = WIDTH): raise RuntimeError(dim)",
            "[rdfia.models]\nlate = {module}:build\n")  # fmt: skip
    assert entry_of(rdfia("list", "--json"), "late", "late")["parameters"] is None
    assert "RuntimeError: 3" in rdfia("train", "late", *ON_DIGITS).json["message"]
    assert "'late' has no setting 'dmi'" in rdfia("train", "late:dmi=3", *ON_DIGITS).err


TYPED = """
    from __future__ import annotations
    from pathlib import Path

    def build(input, *, sizes: tuple[int, ...] = (1,), place: Path | None = None,
              word: str = "", flag: bool = False, limit: int | None = 3):
        pass
"""


def test_hyper_parameters_of_every_type_survive_their_spec_and_their_toml(install, tmp_path):
    install("typed", TYPED, "[rdfia.models]\ntyped = {module}:build\n")
    defaults = config.resolve(Sources({"model": "typed"})).config
    file = tmp_path / "config.toml"

    @settings(max_examples=60)
    @given(
        sizes=st.lists(st.integers(-9, 9), max_size=3).map(tuple),
        place=st.none() | st.sampled_from(["a/b", "it's, here"]).map(Path),
        word=st.text(st.characters(exclude_categories=["C"])),
        flag=st.booleans(),
        limit=st.none() | st.integers(-(2**63), 2**63 - 1),
    )
    def check(**parameters: object) -> None:
        model = config.ComponentConfig(name="typed", parameters=parameters)
        file.write_text(defaults.model_copy(update={"model": model}).to_toml(), encoding="utf-8")
        assert config.resolve(Sources({}, files=[file])).config.model == model
        text = config.spec_text("model", model)
        assert config.resolve(Sources({"model": text})).config.model == model

    check()


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("cnnn", "did you mean 'cnn'?"),
        (
            "zzz",
            "choose from cnn, lenet, mlp, timm, torchvision, vit, "
            "or of a family 'timm/zzz' or 'torchvision/zzz'",
        ),
        (
            "resnet50",
            "did you mean 'lenet', or of a family 'timm/resnet50' or 'torchvision/resnet50'?",
        ),
        ("other/resnet50", "choose from cnn, lenet, mlp, timm, torchvision, vit"),
    ],
)
@pytest.mark.usefixtures("no_plugins")
def test_an_unknown_name_comes_with_the_nearest_or_all(name, remedy):
    with pytest.raises(ComponentError, match=f"unknown model '{name}'") as caught:
        registry.find("models", Spec(name))
    assert caught.value.remedy == remedy


@pytest.mark.parametrize(
    ("definition", "fact"),
    [
        ("def build(): ...", "too many positional arguments"),
        ("def build(input, classes): ...", "missing a required argument: 'classes'"),
    ],
)
def test_a_builder_that_does_not_take_its_input_is_told_how_it_is_written(
    tmp_path, definition, fact
):
    (tmp_path / "mine.py").write_text(definition)
    component = registry.find("models", parse_spec("./mine.py:build"))
    with pytest.raises(ComponentError, match=f"what models are called with: {fact}") as caught:
        registry.build(component, InputSpec((1, 28, 28), 10))
    assert caught.value.remedy == "write it as def build(input: InputSpec, *, ...)"


@pytest.mark.usefixtures("no_plugins")
def test_recipes_are_the_files_of_their_folder(tmp_path, monkeypatch, rdfia):
    (tmp_path / "small.toml").write_text("# A small one\nepochs = 1\n", encoding="utf-8")
    monkeypatch.setattr(recipe, "RECIPES", tmp_path)
    assert recipe.names() == ("small",)
    assert rdfia("list", "recipes").out == "recipes\n  small  A small one\n"
    with pytest.raises(UsageError, match="unknown recipe 'smal'") as caught:
        recipe.path_of("smal")
    assert caught.value.remedy == "did you mean 'small'?"


def test_an_unknown_group_is_refused_with_the_nearest(rdfia):
    refused = rdfia("list", "model")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == "error: unknown group 'model'\ndid you mean 'models'?\n"


FAMILY = """
def build(input, *, variant: str, dropout: float = 0.0):
    from torch import nn
    if variant != 'small':
        raise ValueError(f'no member {variant}')
    return nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(64, input.classes))
"""


def test_a_member_of_a_family_is_named_behind_a_slash(install_broken, rdfia):
    install_broken(FAMILY)
    outcome = rdfia("train", "strange/small:dropout=0.25", *ON_DIGITS)
    assert outcome.code == 0
    assert outcome.json["parameters"] == 650
    assert outcome.json["config"]["model"] == "strange/small"
    assert outcome.json["config"]["model.dropout"] == 0.25
    assert "model.variant" not in outcome.json["config"]


@pytest.mark.parametrize(
    ("spec", "told"),
    [
        ("strange", "needs variant"),
        ("strange/huge", "ValueError: no member huge"),
        ("strange/small:variant=huge", "has no setting 'variant'"),
        ("cnn/small", "is no family"),
        ("stranger/small", "unknown model 'stranger/small'"),
    ],
)
def test_a_family_without_a_member_or_with_a_wrong_one_is_refused(
    install_broken, rdfia, spec, told
):
    install_broken(FAMILY)
    outcome = rdfia("train", spec, *ON_DIGITS)
    assert outcome.code in (2, 4)
    assert told in outcome.json["message"]


@pytest.mark.parametrize(
    ("flag", "group", "source", "told"),
    [
        ("--optimizer", "optimizers", "def build(model): return 1", "returns int, not Optimizer"),
        ("--data", "datasets", "def build(root): return []", "returns list, not Splits"),
        ("--augment", "augmentations", "def build(input): return 1", "not Augmentation"),
        (
            "--schedule",
            "schedules",
            "def build(optimizer, *, steps_per_epoch, epochs): return 1",
            "returns int, not LRScheduler",
        ),
    ],
)
def test_a_builder_that_returns_something_else_than_its_group_is_named(
    install_broken, rdfia, flag, group, source, told
):
    install_broken(source, group=group)
    outcome = rdfia("train", flag, "strange", *ON_DIGITS)
    assert outcome.code == 4
    assert told in outcome.json["message"]
    assert "of broken 1.2" in outcome.json["message"]


def test_a_hyper_parameter_called_name_is_refused_since_it_names_the_component(
    install_broken, rdfia
):
    install_broken("def build(input, *, name: str = 'x'): pass")
    outcome = rdfia("train", "strange", *ON_DIGITS)
    assert outcome.code == 4
    assert "cannot be called 'name'" in outcome.json["message"]


@pytest.mark.parametrize(
    ("parameter", "value"),
    [
        ("width=None", None),
        ("width: int = None", None),
        ("width: float = 1", 1.0),
        ("width: float = float('inf')", float("inf")),
        ("width: list[tuple[int, int]] = [(1, 2)]", [(1, 2)]),
        ("width: tuple[int, ...] = (1, 2)", (1, 2)),
    ],
)
def test_the_default_of_any_type_comes_back_from_toml(install_broken, tmp_path, parameter, value):
    install_broken(f"def build(input, *, {parameter}): pass")
    first = config.resolve(Sources({"model": "strange"})).config
    assert first.model.parameters == {"width": value}
    (tmp_path / "config.toml").write_text(first.to_toml())
    again = config.resolve(Sources({}, files=[tmp_path / "config.toml"])).config
    assert again.model.parameters == {"width": value}
    assert again.digest == first.digest


def test_what_a_child_process_of_a_plugin_prints_does_not_mix_with_the_result(
    install_broken, rdfia
):
    source = textwrap.dedent(PLAIN).replace(
        "    from torch", "    import os; os.system('echo noise')\n    from torch"
    )
    install_broken(source)
    outcome = rdfia("train", "strange", *ON_DIGITS)
    assert outcome.code == 0
    assert json.loads(outcome.out)["schema"] == "rdfia.plan/1"
    assert "noise" in outcome.err
