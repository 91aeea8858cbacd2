"""What is no promise of others: each of their private names in one module, and still there."""

from __future__ import annotations

import ast
import asyncio
import inspect
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path

import aiosqlite
import pytest
from nats.aio.client import Client
from nats.aio.subscription import Subscription
from nats.aio.transport import Transport as ClientsTransport
from nats.protocol.parser import Parser

from seaway.brokers.jetstream import client
from seaway.brokers.jetstream.client import SturdyClient, Transport

SOURCES = Path(__file__).parents[2] / "src" / "seaway"
CLIENT = "brokers/jetstream/client.py"
DOCUMENTED = {"_exit", "_current_frames"}
OTHERS = {"_conn"}
"""Beside the NATS client's: aiosqlite's connection in its thread."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(trees: Mapping[str, ast.Module]) -> Iterator[str]:
    """What this package's classes and modules define."""
    for node in (node for tree in trees.values() for node in ast.walk(tree)):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case ast.Assign(targets=targets):
                yield from (one.id for one in targets if isinstance(one, ast.Name))
            case ast.Attribute(value=ast.Name(id="self"), attr=attr, ctx=ast.Store()):
                yield attr
            case _:
                pass


def test_each_is_used_in_one_place() -> None:
    trees = {
        str(file.relative_to(SOURCES)): ast.parse(file.read_text())
        for file in sorted(SOURCES.rglob("*.py"))
    }
    own = set(own_names(trees))
    found: dict[str, set[str]] = defaultdict(set)
    for module, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                found[node.attr].add(module)
    clients = set(used())
    assert found.keys() - clients == DOCUMENTED | OTHERS
    assert all(found[name] == {CLIENT} for name in found.keys() & clients)
    assert all(len(found[name]) == 1 for name in OTHERS)


def used() -> list[str]:
    """The names of nats-py's client that ours overrides, calls, reads or sets."""
    [tree] = ast.parse(inspect.getsource(SturdyClient)).body
    names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    names |= {name for name in vars(SturdyClient) if is_private(name)}
    return sorted(name for name in names if is_private(name))


@pytest.mark.parametrize("name", [name for name in used() if name != "_id"])
def test_the_client_has_it(name: str) -> None:
    assert name in dir(Client()), f"nats-py has no {name} any more: {client.__name__} needs it"


def test_what_is_overridden_is_called_with_the_same() -> None:
    for ours, theirs in ((SturdyClient, Client), (client._Parser, Parser)):
        for name, function in vars(ours).items():
            if inspect.isfunction(function) and name != "__init__" and hasattr(theirs, name):
                expected = inspect.signature(getattr(theirs, name)).parameters
                assert list(inspect.signature(function).parameters) == list(expected), name


def test_others_have_theirs() -> None:
    assert Subscription(Client(), id=7)._id == 7
    assert isinstance(inspect.getattr_static(aiosqlite.Connection, "_conn"), property)


def test_the_transport_is_all_that_the_client_calls() -> None:
    for name in ClientsTransport.__abstractmethods__ - {"__bool__"}:
        theirs = inspect.signature(getattr(ClientsTransport, name)).parameters
        assert list(inspect.signature(getattr(Transport, name)).parameters) == list(theirs), name


def test_asyncio_tells_a_reader_of_data_and_of_its_end() -> None:
    for name, parameters in (("feed_data", ["self", "data"]), ("set_exception", ["self", "exc"])):
        assert list(inspect.signature(getattr(asyncio.StreamReader, name)).parameters) == parameters
