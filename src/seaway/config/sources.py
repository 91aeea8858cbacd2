"""Where settings come from: the file, environment variables, the nats CLI's contexts.

Owns: reading the file's text, the variables in its values, and where each key stands; the names of
variables and flags. Knows nothing of what the keys mean. Guarantees: all gives values in the file's
own shape, so that one validation serves all; every failure is a ``ConfigError`` that says where; a
key written twice is an error, never a silent choice, and so is a variable that is not set, and a
context that is named but missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import yaml

from seaway.errors import ConfigError

Location: TypeAlias = tuple[str | int, ...]

_MERGE = "tag:yaml.org,2002:merge"
_VARIABLE = re.compile(r"(\$\$\{)|\$\{([A-Za-z_][A-Za-z0-9_]*)(?::-([^}]*))?\}")
_MAX_NODES = 100_000
_MAX_DEPTH = 50


@dataclass(frozen=True, slots=True)
class Document:
    """``data`` as written; ``lines`` (from 1) by the path of each key and list item. ``name`` is
    the file's; ``shown``: what a mapping that stands for a file is called."""

    data: Mapping[str, Any]
    name: str | None = None
    lines: Mapping[Location, int] = field(default_factory=dict)
    shown: str | None = None

    def line(self, location: Location) -> int:
        """Where ``location`` stands, or else what encloses it; 0 without a file."""
        for length in range(len(location), -1, -1):
            if location[:length] in self.lines:
                return self.lines[location[:length]]
        return 0

    def where(self, location: Location) -> str:
        """``seaway.yaml:12``; without a file the path of the key: ``streams[0].max_age``."""
        if self.name is not None:
            return f"{self.name}:{self.line(location) or 1}"
        text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
        path = text.lstrip(".")
        return ": ".join(filter(None, (self.shown, path))) or "configuration"


def read_document(path: Path, environ: Mapping[str, str]) -> Document:
    """The mapping in a YAML file. Empty files give an empty mapping.

    In values ``${VAR}`` and ``${VAR:-default}`` are replaced from ``environ``; ``$${`` is ``${``.
    """
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("there is no such file", where=name) from None
    except IsADirectoryError:
        raise ConfigError("is a directory, not a file", where=name) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 text (byte {error.start})", where=name) from None
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", where=name) from None
    return parse_document(text, name, environ)


def parse_document(text: str, name: str, environ: Mapping[str, str]) -> Document:
    """As ``read_document``, from text."""
    try:
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {error}".replace("\n", " "), where=name) from None
    try:
        node = loader.get_single_node()
        reader = _Reader(loader, name, environ)
        data = {} if node is None else reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        raise ConfigError(f"is not YAML: {error.problem or error.context}", where=where) from None
    except yaml.YAMLError as error:
        raise ConfigError(f"is not YAML: {error}".replace("\n", " "), where=name) from None
    except RecursionError:
        raise ConfigError("is nested too deeply", where=name) from None
    finally:
        loader.dispose()
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(
            "the file must be a mapping", where=f"{name}:1", hint="like `contexts: [sea]`"
        )
    return Document(data, name, reader.lines if node is not None else {})


class _Reader:
    def __init__(self, loader: yaml.SafeLoader, name: str, environ: Mapping[str, str]) -> None:
        self.loader = loader
        self.name = name
        self.environ = environ
        self.lines: dict[Location, int] = {}
        self.nodes = 0

    def value(self, node: yaml.Node, path: Location) -> Any:
        self.lines.setdefault(path, node.start_mark.line + 1)
        self.nodes += 1
        # An alias is read anew wherever it stands: a few lines could unfold without end.
        if self.nodes > _MAX_NODES or len(path) > _MAX_DEPTH:
            raise self.error("the file unfolds into too many values", node)
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
        try:
            return self.loader.construct_object(self.replaced(node))
        except ValueError as error:
            raise self.error(f"{node.value!r} cannot be read: {error}", node) from None

    def replaced(self, node: yaml.Node) -> yaml.Node:
        """The node with its variables replaced; what is written without quotes is typed after."""
        if not isinstance(node, yaml.ScalarNode) or "${" not in node.value:
            return node

        def value_of(match: re.Match[str]) -> str:
            escape, name, default = match.groups()
            if escape:
                return "${"
            value = self.environ.get(name, "")
            if value or (name in self.environ and default is None):
                return value
            if default is None:
                raise ConfigError(
                    f"the variable {name} is not set",
                    where=f"{self.name}:{node.start_mark.line + 1}",
                    hint=f"set it, or write ${{{name}:-default}}",
                )
            return default

        text = _VARIABLE.sub(value_of, node.value)
        plain = node.style is None
        resolve: Callable[..., str] = self.loader.resolve
        tag = resolve(yaml.ScalarNode, text, (True, False)) if plain else node.tag
        return yaml.ScalarNode(tag, text, node.start_mark, node.end_mark, node.style)

    def mapping(self, node: yaml.MappingNode, path: Location) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        # What is merged first, so that a key's line is where the mapping itself has it.
        for key_node, value_node in sorted(node.value, key=lambda pair: pair[0].tag != _MERGE):
            key = key_node.value
            if key_node.tag == _MERGE:
                merged = {**self.merged(value_node, path), **merged}
                continue
            if key_node.tag != "tag:yaml.org,2002:str" or not isinstance(key, str):
                raise self.error(f"the key {key!r} is not text", key_node)
            if key in result:
                first = self.lines[(*path, key)]
                raise self.error(f"the key {key!r} is there twice, first in line {first}", key_node)
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            result[key] = self.value(value_node, (*path, key))
        return {**merged, **result}

    def merged(self, node: yaml.Node, path: Location) -> dict[str, Any]:
        """What ``<<:`` brings: a mapping's keys, or those of several, the first of them winning."""
        found: dict[str, Any] = {}
        for one in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if not isinstance(one, yaml.MappingNode):
                raise self.error("`<<` takes a mapping, or a list of mappings", node)
            found = {**self.mapping(one, path), **found}
        return found

    def error(self, message: str, node: yaml.Node) -> ConfigError:
        return ConfigError(message, where=f"{self.name}:{node.start_mark.line + 1}")


# ------------------------------------------------------------------------------- beside the file


class _Names(NamedTuple):
    """What a key of the file is called elsewhere; empty: it cannot be given there."""

    variable: str = ""
    flag: str = ""
    context: str = ""
    """In a context of the nats CLI."""


_TOP = {
    "database": _Names("SEAWAY_DATABASE_URL", "--database"),
    "database_schema": _Names("SEAWAY_DATABASE_SCHEMA"),
    "profile": _Names("SEAWAY_PROFILE", "--profile"),
}
_NATS = {
    "url": _Names("NATS_URL", "--server", "url"),
    "creds": _Names("NATS_CREDS", "--creds", "creds"),
    "nkey": _Names("NATS_NKEY", "--nkey", "nkey"),
    "user": _Names("NATS_USER", "--user", "user"),
    "password": _Names("NATS_PASSWORD", "--password", "password"),
    "token": _Names("NATS_TOKEN", "--token", "token"),
    "tls_ca": _Names("NATS_CA", "--tlsca", "ca"),
    "tls_cert": _Names("NATS_CERT", "--tlscert", "cert"),
    "tls_key": _Names("NATS_KEY", "--tlskey", "key"),
    "tls_first": _Names("", "--tlsfirst", "tls_first"),
    "jetstream_domain": _Names("", "--js-domain", "jetstream_domain"),
    "jetstream_api_prefix": _Names("", "--js-api-prefix", "jetstream_api_prefix"),
    "inbox_prefix": _Names("", "--inbox-prefix", "inbox_prefix"),
    "context": _Names("NATS_CONTEXT", "--context"),
}
_WITHOUT_EFFECT = frozenset({"name", "description", "color_scheme", "jetstream_event_prefix"})
"""Of the nats CLI's own screens; advisories are captured by a stream, under their own subjects."""
_PATHS = frozenset({"creds", "nkey", "tls_ca", "tls_cert", "tls_key"})


def from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    """The file's shape, of the variables that are set and not empty."""
    top, nats = (
        {
            key: environ[names.variable]
            for key, names in table.items()
            if environ.get(names.variable)
        }
        for table in (_TOP, _NATS)
    )
    return {**top, "nats": nats} if nats else top


def names_of(location: Location) -> _Names:
    """The variable and the flag that give ``location``."""
    table = _NATS if location[:1] == ("nats",) else _TOP
    return table.get(str(location[-1]), _Names(flag=f"--{location[-1]}"))


def from_nats_context(name: str, environ: Mapping[str, str]) -> dict[str, Any]:
    """The ``nats`` section that the nats CLI's context ``name`` describes."""
    base = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME") or "~", ".config"))
    folder = base.expanduser() / "nats" / "context"
    path = folder / f"{name}.json"
    if Path(name).name != name:
        raise ConfigError(f"{name!r} is not the name of a NATS context")
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        known = sorted(entry.stem for entry in folder.glob("*.json")) if folder.is_dir() else []
        raise ConfigError(
            f"there is no NATS context {name!r} in {folder}",
            hint=f"known: {', '.join(known)}" if known else "make one with `nats context add`",
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"the NATS context cannot be read: {error}", where=str(path)) from None
    if not isinstance(data, dict):
        raise ConfigError("the NATS context is not a JSON object", where=str(path))
    given = {field: value for field, value in data.items() if value}
    keys = {names.context: key for key, names in _NATS.items() if names.context}
    if foreign := sorted(given.keys() - keys.keys() - _WITHOUT_EFFECT):
        # Passed over, it would be another server or another user that is spoken to.
        raise ConfigError(
            f"the NATS context has {foreign[0]}, which Seaway cannot do", where=str(path)
        )
    return {
        key: str(Path(str(given[field])).expanduser()) if key in _PATHS else given[field]
        for field, key in keys.items()
        if field in given
    }
