"""A builder's hyper-parameters, read from its source without importing it.

Importing a model means importing torch, and perhaps timm: seconds. Help, listing, completion and
the refusal of a misspelt key need only the names, types and defaults, which stand in the source
as text. What cannot be read as text (a compiled module, a computed default) is `None` here, and
the registry then imports the component.
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import json
import math
import sys
import types
import typing
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import annotated_types

from rdfia_cli import spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

ANNOTATION_NAMES: Mapping[str, Any] = {
    "__builtins__": {},
    **{kind.__name__: kind for kind in (bool, int, float, str, list, tuple, dict, Path)},
    **{name: getattr(typing, name) for name in ("Annotated", "Any", "Literal", "Optional")},
    **{name: getattr(annotated_types, name) for name in ("Ge", "Gt", "Le", "Lt", "MultipleOf")},
    **{
        name: getattr(spec, name)
        for name in ("Count", "Size", "Positive", "NonNegative", "Probability", "Fraction")
    },
}
ANNOTATION_NODES = (
    *(ast.Expression, ast.Name, ast.Load, ast.Subscript, ast.Tuple, ast.List, ast.Constant),
    *(ast.BinOp, ast.BitOr, ast.Call, ast.keyword, ast.UnaryOp, ast.USub),
)


class BrokenSourceError(Exception):
    """The source says by itself that the component cannot be imported."""


class _Required:
    def __repr__(self) -> str:
        return "(required)"


REQUIRED: Any = _Required()


@dataclass(frozen=True)
class Parameter:
    """One hyper-parameter: a keyword-only parameter of a builder."""

    name: str
    annotation: Any
    default: Any

    @property
    def type(self) -> str:
        """The type in words, such as `float in [0, 1]`."""
        return describe(self.annotation)

    def convert(self, value: Any, *, text: bool) -> Any:
        """Check a value against the annotation and return it in its type.

        Args:
            value: what was given.
            text: it comes from a flag or the environment, where everything is text.

        Raises:
            ValueError: the value does not fit; the message is the short reason.
        """
        annotation = self.annotation
        if self.default is None and not accepts_none(annotation):
            annotation = annotation | None
        try:
            return convert(annotation, value, text=text)
        except ValueError:
            # An odd default, such as infinity, may be said aloud.
            if type(value) is type(self.default) and value == self.default:
                return value
            raise

    @property
    def usual(self) -> Any:
        """The default in the parameter's type, so that 1 for a float is 1.0."""
        return self.convert(self.default, text=False)


@dataclass(frozen=True)
class Signature:
    """What a builder tells about itself.

    Attributes:
        description: the first line of its docstring.
        parameters: its hyper-parameters by name.
        open: it also takes keywords of any name.
        positional: parameters with a default that stand before the `*`, where nobody can set them.
    """

    description: str = ""
    parameters: Mapping[str, Parameter] = field(default_factory=dict[str, Parameter])
    open: bool = False
    positional: tuple[str, ...] = ()


def convert(annotation: Any, value: Any, *, text: bool) -> Any:
    """Check a value against a type and return it in that type; see `Parameter.convert`."""
    from pydantic import ConfigDict, PydanticSchemaGenerationError, TypeAdapter, ValidationError

    try:
        adapter = TypeAdapter[Any](annotation, config=ConfigDict(allow_inf_nan=False))
    except PydanticSchemaGenerationError:
        return value
    candidates = [*_toml_literal(value), value] if text else [value]
    if isinstance(value, str) and value.lower() == "none" and accepts_none(annotation):
        return None
    for candidate in candidates:
        # JSON has the types of TOML: strict there, a list may be a tuple and a text a path.
        content = json.dumps(candidate, default=str)
        try:
            return _refuse_infinite(adapter.validate_json(content, strict=True))
        except ValidationError:
            continue
    try:
        return adapter.validate_python(value, strict=not text)
    except ValidationError as error:
        reason = error.errors(include_url=False)[0]["msg"].partition(", unable to parse")[0]
        raise ValueError(reason.removeprefix("Value error, ").replace("Input", "it")) from None


def _refuse_infinite(value: Any) -> Any:
    """Where the type is Any, pydantic lets NaN pass, which equals not even itself."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("it should be a finite number")
    return value


def _toml_literal(text: str) -> Iterator[Any]:
    import tomllib

    # TOML would drop what follows a hash as a comment.
    if "#" in text and text[:1] not in ('"', "'", "[", "{"):
        return
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return
    if len(found) == 1:
        yield found["value"]


def accepts_none(annotation: Any) -> bool:
    """Whether None is a value of the type."""
    return annotation in (None, type(None), Any) or any(
        accepts_none(argument)
        for argument in typing.get_args(annotation)
        if typing.get_origin(annotation) in (typing.Union, types.UnionType)
    )


def means(annotation: Any, kind: type) -> bool:
    """Whether values of a type are what an annotation means, None aside."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return means(arguments[0], kind)
    if origin in (typing.Union, types.UnionType):
        return all(means(argument, kind) for argument in arguments if argument is not type(None))
    return annotation is kind


def describe(annotation: Any) -> str:
    """A type in words: `int of at least 1`, `float in [0, 1)`, `manual|autograd`."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return f"{describe(arguments[0])}{_describe_bounds(arguments[1:])}"
    if origin is typing.Literal:
        return "|".join(str(argument) for argument in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(argument) for argument in arguments)
    if annotation in (None, type(None)):
        return "none"
    return annotation.__name__ if isinstance(annotation, type) and not origin else str(annotation)


def _describe_bounds(constraints: tuple[Any, ...]) -> str:
    bounds = {
        name: getattr(constraint, name)
        for constraint in constraints
        for name in ("ge", "gt", "le", "lt")
        if getattr(constraint, name, None) is not None
    }
    low = f"[{bounds['ge']}" if "ge" in bounds else f"({bounds['gt']}" if "gt" in bounds else ""
    high = f"{bounds['le']}]" if "le" in bounds else f"{bounds['lt']})" if "lt" in bounds else ""
    if low and high:
        return f" in {low}, {high}"
    if "ge" in bounds:
        return f" of at least {bounds['ge']}"
    if "gt" in bounds:
        return f" above {bounds['gt']}"
    return ""


def of_function(builder: Callable[..., Any]) -> Signature:
    """The signature of an imported builder."""
    parameters: dict[str, Parameter] = {}
    is_open = False
    positional: list[str] = []
    for name, parameter in inspect.signature(builder).parameters.items():
        is_open |= parameter.kind is parameter.VAR_KEYWORD
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and parameter.default is not (
            parameter.empty
        ):
            positional.append(name)
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        annotation = parameter.annotation
        if isinstance(annotation, str):
            scope = {**ANNOTATION_NAMES, **getattr(builder, "__globals__", {})}
            annotation = eval(annotation, scope)
        if annotation is parameter.empty:
            annotation = _type_of_default(default)
        parameters[name] = Parameter(name, annotation, default)
    description = _first_line(inspect.getdoc(builder))
    return Signature(description, parameters, is_open, tuple(positional))


def of_source(module: str, attribute: str) -> Signature | None:
    """The signature of a builder that is not imported, or None where the text does not tell it.

    Raises:
        BrokenSourceError: importing it is bound to fail; the message is the reason.
    """
    definition = _definition(module, attribute)
    if definition is None:
        return None
    try:
        parameters = {
            argument.arg: _parameter(argument, default)
            for argument, default in zip(
                definition.args.kwonlyargs, definition.args.kw_defaults, strict=True
            )
        }
    except Exception:
        # A default or an annotation that only an import can tell, or that is nonsense.
        return None
    is_open = definition.args.kwarg is not None
    usual = len(definition.args.defaults)
    positional = tuple(argument.arg for argument in definition.args.args[-usual:] if usual)
    description = _first_line(ast.get_docstring(definition))
    return Signature(description, parameters, is_open, positional)


def description(module: str, attribute: str) -> str:
    """The first line of a builder's docstring, without importing it; empty where unknown.

    Raises:
        BrokenSourceError: importing it is bound to fail; the message is the reason.
    """
    definition = _definition(module, attribute)
    return _first_line(ast.get_docstring(definition)) if definition else ""


def names(path: Path) -> tuple[str, ...] | None:
    """What a file defines at its top level, or None where only an import tells it all.

    Raises:
        BrokenSourceError: the file is no Python.
    """
    found: list[str] = []
    for statement in _parse(path).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            found.append(statement.name)
        elif isinstance(statement, ast.Import | ast.ImportFrom):
            found += [alias.asname or alias.name for alias in statement.names]
        elif isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = [node for node in ast.walk(statement) if isinstance(node, ast.Name)]
            found += [node.id for node in targets if isinstance(node.ctx, ast.Store)]
        elif not isinstance(statement, ast.Expr):
            return None
    return None if {"*", "__getattr__"} & set(found) else tuple(found)


def _first_line(docstring: str | None) -> str:
    return (docstring or "").strip().partition("\n")[0]


def _type_of_default(default: Any) -> Any:
    return Any if default is REQUIRED or default is None else type(default)


def _parameter(argument: ast.arg, default: ast.expr | None) -> Parameter:
    value = REQUIRED if default is None else ast.literal_eval(default)
    if argument.annotation is None:
        return Parameter(argument.arg, _type_of_default(value), value)
    expression = ast.Expression(argument.annotation)
    if isinstance(argument.annotation, ast.Constant) and isinstance(argument.annotation.value, str):
        expression = ast.parse(argument.annotation.value, mode="eval")
    for node in ast.walk(expression):
        is_known = not isinstance(node, ast.Name) or node.id in ANNOTATION_NAMES
        if not isinstance(node, ANNOTATION_NODES) or not is_known:
            raise ValueError(f"{ast.unparse(argument.annotation)} is not known without an import")
    annotation = eval(compile(expression, "<annotation>", "eval"), dict(ANNOTATION_NAMES))
    return Parameter(argument.arg, annotation, value)


def _definition(module: str, attribute: str, hops: int = 5) -> ast.FunctionDef | None:
    """Find `def attribute` in the module, following `from .x import attribute`."""
    path = _source_path(module)
    if path is None:
        return None
    for package in _parents(module):
        initial = _source_path(package)
        if initial is not None:
            _refuse_missing_imports(_parse(initial), initial)
    tree = _parse(path)
    _refuse_missing_imports(tree, path, beside=_is_path(module))
    if "." in attribute:
        return None
    for statement in tree.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == attribute:
            return None if statement.decorator_list else statement
        # A file belongs to no package, and what it imports from beside it only an import finds.
        if isinstance(statement, ast.ImportFrom) and hops and not _is_path(module):
            for alias in statement.names:
                if (alias.asname or alias.name) == attribute:
                    origin = _absolute(statement, module, is_package=path.name == "__init__.py")
                    return _definition(origin, alias.name, hops - 1)
    if not _is_path(module) and not _may_define(tree, attribute):
        raise BrokenSourceError(f"module '{module}' has no function '{attribute}'")
    return None


@lru_cache(maxsize=256)
def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_bytes())
    except (SyntaxError, ValueError) as error:
        line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
        raise BrokenSourceError(f"{type(error).__name__} in {path.name}{line}: {error}") from None
    except OSError as error:
        raise BrokenSourceError(f"cannot read {path}: {error.strerror}") from None


NAMERS = frozenset({"__getattr__", "globals", "vars", "exec", "eval", "setattr"})
"""What a module that binds names by other means than statements mentions."""


def _may_define(tree: ast.Module, attribute: str) -> bool:
    """Whether a module could bind a name that no `def` or import at its top level does."""
    found = {*NAMERS, attribute}
    for statement in tree.body:
        is_import = isinstance(statement, ast.ImportFrom)
        if isinstance(statement, ast.Raise) or (is_import and statement.names[0].name == "*"):
            return True
        # Such an import was followed, and led nowhere.
        if not is_import and any(found & {*_bound(node)} for node in ast.walk(statement)):
            return True
    return False


def _bound(node: ast.AST) -> Iterator[str]:
    """The names that a node binds or mentions."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name
    elif isinstance(node, ast.Name):
        yield node.id
    elif isinstance(node, ast.Global):
        yield from node.names
    elif isinstance(node, ast.Import | ast.ImportFrom):
        yield from (alias.asname or alias.name.partition(".")[0] for alias in node.names)


def _absolute(statement: ast.ImportFrom, module: str, *, is_package: bool) -> str:
    if not statement.level:
        return statement.module or ""
    parts = module.split(".")
    base = parts[: len(parts) - statement.level + is_package]
    return ".".join([*base, *([statement.module] if statement.module else [])])


def _source_path(module: str) -> Path | None:
    """The file of a module, found without importing its parent packages."""
    if _is_path(module):
        return Path(module)
    top, *rest = module.split(".")
    try:
        found = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        found = None
    if found is None:
        raise BrokenSourceError(f"module '{top}' is not installed")
    if not rest:
        if found.origin is None:
            return None
        return Path(found.origin) if found.origin.endswith(".py") else None
    for location in found.submodule_search_locations or []:
        base = Path(location).joinpath(*rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
        if base.is_dir() or any(base.parent.glob(f"{base.name}.*")):
            return None
    raise BrokenSourceError(f"module '{module}' does not exist in '{top}'")


def _is_path(module: str) -> bool:
    """Whether a module is named by the path of its file."""
    return "/" in module or "\\" in module


def _parents(module: str) -> Iterator[str]:
    if _is_path(module):
        return iter(())
    parts = module.split(".")
    return (".".join(parts[:length]) for length in range(1, len(parts)))


def _is_beside(path: Path, top: str) -> bool:
    return any(place.exists() for place in (path.with_name(f"{top}.py"), path.with_name(top)))


def _refuse_missing_imports(tree: ast.Module, path: Path, *, beside: bool = False) -> None:
    for statement in tree.body:
        names: list[str] = []
        if isinstance(statement, ast.Import):
            names = [alias.name for alias in statement.names]
        elif isinstance(statement, ast.ImportFrom) and not statement.level and statement.module:
            names = [statement.module]
        for name in names:
            top = name.partition(".")[0]
            if not (beside and _is_beside(path, top)) and not _is_installed(top):
                raise BrokenSourceError(f"{path.name} imports '{name}', which is not installed")


@lru_cache(maxsize=256)
def _is_installed(top: str) -> bool:
    if top in sys.modules or top in sys.stdlib_module_names:
        return True
    try:
        return importlib.util.find_spec(top) is not None
    except (ImportError, ValueError):
        return False
