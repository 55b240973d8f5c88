"""Reads Bicep without its compiler: declarations, literals and references, by tree-sitter's grammar."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tree_sitter import Language, Node, Parser
from tree_sitter_bicep import language

_PARSER = Parser(Language(language()))


@dataclass(frozen=True)
class Expression:
    """What only a deployment knows: a reference, a call, a string with something in it."""

    text: str
    names: frozenset[str]
    """The identifiers that it begins with."""
    outputs: frozenset[tuple[str, str]] = frozenset()
    """Module and output, of each ``module.outputs.name``."""
    branches: tuple[Any, ...] = ()
    """Of ``condition ? one : other``, both values."""


Value = Any
"""None, a literal, a list, a dict, or an ``Expression``."""


@dataclass(frozen=True)
class Declared:
    """A resource or a module."""

    symbol: str
    what: str
    """The type with its version, or the module's path."""
    body: Value
    is_existing: bool = False
    condition: Expression | None = None
    loop: tuple[str, Expression] | None = None

    @property
    def type(self) -> str:
        return self.what.partition("@")[0]

    @property
    def version(self) -> str:
        return self.what.partition("@")[2]


@dataclass
class Document:
    path: Path
    has_error: bool
    target_scope: str | None = None
    params: dict[str, tuple[str, Value, bool]] = field(default_factory=dict)
    """Name → type, default, whether there is one."""
    variables: dict[str, Value] = field(default_factory=dict)
    resources: dict[str, Declared] = field(default_factory=dict)
    modules: dict[str, Declared] = field(default_factory=dict)
    outputs: dict[str, Value] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


def parsed(path: Path, text: str) -> Document:
    root = _PARSER.parse(text.encode()).root_node
    document = Document(path, root.has_error)
    document.errors = [f"{path.name}:{node.start_point.row + 1}: syntax" for node in _all(root) if _is_wrong(node)]
    for node in root.named_children:
        _DECLARATIONS.get(node.type, _other)(document, node)
    return document


def _is_wrong(node: Node) -> bool:
    return node.type == "ERROR" or node.is_missing


def _all(node: Node) -> Iterator[Node]:
    yield node
    for child in node.children:
        yield from _all(child)


def _text(node: Node) -> str:
    return (node.text or b"").decode()


def _named(node: Node) -> list[Node]:
    return [child for child in node.named_children if child.type != "comment"]


def _other(document: Document, node: Node) -> None:
    if node.type == "assignment" or _text(node).startswith("targetScope"):
        document.target_scope = _text(node).rpartition("=")[2].strip().strip("'")


def _param(document: Document, node: Node) -> None:
    name, kind, *default = _named(node)
    document.params[_text(name)] = (_text(kind), value_of(default[0]) if default else None, bool(default))


def _variable(document: Document, node: Node) -> None:
    name, value = _named(node)
    document.variables[_text(name)] = value_of(value)


def _output(document: Document, node: Node) -> None:
    name, _, value = _named(node)
    document.outputs[_text(name)] = value_of(value)


def _resource(document: Document, node: Node) -> None:
    declared = _declared(node)
    document.resources[declared.symbol] = declared


def _module(document: Document, node: Node) -> None:
    declared = _declared(node)
    document.modules[declared.symbol] = declared


def _declared(node: Node) -> Declared:
    symbol, what, body = _named(node)
    is_existing = any(_text(child) == "existing" for child in node.children)
    condition: Expression | None = None
    loop: tuple[str, Expression] | None = None
    if body.type == "if_statement":
        test, body = _named(body)
        condition = _expression(test)
    elif body.type == "for_statement":
        name, over, body = _named(body)
        loop = (_text(name), _expression(over))
    return Declared(_text(symbol), value_of(what), value_of(body), is_existing, condition, loop)


_DECLARATIONS = {
    "parameter_declaration": _param,
    "variable_declaration": _variable,
    "resource_declaration": _resource,
    "module_declaration": _module,
    "output_declaration": _output,
}


def value_of(node: Node) -> Value:
    if node.type == "string" and not any(child.type == "interpolation" for child in node.named_children):
        return "".join(_text(child) for child in node.named_children)
    if node.type == "number":
        return int(_text(node))
    if node.type in ("boolean", "null"):
        return {"true": True, "false": False, "null": None}[_text(node)]
    if node.type == "array":
        return [value_of(child) for child in _named(node)]
    if node.type == "object":
        return dict(_property(child) for child in _named(node) if child.type == "object_property")
    return _expression(node)


def _property(node: Node) -> tuple[str, Value]:
    name, value = _named(node)
    key = value_of(name) if name.type == "string" else _text(name)
    return (key.text if isinstance(key, Expression) else key), value_of(value)


def _expression(node: Node) -> Expression:
    branches = tuple(value_of(child) for child in _named(node)[1:]) if node.type == "ternary_expression" else ()
    return Expression(_text(node), frozenset(_names(node)), frozenset(_outputs(node)), branches)


def _names(node: Node) -> Iterator[str]:
    if node.type == "identifier":
        yield _text(node)
    elif node.type == "object_property":
        name, value = _named(node)
        yield from _names(value) if name.type == "identifier" else [*_names(name), *_names(value)]
    else:
        for child in node.named_children:
            yield from _names(child)


def _outputs(node: Node) -> Iterator[tuple[str, str]]:
    for one in _all(node):
        if one.type == "member_expression" and ".outputs." in _text(one):
            module, _, name = _text(one).partition(".outputs.")
            if name.isidentifier():
                yield module.rstrip("!"), name


def expressions_in(value: Value) -> Iterator[Expression]:
    if isinstance(value, Expression):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from expressions_in(part)


def literals_in(value: Value) -> list[Value]:
    """The values that it may have, as far as they are written down: of a choice, both sides."""
    if isinstance(value, Expression):
        return [literal for branch in value.branches for literal in literals_in(branch)]
    return [value]
