# ruff: noqa: E501
"""Whatever a plugin does wrong, it is named, and nothing else stops working."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from rdfia_cli import __version__, registry
from rdfia_cli.errors import UsageError

FINE = """
def build(input, *, dim: int = 4):
    '''A model of somebody else.'''
    from torch import nn
    return nn.Sequential(nn.Flatten(), nn.Linear(64, input.classes))
"""
ENTRY = "[rdfia.models]\nstrange = {module}:build\n"
PLAN = ("--dry-run", "--json", "--precision", "fp32", "--device", "cpu")


@dataclass(frozen=True)
class Fault:
    """A plugin `culprit` with a model `strange`, and what is said of it.

    Attributes:
        told: part of the reason.
        source: its module.
        entries: its entry_points.txt.
        requires: what its metadata require.
        metadata: whether it has any.
        name: what its component is called.
        early: whether it is known without an import.
    """

    told: str
    source: str = FINE
    entries: str | bytes = ENTRY
    requires: str = ""
    metadata: bool = True
    name: str = "strange"
    early: bool = True


FAULTS = {
    "raises ImportError": Fault("ImportError: no libfoo", "raise ImportError('no libfoo')", early=False),
    "raises MemoryError": Fault("MemoryError", "raise MemoryError\ndef build(input): 0", early=False),
    "has a syntax error": Fault("SyntaxError in plug_culprit.py", "def build(:"),
    "holds null bytes": Fault("null bytes", "\0"),
    "calls sys.exit": Fault("SystemExit: 3", "import sys; sys.exit(3)\ndef build(i): 0", early=False),
    "never ends": Fault("did not end within 0.3 s", "import time\ntime.sleep(60)\ndef build(i): 0",
                        early=False),
    "misses a dependency": Fault("'absent', which is not installed", "import absent\n" + FINE),
    "misses its module": Fault("'elsewhere' is not installed",
                               entries="[rdfia.models]\nstrange = elsewhere:build\n"),
    "misses its function": Fault("has no function 'build'", "def other(input): pass"),
    "names what is no function": Fault("is not a function", "build = 3", early=False),
    "names no reference": Fault("is not installed",
                                entries="[rdfia.models]\nstrange = not a module!\n"),
    "is made for an older rdfia": Fault(f"made for rdfia-cli<0.0.9, and this is {__version__}",
                                        requires="rdfia-cli<0.0.9"),
    "is made for a newer rdfia": Fault("made for rdfia-cli>=7", requires="rdfia_cli >= 7"),
    "requires nonsense": Fault("which is no version of rdfia-cli", requires="rdfia-cli >> 3"),
    "requires under a condition that is none": Fault("cannot be read: UndefinedComparison",
                                                     requires='rdfia-cli>=0.1; os_name ~= "x"'),
    "has a line without a value": Fault("which is no NAME = MODULE:FUNCTION",
                                        entries="[rdfia.models]\nstrange\n"),
    "has an unclosed section": Fault("without a ]", entries="[other]\na = b:c\n[rdfia.models\nstrange = {module}:build\n"),
    "has bytes that are no text": Fault("which is no NAME = MODULE:FUNCTION",
                                        entries=b"[rdfia.models]\nstrange = \xff\xfe:build\n"),
    "claims the name of a built-in": Fault("belongs to rdfia-cli: ask for cnn@culprit", name="cnn",
                                           entries="[rdfia.models]\ncnn = {module}:build\n"),
    "claims the name of another plugin": Fault("is claimed by culprit and fine", name="fine",
                                               entries="[rdfia.models]\nfine = {module}:build\n"),
}  # fmt: skip
each = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


@pytest.fixture
def installed(install, monkeypatch):
    """Install a faulty plugin beside one that is fine."""

    def write(fault: Fault) -> None:
        install("fine", FINE, "[rdfia.models]\nfine = {module}:build\nsecond = {module}:build\n")
        if "never" in fault.told or "within" in fault.told:
            # What is imported already takes no time: the limit is the culprit's alone.
            registry.listing(check=True)
            monkeypatch.setattr(registry, "IMPORT_SECONDS", 0.3)
        install(
            "culprit",
            fault.source,
            fault.entries,
            requires=fault.requires,
            metadata=fault.metadata,
        )

    return write


def entries_of(outcome, distribution: str) -> list[dict]:
    return [c for c in outcome.json["components"] if c["distribution"] == distribution]


@each
def test_help_and_everything_else_go_on(installed, rdfia, fault):
    installed(fault)
    assert rdfia("--help").code == 0
    listed = rdfia("list", "--check", "--json")
    assert listed.code == 0
    assert [c for c in entries_of(listed, "rdfia-cli") if c["state"] != "ok"] == []
    second = next(c for c in entries_of(listed, "fine") if c["name"] == "second")
    assert second["state"] == "ok"
    assert rdfia("train", "second", *PLAN).code == 0
    assert (
        rdfia("train", "lenet", "--data", "digits", "--augment", "resize:size=12", *PLAN).code == 0
    )


@each
def test_the_culprit_is_named_with_its_distribution(installed, rdfia, fault):
    installed(fault)
    found = entries_of(rdfia("list", "--check", "--json"), "culprit")
    assert {c["state"] for c in found} <= {"broken", "shadowed"}
    assert any(fault.told in c["error"] for c in found), found
    plugin = next(p for p in rdfia("plugins", "list", "--check", "--json").json["plugins"]
                  if p["distribution"] == "culprit")  # fmt: skip
    assert plugin["version"] == "1.2"
    assert plugin["state"] in ("broken", "shadowed")
    assert plugin["error"] in {c["error"] for c in found}
    shown = rdfia("plugins", "list", "--check").out
    assert "culprit: model" in shown
    if fault.early:
        early = entries_of(rdfia("list", "--json"), "culprit")
        assert any(fault.told in (c["error"] or "") for c in early)


@each
def test_asking_for_it_ends_with_4_and_names_it(installed, rdfia, fault):
    if "never ends" in FAULTS and fault is FAULTS["never ends"]:
        pytest.skip("it never ends")
    installed(fault)
    outcome = rdfia("train", f"{fault.name}@culprit", *PLAN)
    if fault.name != "strange":
        assert outcome.code == 0
        return
    assert outcome.code == 4
    assert "culprit" in outcome.json["message"] + outcome.json["remedy"]


@each
def test_where_the_environment_is_strict_any_of_them_is_fatal(installed, rdfia, fault, monkeypatch):
    installed(fault)
    monkeypatch.setenv("RDFIA_STRICT_PLUGINS", "1")
    for command in (["train", "second", *PLAN], ["list", "--json"]):
        refused = rdfia(*command)
        assert refused.code == 4
        assert "of culprit 1.2 is" in refused.json["message"]
        assert fault.told in refused.json["message"]
        assert "(MODEL" not in refused.json["message"], "whichever is asked for, it is not that"
    assert rdfia("--help").code == 0
    assert rdfia("--no-plugins", "train", "lenet", "--augment", "resize:size=12", *PLAN).code == 0
    monkeypatch.setenv("RDFIA_STRICT_PLUGINS", "0")
    assert rdfia("train", "second", *PLAN).code == 0


def test_a_long_import_is_told_once_while_it_lasts(install, rdfia, monkeypatch):
    install(
        "slow", "import time\ntime.sleep(1)\n" + FINE, "[rdfia.models]\nslow = {module}:build\n"
    )
    monkeypatch.setattr(registry, "SLOW_IMPORT_SECONDS", 0.2)
    planned = rdfia("train", "slow", *PLAN)
    assert planned.code == 0
    told = "still importing model 'slow' of slow 1.2 from 'plug_slow' ..."
    assert planned.err.splitlines().count(told) == 1
    assert told not in rdfia("train", "slow", *PLAN).err


def test_metadata_that_are_missing_cost_the_name_alone(installed, rdfia):
    installed(Fault("", metadata=False))
    listed = [c for c in rdfia("list", "--json").json["components"] if c["name"] == "strange"]
    assert [(c["distribution"], c["state"]) for c in listed] == [("unknown", "ok")]


def names_of(outcome) -> set[str]:
    return {c["name"] for c in outcome.json["components"]}


def test_plugins_are_chosen_by_the_environment_and_left_out_by_a_flag(install, rdfia, monkeypatch):
    for name in ("alpha", "beta"):
        install(name, FINE, f"[rdfia.models]\n{name} = {{module}}:build\n")
    assert {"alpha", "beta"} <= names_of(rdfia("list", "--json"))
    without = names_of(rdfia("--no-plugins", "list", "--json"))
    assert "cnn" in without
    assert not {"alpha", "beta"} & without
    assert {"alpha", "beta"} <= names_of(rdfia("list", "--json"))
    for chosen, seen in (("alpha", {"alpha"}), ("Alpha, beta", {"alpha", "beta"}), ("", set())):
        monkeypatch.setenv("RDFIA_PLUGINS", chosen)
        registry.forget()
        assert names_of(rdfia("list", "--json")) & {"alpha", "beta"} == seen
    refused = rdfia("train", "beta", *PLAN)
    assert (refused.code, refused.json["error"]) == (4, "component")


def test_a_chosen_plugin_that_is_not_installed_is_refused_with_the_nearest(
    install, rdfia, monkeypatch
):
    install("alpha", FINE, "[rdfia.models]\nalpha = {module}:build\n")
    monkeypatch.setenv("RDFIA_PLUGINS", "alpah")
    registry.forget()
    refused = rdfia("list", "--json")
    assert refused.code == 2
    assert (refused.json["message"], refused.json["remedy"]) == (
        "RDFIA_PLUGINS names 'alpah', and no plugin of that name is installed",
        "did you mean 'alpha'?",
    )
    assert rdfia("--help").code == 0


def test_a_recipe_of_a_plugin_is_used_like_ours(install, rdfia, tmp_path):
    install("alpha", FINE, "[rdfia.recipes]\nquick = plug_recipes.here\nlost = plug_recipes.here\n")
    folder = tmp_path / "site" / "plug_recipes" / "here"
    folder.mkdir(parents=True)
    (folder / "quick.toml").write_text("# A quick one\nepochs = 3\n", encoding="utf-8")
    listed = rdfia("list", "recipes", "--json").json["components"]
    found = {c["name"]: c for c in listed if c["distribution"] == "alpha"}
    assert (found["quick"]["description"], found["quick"]["state"]) == ("A quick one", "ok")
    assert (found["lost"]["state"], found["lost"]["error"]) == (
        "broken",
        "there is no file lost.toml",
    )
    planned = rdfia("train", "--recipe", "quick", *PLAN)
    assert planned.json["config"]["epochs"] == 3
    assert rdfia("train", "--recipe", "quick@alpha", *PLAN).code == 0
    refused = rdfia("train", "--recipe", "lost", *PLAN)
    assert (refused.code, "of alpha 1.2 has no file" in refused.json["message"]) == (4, True)
    assert rdfia("--no-plugins", "train", "--recipe", "quick", *PLAN).code == 2


def test_two_plugins_that_claim_a_recipe_are_told_apart(install, rdfia, tmp_path):
    folder = tmp_path / "site" / "plug_recipes"
    folder.mkdir(parents=True)
    (folder / "quick.toml").write_text("# A quick one\nepochs = 3\n", encoding="utf-8")
    for name in ("alpha", "beta"):
        install(name, FINE, "[rdfia.recipes]\nquick = plug_recipes\n")
    with pytest.raises(UsageError, match="claimed by alpha and beta"):
        from rdfia_cli import recipe

        recipe.find("quick")
    assert rdfia("train", "--recipe", "quick@beta", *PLAN).code == 0
