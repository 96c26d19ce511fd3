"""Settings: which source wins, what is refused, and what is written down to run again."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
import typer.main
from hypothesis import given, settings
from hypothesis import strategies as st

from rdfia_cli import recipe
from rdfia_cli.app import app
from rdfia_cli.config import (
    Resolved,
    RunConfig,
    resolve,
    resolve_component,
    resolve_device,
    spec_text,
)
from rdfia_cli.errors import ComponentError, UsageError, nearest
from rdfia_cli.sources import (
    ENVIRONMENT_OTHERS,
    OUTPUT_FLAGS,
    SOURCE_FLAGS,
    Sources,
    sources_of,
)

TRAIN = typer.main.get_command(app).commands["train"]
SETTING_FLAGS = {p.name: p for p in TRAIN.params if p.name not in OUTPUT_FLAGS | SOURCE_FLAGS}

SCALARS = [
    # key, then a value in TOML and as text for each source: recipe, first file, last file,
    # environment, flag
    ("epochs", ["11", "12", "13", "14", "15"]),
    ("batch_size", ["1", "2", "3", "4", "5"]),
    ("seed", ["1", "2", "3", "4", "5"]),
    ("validation", ["0.1", "0.2", "0.3", "0.4", "0.5"]),
    ("log_every", ["1", "2", "3", "4", "5"]),
]
COMPONENTS = [
    ("optimizer", ["sgd", "adam", "adamw", "sgd", "adam"]),
    ("schedule", ["constant", "step", "exponential", "constant", "step"]),
    ("model", ["mlp", "lenet", "cnn", "mlp", "lenet"]),
    ("data", ["circles", "digits", "circles", "digits", "circles"]),
]
LEVELS = ["recipe", "first file", "last file", "environment", "flag"]


@pytest.fixture
def toml(tmp_path):
    """Write a TOML file and return its path."""

    def write(text: str, name: str = "settings.toml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


@pytest.fixture
def layered(toml, tmp_path, monkeypatch):
    """Give one key to the lowest sources, up to the level asked for."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    monkeypatch.setattr(recipe, "RECIPES", folder)

    def give(key: str, values: list[str], level: int, *, quoted: bool) -> Resolved:
        written = [f'"{v}"' if quoted else v for v in values]
        (folder / "known.toml").write_text(f"{key} = {written[0]}\n", encoding="utf-8")
        files = [toml(f"{key} = {written[i]}\n", f"{i}.toml") for i in (1, 2)]
        return resolve(
            Sources(
                flags={key: values[4]} if level >= 4 else {},
                files=files[:level] if level < 3 else files,
                recipe="known",
                environment={f"RDFIA_{key.upper()}": values[3]} if level >= 3 else {},
            )
        )

    return give


def flat(**given_sources) -> dict:
    """Every setting by its dotted key."""
    return resolve(Sources(**{"flags": {}, **given_sources})).values()


def refusal(**given_sources) -> UsageError:
    """The error of sources that must be refused."""
    with pytest.raises(UsageError) as caught:
        resolve(Sources(**{"flags": {}, **given_sources}))
    return caught.value


@pytest.mark.parametrize("level", range(5), ids=LEVELS)
@pytest.mark.parametrize(("key", "values"), SCALARS, ids=lambda x: x if isinstance(x, str) else "")
def test_the_highest_source_of_a_scalar_wins(layered, level, key, values):
    resolved = layered(key, values, level, quoted=False)
    assert resolved.values()[key] == float(values[level])
    words = ["recipe known", "1.toml", "2.toml", f"environment RDFIA_{key.upper()}"]
    words.append(f"--{key.replace('_', '-')}")
    assert words[level] in resolved.origins[key]


@pytest.mark.parametrize("level", range(5), ids=LEVELS)
@pytest.mark.parametrize(
    ("key", "values"), COMPONENTS, ids=lambda x: x if isinstance(x, str) else ""
)
def test_the_highest_source_of_a_component_wins(layered, level, key, values):
    assert layered(key, values, level, quoted=True).values()[key] == values[level]


@pytest.mark.parametrize("level", range(5), ids=LEVELS)
def test_the_highest_source_of_the_augmentations_replaces_the_list(layered, level):
    values = [f"random_crop:size={size}" for size in (1, 2, 3, 4, 5)]
    found = layered("augment", values, level, quoted=True).values()
    assert found["augment.0.size"] == level + 1
    assert "augment.1" not in found


def test_defaults_hold_where_no_source_speaks():
    found = resolve(Sources({}))
    assert set(found.origins.values()) == {"default", "default sgd", "default cosine"}
    assert found.values()["model"] == "cnn"
    assert found.values()["data"] == "digits"
    assert (found.values()["optimizer"], found.values()["optimizer.momentum"]) == ("sgd", 0.9)


def test_every_value_has_an_origin_and_every_origin_a_value(toml):
    found = resolve(
        Sources(
            {"model": "mlp:hidden=7", "lr": "0.5", "augment": ["random_crop", "horizontal_flip"]},
            assignments=["seed=3"],
            files=[toml('[schedule]\nname = "step"\nevery = 2\n')],
            environment={"RDFIA_OPTIMIZER__MOMENTUM": "0.5", "HOME": "/root"},
        )
    )
    assert found.origins["model"] == "MODEL"
    assert found.origins["model.hidden"] == "MODEL mlp"
    assert found.origins["optimizer.lr"] == "--lr"
    assert found.origins["optimizer.momentum"] == "environment RDFIA_OPTIMIZER__MOMENTUM"
    assert found.origins["augment.1"] == "--augment"
    assert found.origins["augment.1.probability"] == "default"
    assert found.origins["seed"] == "--set seed"
    assert found.origins["schedule.every"].endswith("settings.toml")
    assert found.origins["schedule.gamma"] == "default"
    assert set(found.origins) == set(found.values())


def test_parameters_given_with_a_name_go_with_that_name(toml):
    file = toml('[optimizer]\nname = "adam"\nbeta1 = 0.5\n')
    assert flat(files=[file])["optimizer.beta1"] == 0.5
    assert flat(flags={"optimizer": "adam"}, files=[file])["optimizer.beta1"] == 0.5
    replaced = flat(flags={"optimizer": "adamw"}, files=[file])
    assert (replaced["optimizer"], replaced["optimizer.beta1"]) == ("adamw", 0.9)


def test_whoever_names_the_default_gets_the_builders_own_defaults():
    assert flat()["optimizer.momentum"] == 0.9
    assert flat(flags={"optimizer": "sgd"})["optimizer.momentum"] == 0.0
    assert flat(flags={"lr": "0.5"})["optimizer.momentum"] == 0.9


def test_parameters_given_without_a_name_go_with_whatever_is_chosen(toml):
    found = flat(flags={"optimizer": "adam"}, files=[toml("[optimizer]\nlr = 0.25\n")])
    assert (found["optimizer"], found["optimizer.lr"]) == ("adam", 0.25)


@pytest.mark.parametrize(
    ("flags", "assignments", "expected"),
    [
        ({"lr": "0.5"}, [], ("sgd", 0.5)),
        ({"optimizer": "adam:lr=0.25"}, [], ("adam", 0.25)),
        ({"optimizer": "adam:lr=0.25", "lr": "0.5"}, [], ("adam", 0.5)),
        ({"lr": "0.5", "optimizer": "adam:lr=0.25"}, [], ("adam", 0.5)),
        ({"lr": "0.5"}, ["optimizer.lr=0.25"], ("sgd", 0.25)),
        ({}, ["optimizer.lr=0.5", "optimizer.lr=0.25"], ("sgd", 0.25)),
        ({"optimizer": "sgd:momentum=0.5"}, ["optimizer=adam"], ("adam", 0.001)),
        ({"optimizer": "adamw"}, ["optimizer.name=adam"], ("adam", 0.001)),
        ({}, ["optimizer=sgd", "optimizer=adam:lr=0.25"], ("adam", 0.25)),
        ({"lr": "0.5"}, ["optimizer=adam"], ("adam", 0.5)),
        ({"lr": "0.5"}, ["optimizer=adam:lr=0.25"], ("adam", 0.25)),
    ],
)
def test_the_last_assignment_wins_over_the_flags(flags, assignments, expected):
    found = flat(flags=flags, assignments=assignments)
    assert (found["optimizer"], found["optimizer.lr"]) == expected


CROP_AND_FLIP = ["random_crop:size=6,padding=1", "horizontal_flip"]


@pytest.mark.parametrize(
    ("given_sources", "size"),
    [
        ({"flags": {"augment": CROP_AND_FLIP}}, 6),
        ({"flags": {"augment": CROP_AND_FLIP}, "assignments": ["augment.0.size=5"]}, 5),
        ({"assignments": ["augment=random_crop:size=4", "augment.0.size=5"]}, 5),
        ({"assignments": ["augment.0.size=5", "augment=random_crop:size=4"]}, 4),
        ({"assignments": ["augment.0.size=5", "augment=random_crop"]}, 5),
        (
            {"flags": {"augment": CROP_AND_FLIP}, "environment": {"RDFIA_AUGMENT__0__SIZE": "5"}},
            6,
        ),
        (
            {"flags": {"augment": ["random_crop"]}, "environment": {"RDFIA_AUGMENT__0__SIZE": "5"}},
            5,
        ),
    ],
)
def test_one_value_of_one_augmentation_follows_the_same_precedence(given_sources, size):
    assert flat(**given_sources)["augment.0.size"] == size


def test_augmentations_keep_their_order():
    found = flat(flags={"augment": ["horizontal_flip", "random_crop", "horizontal_flip"]})
    names = [found[f"augment.{index}"] for index in range(3)]
    assert names == ["horizontal_flip", "random_crop", "horizontal_flip"]
    assert "augment.3" not in found


@pytest.mark.parametrize(
    "text",
    [
        'augment = ["random_crop:size=6", "horizontal_flip"]',
        'augment = ["random_crop:size=6", {name = "horizontal_flip"}]',
        '[[augment]]\nname = "random_crop"\nsize = 6\n[[augment]]\nname = "horizontal_flip"',
    ],
)
def test_augmentations_are_written_in_toml_in_three_equal_ways(toml, text):
    found = resolve(Sources({}, files=[toml(text)])).config
    assert [c.name for c in found.augment] == ["random_crop", "horizontal_flip"]
    assert found.augment[0].parameters["size"] == 6


@pytest.mark.parametrize(
    "text",
    [
        'optimizer = "adam:lr=0.5"',
        '[optimizer]\nname = "adam"\nlr = 0.5',
        'optimizer = {name = "adam", lr = 0.5}',
        'optimizer.name = "adam"\noptimizer.lr = 0.5',
    ],
)
def test_a_component_is_written_in_toml_in_four_equal_ways(toml, text):
    written = resolve(Sources({}, files=[toml(text)])).config
    assert written == resolve(Sources({"optimizer": "adam", "lr": "0.5"})).config


@pytest.mark.parametrize(
    ("key", "toml_text", "told", "remedy"),
    [
        ("epoch", "epoch = 3", "unknown setting 'epoch'", "did you mean 'epochs'?"),
        ("optimiser", "optimiser = 3", "unknown setting 'optimiser'", "'optimizer'?"),
        ("lr", "lr = 3", "unknown setting 'lr'", "did you mean 'optimizer.lr', of sgd?"),
        (
            "optimizer.lrr",
            "optimizer.lrr = 3",
            "optimizer 'sgd' has no setting 'lrr'",
            "did you mean 'lr'?",
        ),
        (
            "model.dropuot",
            "model.dropuot = 3",
            "model 'cnn' has no setting 'dropuot'",
            "did you mean 'dropout'?",
        ),
    ],
)
def test_an_unknown_key_of_any_source_is_refused_with_the_nearest(
    toml, monkeypatch, tmp_path, key, toml_text, told, remedy
):
    file = toml(toml_text)
    monkeypatch.setattr(recipe, "RECIPES", tmp_path)
    variable = "RDFIA_" + key.upper().replace(".", "__")
    for given_sources, origin in (
        ({"assignments": [f"{key}=3"]}, f"(--set {key})"),
        ({"environment": {variable: "3"}}, f"(environment {variable})"),
        ({"files": [file]}, f"(file {file})"),
        ({"recipe": "settings"}, "(recipe settings)"),
    ):
        error = refusal(**given_sources)
        assert error.fact.startswith(told)
        assert error.fact.endswith(origin)
        assert error.remedy.endswith(remedy)


def test_a_text_that_is_no_number_is_told_in_plain_words():
    error = refusal(flags={"lr": "x"})
    assert error.fact == "optimizer.lr = 'x' (--lr): it should be a valid number"


def test_names_that_are_numbers_are_told_in_their_order():
    assert nearest("foo", ["10", "all", "2", "1"]) == "choose from 1, 2, 10, all"


def test_an_unknown_key_inside_a_spec_is_refused_with_the_nearest():
    error = refusal(flags={"model": "cnn:dropuot=0.5"})
    assert error.fact == "model 'cnn' has no setting 'dropuot' (MODEL cnn)"
    assert error.remedy == "did you mean 'dropout'?"


@pytest.mark.parametrize(
    ("given_sources", "told"),
    [
        ({"flags": {"epochs": "x"}}, "epochs = 'x' (--epochs): it should be a valid integer"),
        ({"flags": {"epochs": "0"}}, "epochs = '0' (--epochs): it should be greater than or equal"),
        ({"flags": {"batch_size": "1.5"}}, "batch_size = '1.5' (--batch-size): it should be"),
        ({"flags": {"seed": "-1"}}, "seed = '-1' (--seed): it should be greater than or equal"),
        ({"flags": {"seed": str(2**63)}}, f"seed = '{2**63}' (--seed): it should be less than"),
        ({"flags": {"validation": "1"}}, "validation = '1' (--validation): it should be less"),
        ({"flags": {"lr": "nan"}}, "optimizer.lr = 'nan' (--lr): it should be a finite number"),
        ({"flags": {"lr": "inf"}}, "optimizer.lr = 'inf' (--lr): it should be a finite number"),
        ({"flags": {"precision": "fp8"}}, "precision = 'fp8' (--precision): it should be 'auto'"),
        ({"flags": {"device": "gpu"}}, "device = 'gpu' (--device): it should be auto, cpu, cuda"),
        ({"flags": {"if_exists": "ask"}}, "if_exists = 'ask' (--if-exists): it should be 'skip'"),
        (
            {"flags": {"model": "cnn:dropout=1"}},
            "model.dropout = '1' (MODEL cnn): it should be less than 1",
        ),
        ({"environment": {"RDFIA_EPOCHS": ""}}, "epochs = '' (environment RDFIA_EPOCHS): it"),
        ({"assignments": ["epochs"]}, "--set epochs is not key=value"),
        ({"assignments": ["=3"]}, "--set =3 is not key=value"),
        ({"assignments": ["epochs.x=3"]}, "'epochs' has no part 'x' (--set epochs.x)"),
        ({"assignments": ["augment.0=x"]}, "unknown setting 'augment.0' (--set augment.0)"),
        ({"assignments": ["augment.x.size=3"]}, "unknown setting 'augment.x.size'"),
        ({"assignments": ["augment.0.size=3"]}, "there is no augmentation number 0 (--set"),
        (
            {"assignments": ["optimizer.name=adam:lr=0.5"]},
            "optimizer.name = 'adam:lr=0.5' (--set optimizer.name) is more than a name",
        ),
        ({"assignments": ["=", "epochs=2"]}, "--set = is not key=value"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_origin(given_sources, told):
    assert refusal(**given_sources).fact.startswith(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("epochs = '3'", "epochs = '3' (ORIGIN): it should be a valid integer"),
        ("epochs = 3.0", "epochs = 3.0 (ORIGIN): it should be a valid integer"),
        ("epochs = {a = 1}", "epochs = {'a': 1} (ORIGIN): it should be a valid integer"),
        ("deterministic = 1", "deterministic = 1 (ORIGIN): it should be a valid boolean"),
        ("optimizer.lr = nan", "optimizer.lr = nan (ORIGIN): it should be a finite number"),
        ("optimizer.lr = '0.5'", "optimizer.lr = '0.5' (ORIGIN): it should be a valid number"),
        ("optimizer = 3", "optimizer is 3 (ORIGIN), not a component"),
        ("augment = 3", "augment is 3 (ORIGIN), not a component"),
        ("augment = [{size = 3}]", "augment.0 has no name (ORIGIN)"),
        ("model.name = 3", "model.name = 3 (ORIGIN) is not text"),
        ("model.name = 'cnn:dropout=0.5'", "model.name = 'cnn:dropout=0.5' (ORIGIN) is more than"),
        ("epochs = ", "ORIGIN is not TOML: Invalid value (at "),
        ("epochs = 1\nepochs = 2", "ORIGIN is not TOML: Cannot overwrite a value"),
    ],
)
def test_a_file_is_read_strictly(toml, text, told):
    file = toml(text)
    assert refusal(files=[file]).fact.startswith(told.replace("ORIGIN", f"file {file}"))


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    assert "does not exist" in refusal(files=[tmp_path / "absent.toml"]).fact
    assert f"cannot read config file '{tmp_path}': Is a dir" in refusal(files=[tmp_path]).fact
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    assert "is not TOML" in refusal(files=[tmp_path / "binary.toml"]).fact


def test_an_unknown_component_names_its_origin():
    with pytest.raises(ComponentError) as caught:
        resolve(Sources({}, environment={"RDFIA_MODEL": "cnnn"}))
    assert caught.value.fact == "unknown model 'cnnn' (environment RDFIA_MODEL)"
    assert caught.value.remedy == "did you mean 'cnn'?"


@pytest.mark.parametrize(
    "variable", [*sorted(ENVIRONMENT_OTHERS), "RDFIACACHE", "PATH", "_RDFIA_COMPLETE"]
)
def test_variables_that_are_no_settings_are_left_alone(variable):
    assert resolve(Sources({}, environment={variable: "x"})) == resolve(Sources({}))


shares = st.floats(0, 1, exclude_max=True)
rates = st.floats(0, 1e9)
models = st.one_of(
    st.builds("cnn:dropout={},batch_norm={}".format, shares, st.booleans()),
    st.builds("mlp:hidden={}".format, st.integers(1, 2**40)),
    st.just("lenet@rdfia-cli"),
)
optimizers = st.one_of(
    st.builds("sgd:lr={},momentum={}".format, rates, shares),
    st.builds("adam:lr={},beta1={}".format, rates, shares),
)
augmentations = st.lists(
    st.one_of(
        st.builds("random_crop:size={},padding={}".format, st.integers(1, 99), st.integers(0, 9)),
        st.builds("horizontal_flip:probability={}".format, st.floats(0, 1)),
    ),
    max_size=3,
)
command_lines = st.fixed_dictionaries(
    {},
    optional={
        "model": models,
        "data": st.sampled_from(["circles", "digits:test_every=3"]),
        "optimizer": optimizers,
        "schedule": st.sampled_from(["constant", "step:every=3,gamma=0.5", "cosine"]),
        "augment": augmentations,
        "epochs": st.integers(1).map(str),
        "seed": st.integers(0, 2**63 - 1).map(str),
        "validation": shares.map(str),
        "normalize": st.sampled_from(["train", "none"]),
        "precision": st.sampled_from(["auto", "fp32", "bf16", "fp16"]),
        "device": st.sampled_from(["cpu", "cuda", "cuda:1", "mps"]),
    },
)
places = st.fixed_dictionaries(
    {},
    optional={
        "out": st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1),
        "if_exists": st.sampled_from(["skip", "resume", "new", "error"]),
    },
)


@settings(max_examples=40)
@given(command_lines, places)
def test_config_toml_is_enough_to_run_it_again(flags, place):
    config = resolve(Sources({**flags, **place})).config
    file = Path("config.toml")
    file.write_text(config.to_toml(), encoding="utf-8")
    again = resolve(Sources({}, files=[file])).config
    assert again.identity == config.identity
    assert again.digest == config.digest
    assert again.to_toml() == config.to_toml()


@settings(max_examples=30)
@given(command_lines, places)
def test_where_a_run_goes_is_no_part_of_what_it_computes(flags, place):
    plain, placed = resolve(Sources(flags)).config, resolve(Sources({**flags, **place})).config
    assert plain.digest == placed.digest
    assert not {"out", "if_exists"} & set(tomllib.loads(placed.to_toml()))


@settings(max_examples=30)
@given(command_lines)
def test_a_component_is_told_as_one_would_write_it(flags):
    config = resolve(Sources(flags)).config
    for key in ("model", "data", "optimizer", "schedule"):
        chosen = getattr(config, key)
        assert resolve_component(key, spec_text(key, chosen), "test") == chosen


@pytest.mark.parametrize(
    "flags",
    [
        {"lr": "0.2"},
        {"seed": "1"},
        {"model": "cnn:dropout=0.5"},
        {"model": "lenet"},
        {"data": "circles"},
        {"augment": ["random_crop"]},
        {"precision": "fp32"},
        {"normalize": "none"},
    ],
    ids=str,
)
def test_what_a_run_computes_decides_its_digest_and_folder(flags):
    plain, changed = resolve(Sources({})).config, resolve(Sources(flags)).config
    assert plain.digest != changed.digest
    assert plain.folder != changed.folder


@pytest.mark.parametrize("spelling", ["0.5", "5e-1", ".5", "0.50"])
def test_the_spelling_of_a_number_does_not_matter(spelling):
    assert resolve(Sources({"lr": spelling})).config == resolve(Sources({"lr": "0.5"})).config


def test_a_whole_number_is_the_same_rate_as_text_and_in_toml(toml):
    file = toml("optimizer.lr = 1\n")
    texts = resolve(Sources({"lr": "1"})).config
    assert resolve(Sources({}, files=[file])).config.digest == texts.digest


def test_the_folder_is_named_by_model_data_and_eight_digits_of_the_digest():
    config = resolve(Sources({"model": "mlp", "data": "circles"})).config
    assert config.folder == Path("runs") / f"mlp-circles-{config.digest[:8]}"
    assert re.fullmatch(r"[0-9a-f]{64}", config.digest)
    assert resolve(Sources({"out": "here"})).config.folder == Path("here")


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("cnn", "cnn"),
        ("cnn:dropout=0.0,batch_norm=false", "cnn"),
        ("cnn:batch_norm=true", "cnn:batch_norm=true"),
        ("cnn:dropout=0.50", "cnn:dropout=0.5"),
        ("cnn@rdfia-cli:dropout=0.5", "cnn:dropout=0.5"),
    ],
)
def test_a_spec_tells_only_what_is_not_the_default(written, told):
    assert spec_text("model", resolve_component("model", written, "test")) == told


def test_a_device_is_checked_as_in_a_configuration():
    assert resolve_device("cuda:3", "--device") == "cuda:3"
    with pytest.raises(UsageError, match=r"device = 'tpu' \(--device\): it should be auto"):
        resolve_device("tpu", "--device")


@pytest.mark.parametrize("name", sorted(SETTING_FLAGS))
def test_every_setting_flag_of_train_is_a_key(name):
    assert name in {*RunConfig.model_fields, "lr"}
    if name != "model":
        assert f"--{name.replace('_', '-')}" in SETTING_FLAGS[name].opts


@pytest.mark.parametrize("name", sorted({*SETTING_FLAGS} - {"augment", "log", "lr", "out"}))
def test_giving_the_default_that_the_help_states_changes_nothing(name):
    stated = re.search(r"\(default (\S+)\)$", SETTING_FLAGS[name].help)
    assert stated, SETTING_FLAGS[name].help
    assert resolve(Sources({name: stated[1]})).config == resolve(Sources({})).config


@pytest.mark.parametrize("key", sorted(RunConfig.model_fields))
def test_every_key_can_be_set_and_comes_back(key):
    written = {"model": "mlp", "data": "circles", "augment": "random_crop", "optimizer": "adam"}
    written |= {"schedule": "step", "epochs": "3", "batch_size": "4", "seed": "5"}
    written |= {"normalize": "none", "validation": "0.5", "split_seed": "6", "precision": "bf16"}
    written |= {"device": "cpu", "deterministic": "false", "log_every": "7", "out": "x"}
    written |= {"if_exists": "new", "label_smoothing": "0.1", "class_weights": "balanced"}
    written |= {"clip_norm": "1.5", "ema_decay": "0.99", "early_stopping": "8"}
    written |= {"log": "tensorboard"}
    written |= {"freeze": "backbone", "layer_decay": "0.75", "head_lr_factor": "10.0"}
    found = resolve(Sources({}, assignments=[f"{key}={written[key]}"]))
    shown = f"{key}.0" if key in {"augment", "log"} else key
    assert str(found.values()[shown]).lower() == written[key]
    assert found.origins[shown] == f"--set {key}"


def test_the_command_line_hands_over_every_source():
    flags = {"epochs": "2", "set": ["seed=4"], "config": ["a.toml"], "recipe": "r", "json": True}
    given = {**flags, "dry_run": True, "quiet": False, "traceback": False}
    handed = sources_of(given, {"RDFIA_SEED": "3"})
    assert handed.flags == {"epochs": "2"}
    assert handed.assignments == ["seed=4"]
    assert handed.files == [Path("a.toml")]
    assert handed.recipe == "r"
    assert handed.environment["RDFIA_SEED"] == "3"


@pytest.mark.parametrize("name", recipe.names())
def test_every_recipe_resolves_and_says_what_it_is_for(name):
    assert resolve(Sources({}, recipe=name, sweep=True)).config.epochs > 0
    assert recipe.path_of(name).read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("given", ["[]", '["horizontal_flip"]', '["random_crop:size=6"]'])
def test_a_toml_array_in_text_replaces_the_augmentations(given, tmp_path):
    import tomllib

    names = [text.partition(":")[0] for text in tomllib.loads(f"v = {given}")["v"]]
    below = {"augment": ["random_crop:size=5", "horizontal_flip"]}
    by_set = resolve(Sources(below, assignments=[f"augment={given}"])).config
    by_environment = resolve(Sources({}, environment={"RDFIA_AUGMENT": given})).config
    assert [c.name for c in by_set.augment] == [c.name for c in by_environment.augment] == names


@pytest.mark.parametrize(
    "text", ["[1, -2]", "[0, 1]", "balance", "1, 2", "[1, 'a']", "none at all"]
)
def test_bad_class_weights_are_told_what_good_ones_are(text):
    with pytest.raises(UsageError) as caught:
        resolve(Sources({"class_weights": text}))
    assert "none, balanced, or a list such as [1, 2.5], each above 0" in caught.value.fact


@pytest.mark.parametrize("text", ["none", "balanced", "[1, 2.5]"])
def test_class_weights_are_a_word_or_a_list(text):
    found = resolve(Sources({"class_weights": text})).config.class_weights
    assert found == {"[1, 2.5]": (1.0, 2.5)}.get(text, text)


@pytest.mark.parametrize("name", ["./sizes", "sizes", "./sizes/", "a/sizes"])
def test_a_folder_in_place_of_a_dataset_is_told_how_to_be_one(tmp_path, name):
    (tmp_path / name).mkdir(parents=True)
    with pytest.raises(ComponentError) as caught:
        resolve(Sources({"data": name}))
    assert caught.value.remedy == f"did you mean folder:path={name}?"


def test_a_file_may_build_on_a_recipe(tmp_path):
    (tmp_path / "mine.toml").write_text('recipe = "mlp-circles"\nepochs = 3\n')
    config = resolve(Sources({}, files=[tmp_path / "mine.toml"])).config
    assert (config.model.name, config.batch_size, config.epochs) == ("mlp", 10, 3)


def test_a_recipe_does_not_build_on_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(recipe, "RECIPES", tmp_path)
    (tmp_path / "one.toml").write_text('recipe = "other"\n')
    (tmp_path / "other.toml").write_text('recipe = "one"\n')
    with pytest.raises(UsageError, match="recipe one builds on itself"):
        resolve(Sources({}, recipe="one"))


def test_a_recipe_that_is_a_sweep_says_so_to_train():
    with pytest.raises(UsageError, match="is a sweep") as caught:
        resolve(Sources({}, recipe="vit-mnist-dim"))
    assert caught.value.remedy == "run rdfia sweep --recipe vit-mnist-dim"


def test_a_file_that_builds_on_a_sweep_says_so_to_train(tmp_path):
    (tmp_path / "q.toml").write_text('recipe = "vit-mnist-dim"\n')
    with pytest.raises(UsageError, match="is a sweep") as caught:
        resolve(Sources({}, files=[tmp_path / "q.toml"]))
    assert caught.value.remedy == f"run rdfia sweep --config {tmp_path / 'q.toml'}"


def test_a_number_that_is_no_digit_of_an_index_is_refused():
    with pytest.raises(UsageError, match=r"unknown setting 'augment\.²") as caught:
        resolve(Sources({}, ["augment.².size=3"]))
    assert "numbered from 0" in caught.value.remedy
