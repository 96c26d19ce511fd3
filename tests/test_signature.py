"""Hyper-parameters are read from source text exactly as an import would show them."""

from __future__ import annotations

import importlib
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Le, Lt
from hypothesis import given
from hypothesis import strategies as st

from rdfia_cli import registry, signature
from rdfia_cli.signature import BrokenSourceError, convert, describe
from rdfia_cli.spec import Count, Fraction, NonNegative, Positive, Probability, Size

BUILT_IN = [c for c in registry.components() if c.distribution == "rdfia-cli"]

ANNOTATIONS = """
    from __future__ import annotations
    from pathlib import Path
    from typing import Annotated, Any, Literal, Optional
    from annotated_types import Ge, Lt
    from rdfia_cli.spec import Count, Fraction

    def build(
        input: object,
        *,
        needed: int,
        plain: float = 0.5,
        bounded: Annotated[int, Ge(1), Lt(9)] = 2,
        named: Fraction = 0.25,
        count: Count = 3,
        choice: Literal["a", "b"] = "a",
        perhaps: int | None = None,
        older: Optional[float] = None,
        several: tuple[int, ...] = (1, 2),
        both: list[str] = [],
        negative: float = -1.5,
        place: Path | None = None,
        untyped=True,
        bare=None,
        anything: Any = "x",
    ) -> object:
        '''Every kind of annotation.

        More words.
        '''
        return needed
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Write a module or a file of a package into a folder that Python imports from."""
    folder = tmp_path / "modules"
    folder.mkdir()
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)

    def write_file(path: str, source: str) -> None:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(textwrap.dedent(source), encoding="utf-8")
        importlib.invalidate_caches()

    yield write_file
    for name in set(sys.modules) - before:
        if str(folder) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.mark.parametrize("component", BUILT_IN, ids=lambda c: f"{c.group}-{c.name}")
def test_the_source_of_a_built_in_tells_what_its_import_tells(component):
    builder = getattr(importlib.import_module(component.module), component.attribute)
    read = signature.of_source(component.module, component.attribute)
    assert read == signature.of_function(builder)


@pytest.mark.parametrize("component", BUILT_IN, ids=lambda c: f"{c.group}-{c.name}")
def test_every_built_in_describes_itself_and_types_each_hyper_parameter(component):
    read = registry.source_parameters(component)
    assert read is not None
    assert read.description
    assert not [p.name for p in read.parameters.values() if p.annotation is Any]


def test_the_source_of_a_plugin_tells_what_its_import_tells(write):
    write("sig_kinds.py", ANNOTATIONS)
    read = signature.of_source("sig_kinds", "build")
    assert "sig_kinds" not in sys.modules
    assert read == signature.of_function(importlib.import_module("sig_kinds").build)
    assert read.description == "Every kind of annotation."
    assert {name: p.type for name, p in read.parameters.items()} == {
        "needed": "int",
        "plain": "float",
        "bounded": "int in [1, 9)",
        "named": "float in [0, 1)",
        "count": "int of at least 1",
        "choice": "a|b",
        "perhaps": "int or none",
        "older": "float or none",
        "several": "tuple[int, ...]",
        "both": "list[str]",
        "negative": "float",
        "place": "Path or none",
        "untyped": "bool",
        "bare": "Any",
        "anything": "Any",
    }
    assert read.parameters["needed"].default is signature.REQUIRED
    assert read.parameters["several"].default == (1, 2)
    assert read.parameters["negative"].default == -1.5


@pytest.mark.parametrize(
    ("source", "names", "is_open"),
    [
        ("def build(input, *, dim: int = 2): pass", ["dim"], False),
        ("def build(input, *, dim: int = 2, **others): pass", ["dim"], True),
        ("def build(input, **others): pass", [], True),
        ("def build(input, depth=3): pass", [], False),
        ("def build(input): pass", [], False),
    ],
)
def test_only_keyword_only_parameters_are_hyper_parameters(write, source, names, is_open):
    write("sig_shapes.py", source)
    read = signature.of_source("sig_shapes", "build")
    assert read is not None
    assert (list(read.parameters), read.open) == (names, is_open)


@pytest.mark.parametrize(
    "source",
    [
        "class Build:\n    pass\nbuild = Build",
        "build = lambda input, *, dim=2: None",
        "import functools\n@functools.cache\ndef build(input, *, dim: int = 2): pass",
        "WIDTH = 3\ndef build(input, *, dim: int = WIDTH): pass",
        "Dim = int\ndef build(input, *, dim: Dim = 2): pass",
        "def build(input, *, dim: 'not python' = 2): pass",
        "def build(input, *, dim: int[3] = 2): pass",
        "def build(input, *, dim: ''.__class__ = 2): pass",
        "def build(input, *, dim: Path('x', 1, bad=2) = 2): pass",
        "from os.path import *",
        "def __getattr__(name): return None",
    ],
)
def test_what_only_an_import_can_tell_is_left_to_an_import(write, source):
    write("sig_dynamic.py", source)
    assert signature.of_source("sig_dynamic", "build") is None
    assert "sig_dynamic" not in sys.modules


def test_a_builder_inside_an_object_is_left_to_an_import(write):
    write("sig_object.py", "from types import SimpleNamespace as builders")
    assert signature.of_source("sig_object", "builders.build") is None


@pytest.mark.parametrize(
    "statement",
    [
        "from sig_package.inner import build",
        "from .inner import build",
        "from sig_package.inner import make as build",
        "from .middle import build",
    ],
)
def test_a_re_exported_builder_is_followed_to_its_definition(write, statement):
    write("sig_package/__init__.py", statement)
    write("sig_package/middle.py", "from .inner import build")
    definition = "def {}(input, *, dim: int = 7):\n    'A model.'\n"
    write("sig_package/inner.py", definition.format("build") + definition.format("make"))
    read = signature.of_source("sig_package", "build")
    assert read is not None
    assert (read.description, read.parameters["dim"].default) == ("A model.", 7)
    assert "sig_package" not in sys.modules


def test_re_exports_that_go_in_a_circle_end(write):
    write("sig_ring.py", "from sig_gnir import build")
    write("sig_gnir.py", "from sig_ring import build")
    with pytest.raises(BrokenSourceError, match="has no function 'build'"):
        signature.of_source("sig_ring", "build")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("def build(:", r"SyntaxError in sig_broken\.py \(line 1\)"),
        ("x = 1\n  y = 2", r"IndentationError in sig_broken\.py \(line 2\)"),
        ("def build(input): pass\n\0", r"(Syntax|Value)Error in sig_broken\.py"),
        ("import sig_absent", r"sig_broken\.py imports 'sig_absent', which is not installed"),
        ("import sig_absent.part as p", r"imports 'sig_absent.part', which is not installed"),
        ("from sig_absent.part import x", r"imports 'sig_absent.part', which is not installed"),
        ("def other(input): pass", "module 'sig_broken' has no function 'build'"),
        (
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import json\n"
            "RATE = 0.1\nclass Lion:\n    pass\ndef built(input): pass",
            "module 'sig_broken' has no function 'build'",
        ),
        ("from json import loads", "module 'sig_broken' has no function 'build'"),
        ("", "module 'sig_broken' has no function 'build'"),
    ],
)
def test_source_that_cannot_be_imported_is_broken_for_a_stated_reason(write, source, reason):
    write("sig_broken.py", source)
    with pytest.raises(BrokenSourceError, match=reason):
        signature.of_source("sig_broken", "build")
    with pytest.raises(BrokenSourceError, match=reason):
        signature.description("sig_broken", "build")


@pytest.mark.parametrize(
    ("module", "reason"),
    [
        ("sig_nowhere", "module 'sig_nowhere' is not installed"),
        ("sig_nowhere.part", "module 'sig_nowhere' is not installed"),
        ("rdfia_cli.nowhere", "module 'rdfia_cli.nowhere' does not exist in 'rdfia_cli'"),
        ("not a module!", "module 'not a module!' is not installed"),
        ("", "module '' is not installed"),
    ],
)
def test_a_missing_module_is_broken(module, reason):
    with pytest.raises(BrokenSourceError, match=reason):
        signature.of_source(module, "build")


def test_a_package_whose_init_is_broken_breaks_its_modules(write):
    write("sig_outer/__init__.py", "import sig_absent")
    write("sig_outer/inner.py", "def build(input): pass")
    with pytest.raises(BrokenSourceError, match=r"__init__\.py imports 'sig_absent'"):
        signature.of_source("sig_outer.inner", "build")


@pytest.mark.parametrize(
    "guard",
    [
        "try:\n    import sig_absent\nexcept ImportError:\n    pass",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import sig_absent",
    ],
    ids=["try", "type checking"],
)
def test_an_optional_import_breaks_nothing(write, guard):
    write("sig_optional.py", f"{guard}\ndef build(input, *, dim: int = 2): pass")
    read = signature.of_source("sig_optional", "build")
    assert read is not None
    assert list(read.parameters) == ["dim"]


def test_a_compiled_module_is_left_to_an_import(write, tmp_path):
    write("sig_compiled/__init__.py", "")
    write("sig_compiled/core.cpython-311-x86_64-linux-gnu.so", "no text")
    assert signature.of_source("sig_compiled.core", "build") is None


def test_reading_every_built_in_imports_none_of_them():
    program = (
        "import sys\n"
        "from rdfia_cli import registry\n"
        "for component in registry.components(): registry.source_parameters(component)\n"
        "rooms = ('models', 'augmentations', 'optimizers', 'schedules', 'datasets')\n"
        "bad = [m for m in sys.modules if m == 'torch' or m.split('.')[-1] in rooms]\n"
        "assert len(registry.components()) > 10\n"
        "assert not bad, bad\n"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stderr


@pytest.mark.parametrize(
    ("annotation", "words"),
    [
        (int, "int"),
        (bool, "bool"),
        (str | None, "str or none"),
        (Count, "int of at least 1"),
        (Size, "int of at least 0"),
        (Positive, "float above 0"),
        (NonNegative, "float of at least 0"),
        (Probability, "float in [0, 1]"),
        (Fraction, "float in [0, 1)"),
        (Annotated[float, Gt(0), Le(2)], "float in (0, 2]"),
        (Annotated[int, Ge(3), Lt(9)] | None, "int in [3, 9) or none"),
        (Literal["manual", "autograd"], "manual|autograd"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Path, "Path"),
    ],
)
def test_a_type_is_told_in_words(annotation, words):
    assert describe(annotation) == words


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (int, "7", 7),
        (int, "1_000", 1000),
        (float, "1e-3", 0.001),
        (float, "3", 3.0),
        (bool, "true", True),
        (bool, "yes", True),
        (bool, "0", False),
        (str, "7", "7"),
        (str, "true", "true"),
        (str, "a,b", "a,b"),
        (str, '"quoted"', "quoted"),
        (Literal["train", "none"], "none", "none"),
        (Literal[1, 2], "2", 2),
        (int | None, "none", None),
        (int | None, "None", None),
        (int | None, "3", 3),
        (str | None, "x", "x"),
        (tuple[int, ...], "[1, 2]", (1, 2)),
        (tuple[int, int] | None, "[1,2]", (1, 2)),
        (list[int], "[1,2]", [1, 2]),
        (tuple[tuple[int, int], ...], "[[1,2],[3,4]]", ((1, 2), (3, 4))),
        (Path, "a/b", Path("a/b")),
        (Path | None, "a/b", Path("a/b")),
        (Any, "3", 3),
        (Any, "word", "word"),
    ],
)
def test_text_is_read_in_the_type_that_is_asked_for(annotation, text, value):
    read = convert(annotation, text, text=True)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize(
    ("annotation", "value", "read"),
    [
        (int, 7, 7),
        (float, 3, 3.0),
        (str, "7", "7"),
        (int | None, "none", None),
        (tuple[int, ...], [1, 2], (1, 2)),
        (list[int], [1, 2], [1, 2]),
        (Path, "a/b", Path("a/b")),
    ],
)
def test_a_typed_value_of_the_right_type_is_taken(annotation, value, read):
    found = convert(annotation, value, text=False)
    assert found == read
    assert type(found) is type(read)


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (int, "7"),
        (int, 7.0),
        (int, True),
        (float, "0.5"),
        (float, True),
        (bool, 1),
        (bool, "true"),
        (str, 7),
        (tuple[int, ...], 7),
        (tuple[int, int], [1, 2, 3]),
        (Literal["a"], "b"),
        (Path, 7),
        (int, "none"),
    ],
)
def test_a_typed_value_of_another_type_is_refused(annotation, value):
    with pytest.raises(ValueError, match=r"^it should be|tuple"):
        convert(annotation, value, text=False)


@pytest.mark.parametrize(
    ("annotation", "text"),
    [
        (int, "1.5"),
        (int, "x"),
        (int, ""),
        (int, "3\nx = 1"),
        (float, "0.1.2"),
        (float, "none"),
        (bool, "2"),
        (Count, "0"),
        (Fraction, "1"),
        (Fraction, "-0.1"),
        (Positive, "0"),
        (Literal["a", "b"], "c"),
        (tuple[int, ...], "[1, x]"),
        (tuple[int, ...], "[1.5]"),
    ],
)
def test_text_that_does_not_fit_is_refused(annotation, text):
    with pytest.raises(ValueError, match=r"^it should|tuple"):
        convert(annotation, text, text=True)


@pytest.mark.parametrize("annotation", [float, NonNegative, float | None, tuple[float, ...]])
@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_number_that_is_not_finite_is_refused_from_every_source(annotation, number):
    text = f"[{number}]" if annotation == tuple[float, ...] else number
    value = [float(number)] if annotation == tuple[float, ...] else float(number)
    for given_value, is_text in ((text, True), (value, False)):
        with pytest.raises(ValueError, match="it should be"):
            convert(annotation, given_value, text=is_text)


@given(st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_written_by_python_is_read_back(number):
    assert convert(type(number), repr(number), text=True) == number


@given(st.text())
def test_text_for_text_is_kept_or_unquoted(text):
    quoted = len(text.strip()) > 1 and text.strip()[0] in "\"'"
    read = convert(str, text, text=True)
    assert quoted or read == text


def test_a_type_that_cannot_be_checked_takes_the_value_as_it_is():
    class Opaque:
        pass

    assert convert(Opaque, "anything", text=True) == "anything"
