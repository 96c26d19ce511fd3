"""A component is written as name@distribution:key=value, and read back as it was meant."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdfia_cli.errors import ComponentError, UsageError
from rdfia_cli.spec import InputSpec, Spec, parse_spec

names = st.from_regex(r"[a-z][a-z0-9_]*(/[a-z][a-z0-9_.-]*)?", fullmatch=True)
distributions = st.none() | st.from_regex(r"[a-z][a-z0-9]*([-._][a-z0-9]+)*", fullmatch=True)
keys = st.from_regex(r"[a-z_][a-z0-9_]*", fullmatch=True)
plain_values = st.text(
    st.characters(exclude_characters=",\"'[](){}", exclude_categories=["C", "Z"]), max_size=8
)
lists = st.lists(st.integers(), max_size=4).map(str)
quoted_values = st.text(st.characters(exclude_characters='"', exclude_categories=["C"])).map(
    lambda text: f'"{text}"'
)
values = plain_values | lists | quoted_values
blanks = st.sampled_from(["", " ", "  "])


@given(names, distributions, st.dictionaries(keys, values, max_size=4))
def test_what_was_written_is_what_is_read(name, distribution, parameters):
    text = name
    text += f"@{distribution}" if distribution else ""
    text += ":" + ",".join(f"{k}={v}" for k, v in parameters.items()) if parameters else ""
    assert parse_spec(text) == Spec(name, distribution, parameters)


@given(names, keys, plain_values, blanks)
def test_blanks_around_keys_and_values_do_not_count(name, key, value, blank):
    text = f"{blank}{name}:{blank}{key}{blank}={blank}{value}{blank}"
    assert parse_spec(text).parameters == {key: value}


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("vit", {}),
        ("vit:", {}),
        ("vit: ", {}),
        ("vit:dim=64,depth=6", {"dim": "64", "depth": "6"}),
        ("vit:dim=64,", {"dim": "64"}),
        ("vit:size=[8,16],dim=2", {"size": "[8,16]", "dim": "2"}),
        ("vit:size=[[8,16],[1,2]]", {"size": "[[8,16],[1,2]]"}),
        ("vit:extra={a=1,b=2},dim=2", {"extra": "{a=1,b=2}", "dim": "2"}),
        ("folder:path='a,b',size=8", {"path": "'a,b'", "size": "8"}),
        ('folder:path="a,[b",size=8', {"path": '"a,[b"', "size": "8"}),
        ('folder:path="it\'s"', {"path": '"it\'s"'}),
        ("folder:path=a=b", {"path": "a=b"}),
        ("folder:path=C:/data", {"path": "C:/data"}),
        ("folder:path=me@home", {"path": "me@home"}),
        ("folder:path=", {"path": ""}),
    ],
)
def test_commas_inside_brackets_and_quotes_belong_to_the_value(text, parameters):
    assert parse_spec(text).parameters == parameters


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "'' is not a component"),
        (" ", "' ' is not a component"),
        (":dim=64", "':dim=64' is not a component"),
        ("vit dim=64", "'vit dim=64' is not a component"),
        ("vit@", "'vit@' is not a component"),
        ("vit@a@b", "'vit@a@b' is not a component"),
        ("vit,cnn", "'vit,cnn' is not a component"),
        ("vit:64", "'64' in 'vit:64' is not key=value"),
        ("vit:=64", "'=64' in 'vit:=64' is not key=value"),
        ("vit:a-b=64", "'a-b=64' in 'vit:a-b=64' is not key=value"),
        ("vit:dim=1,,depth=2", "'' in 'vit:dim=1,,depth=2' is not key=value"),
        ("vit:dim=64,dim=65", "'dim' is given twice in 'vit:dim=64,dim=65'"),
        ("vit:size=[8,dim=2", "a bracket or a quote is not closed in 'size=[8,dim=2'"),
        ("vit:size=8],dim=2", "a bracket or a quote is not closed in 'size=8],dim=2'"),
        ("folder:path=it's,size=2", "a bracket or a quote is not closed in 'path=it's,size=2'"),
    ],
)
def test_text_outside_the_grammar_is_refused_in_its_own_words(text, told):
    with pytest.raises(UsageError) as caught:
        parse_spec(text)
    assert caught.value.fact == told
    assert caught.value.remedy


@given(st.text())
def test_no_text_makes_parsing_fail_in_any_other_way(text):
    try:
        spec = parse_spec(text)
    except UsageError as error:
        assert error.fact
    else:
        assert spec.name
        assert text.strip().startswith(spec.reference)


@pytest.mark.parametrize("reference", ["vit", "vit@rdfia-cli", "timm/resnet18@rdfia-timm"])
def test_a_reference_names_the_distribution_only_where_one_was_asked_for(reference):
    assert parse_spec(f"{reference}:dim=64").reference == reference


def test_a_model_for_images_says_so_when_it_is_fed_points():
    with pytest.raises(ComponentError, match=r"cnn needs images .*, but the data has shape \(2,\)"):
        InputSpec((2,), 2).image("cnn")


def test_an_image_is_channels_height_and_width():
    assert InputSpec((3, 32, 24), 10).image("cnn") == (3, 32, 24)
