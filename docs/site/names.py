"""The page of the Python names: their docstrings, and what their source says they take."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, is_typeddict

from layout import table, text_of

NAMES = Path(__file__).parents[1] / "reference" / "python.md"
WIDTH = 80
"""Of a line of code; a longer one has a line for each argument."""


def api() -> str:
    """Every name of ``docs/reference/python.md``, by the module that it is imported from."""
    parts = [
        "# Python, name by name",
        "Made from the docstrings of the names that [the reference](python.md) lists.",
    ]
    for module, names in listed():
        parts.append(f"## `{module}`")
        found = importlib.import_module(module)
        parts += [_entry(name, getattr(found, name)) for name in names]
    return "\n\n".join(parts) + "\n"


def listed() -> Iterator[tuple[str, list[str]]]:
    """The modules of the reference's tables, and the names that stand there for each."""
    text = NAMES.read_text()
    own = text.partition("\n## `seaway`\n")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`[^|]+) \|", own, flags=re.M)
    yield "seaway", [name for cell in cells for name in re.findall(r"`([A-Za-z]+)", cell)]
    for module, names in re.findall(r"^\| `(seaway\.[a-z_.]+)` \| (.*?) \|", text, flags=re.M):
        yield module, re.findall(r"`([A-Za-z_]+)", names)


def _entry(name: str, what: Any) -> str:
    if inspect.isclass(what):
        parts = [_class(what), _doc(what), _options_of(what), *_members(what)]
    elif callable(what):
        parts = [_function(what), _doc(what)]
    else:
        parts = [_code(f"{name} = {re.sub(r'seaway[.a-z_]*[.]', '', str(what))}")]
    return "\n\n".join(part for part in (f"### `{name}`", *parts) if part)


def _members(what: type) -> Iterator[str]:
    for name, one in vars(what).items():
        if name.startswith("_"):
            continue
        if isinstance(one, property):
            returns = _node(one.fget).returns
            shown = _code(f"{name}: {ast.unparse(returns)}")
        elif isinstance(one, classmethod) or (inspect.isfunction(one) and one.__doc__):
            shown = _function(getattr(one, "__func__", one))
        else:
            continue
        yield "\n\n".join(part for part in (f"#### `{name}`", shown, _doc(one)) if part)


def _class(what: type) -> str:
    """How one is made: its ``__init__``, or the fields of a dataclass."""
    if issubclass(what, BaseException) or is_typeddict(what):
        return ""
    if inspect.isfunction(init := vars(what).get("__init__")) and not is_dataclass(what):
        return _call(f"class {what.__name__}", _taken(_node(init)))
    fields = [one for one in _node(what).body if isinstance(one, ast.AnnAssign)]
    public = [one for one in fields if not ast.unparse(one.target).startswith("_")]
    return _call(f"class {what.__name__}", [ast.unparse(one) for one in public])


def _function(what: Any) -> str:
    node = _node(inspect.unwrap(what))
    start = "async def" if isinstance(node, ast.AsyncFunctionDef) else "def"
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return _call(f"{start} {node.name}", _taken(node), returns)


def _node(what: Any) -> Any:
    return ast.parse(textwrap.dedent(inspect.getsource(what))).body[0]


def _taken(node: Any) -> list[str]:
    """The arguments of a function, each as its source has it."""
    args: ast.arguments = node.args
    positional = [*args.posonlyargs, *args.args]
    without = len(positional) - len(args.defaults)
    defaults = [None] * without + args.defaults
    taken = [_argument_of(one, default) for one, default in zip(positional, defaults, strict=True)]
    if args.vararg or args.kwonlyargs:
        taken.append(f"*{ast.unparse(args.vararg)}" if args.vararg else "*")
    named = zip(args.kwonlyargs, args.kw_defaults, strict=True)
    taken += [_argument_of(one, default) for one, default in named]
    if args.kwarg:
        taken.append(f"**{ast.unparse(args.kwarg)}")
    return taken[1:] if positional and positional[0].arg in ("self", "cls") else taken


def _argument_of(one: ast.arg, default: ast.expr | None) -> str:
    return ast.unparse(one) + (f" = {ast.unparse(default)}" if default else "")


def _call(start: str, taken: list[str], returns: str = "") -> str:
    line = f"{start}({', '.join(taken)}){returns}"
    if len(line) > WIDTH:
        line = f"{start}(\n" + "".join(f"    {one},\n" for one in taken) + f"){returns}"
    return _code(line)


def _code(text: str) -> str:
    return f"```python\n{text}\n```"


def _options_of(what: type) -> str:
    """The keys of a typed dictionary, with the text that stands below each in the source."""
    if not is_typeddict(what):
        return ""
    rows: list[tuple[str, str, str]] = []
    for one, after in itertools.pairwise([*_node(what).body, None]):
        if isinstance(one, ast.AnnAssign):
            text = ast.literal_eval(after.value) if isinstance(after, ast.Expr) else ""
            name, kind = ast.unparse(one.target), ast.unparse(one.annotation)
            rows.append((f"`{name}`", f"`{kind}`", text_of(text)))
    return table(("option", "type", ""), rows)


def _doc(what: Any) -> str:
    doc = getattr(what, "__doc__", None)
    made = inspect.isclass(what) and doc and doc.startswith(f"{what.__name__}(")
    return "" if made else text_of(doc)
