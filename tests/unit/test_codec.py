"""What is written is read as the same, or it is not written."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    computed_field,
    field_serializer,
)

from seaway import Seaway
from seaway.codec import Codec
from seaway.errors import ConfigError
from seaway.events import Registry, event

if TYPE_CHECKING:
    from fractions import Fraction as Money


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Named(BaseModel):
    one: str = Field(alias="caseId")
    two: int = Field(validation_alias="zwei", default=2)
    three: int = Field(validation_alias=AliasChoices("drei", AliasPath("x", 0)), default=3)
    four: int = Field(alias="vier", serialization_alias="quatre", default=4)


@dataclass
class Everything:
    text: str
    number: int
    real: float
    exact: Decimal
    moment: datetime
    day: date
    span: timedelta
    ident: UUID
    colour: Colour
    pair: tuple[int, str]
    several: Sequence[str]
    choice: int | str | None
    raw: bytes
    free: dict[str, Any] = field(default_factory=dict)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(
    st.builds(
        Everything,
        real=st.floats(allow_nan=False, allow_infinity=False),
        exact=st.decimals(allow_nan=False, allow_infinity=False),
        moment=st.datetimes(timezones=st.just(UTC)),
        span=st.timedeltas(timedelta(-9999), timedelta(9999)),
        several=st.lists(st.text()) | st.tuples(st.text(), st.text()),
        raw=st.text().map(str.encode),
        free=st.dictionaries(st.text(), JSON),
    )
)
def test_everything_that_json_can_hold_is_read_as_it_was_written(written: Everything) -> None:
    codec = Codec(Everything, "x")
    read = codec.decode(codec.encode(written))
    read.several = type(written.several)(read.several)  # type: ignore[call-arg]
    assert read == written


def test_aliases_are_what_stands_on_the_wire_and_names_are_read_too() -> None:
    codec = Codec(Named, "x")
    written = Named(caseId="1", zwei=5, drei=6, vier=7)
    with pytest.raises(ValueError, match="four"):
        codec.encode(written)  # Written as quatre, which nobody reads.
    written = Named(caseId="1", zwei=5, drei=6)
    assert codec.encode(written) == b'{"caseId":"1","two":5,"three":6,"quatre":4}'
    assert codec.decode(codec.encode(written)) == written
    # What an earlier version wrote.
    assert codec.decode(b'{"one":"1","two":5,"three":6}') == written


class Free(BaseModel):
    value: float = 0.0
    free: Any = None
    hidden: int = Field(default=0, exclude=True)
    inner: Named | None = None


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (Free(value=math.nan), "value"),
        (Free(value=-math.inf), "value"),
        (Free(free=math.nan), "free is nan, which JSON does not have"),
        (Free(free={"a": [1, math.inf]}), r"free\.a\.1 is inf"),
        (Free(free={"at": datetime(2026, 1, 2, tzinfo=UTC)}), r"free\.at is datetime .* as str"),
        (Free(free={1: 2}), "free would be read with other keys"),
        (Free(free={1, 2}), "free is set and would be read as list"),
        (Free(hidden=5), "hidden would be read as another int"),
        (Free(inner=Named(caseId="1", vier=7)), r"inner\.four would be read as another int"),
    ],
)
def test_what_would_come_back_as_something_else_is_refused_by_name(
    written: Free, said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        Codec(Free, "x").encode(written)


def test_no_value_stands_in_an_error() -> None:
    with pytest.raises(ValueError, match="free") as caught:
        Codec(Free, "x").encode(Free(free={"at": UUID(int=0x5EC2E7)}))
    assert "5ec2e7" not in str(caught.value)


def test_a_class_that_does_not_compare_by_value_can_be_written() -> None:
    @dataclass(eq=False)
    class Plain:
        value: str
        note: str = field(default="", compare=False)

    codec = Codec(Plain, "x")
    assert codec.decode(codec.encode(Plain("a"))).value == "a"


def test_a_serializer_of_ones_own_must_be_read_back() -> None:
    class Rounded(BaseModel):
        value: float

        @field_serializer("value")
        def _round(self, value: float) -> int:
            return round(value)

    codec = Codec(Rounded, "x")
    assert codec.encode(Rounded(value=2.0)) == b'{"value":2}'
    with pytest.raises(ValueError, match="value would be read as another float"):
        codec.encode(Rounded(value=2.5))


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: int

    @computed_field  # type: ignore[prop-decorator]
    @property
    def area(self) -> int:
        return self.side**2


class Excluded(BaseModel):
    secret: str = Field(exclude=True)


class Deaf(BaseModel):
    name: str = Field(serialization_alias="called")


class DeafAndStrict(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(default="", serialization_alias="called")


class Outer(BaseModel):
    inner: list[Strict]


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (Strict, "Strict: area is computed"),
        (Outer, "Strict: area is computed"),
        (Excluded, "secret is required and excluded"),
        (Deaf, "name is required and written as 'called'"),
        (DeafAndStrict, "name is written as 'called'"),
    ],
)
def test_a_model_that_can_never_be_read_back_is_refused_at_import(
    model: type[BaseModel], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        event(context="sea", registry=Registry())(model)


def test_a_computed_field_is_fine_where_more_is_allowed() -> None:
    class Open(BaseModel):
        side: int

        @computed_field  # type: ignore[prop-decorator]
        @property
        def area(self) -> int:
            return self.side**2

    codec = Codec(Open, "x")
    assert codec.encode(Open(side=3)) == b'{"side":3,"area":9}'


@dataclass
class Paid:
    amount: Money


class Bought(BaseModel):
    amount: Money


@pytest.mark.parametrize("cls", [Paid, Bought])
def test_a_type_that_is_not_known_at_run_time_is_named(cls: type[Any]) -> None:
    registry = Registry()
    kind = event(context="sea", registry=registry)(cls)
    with pytest.raises(ConfigError, match=r"'Money'.*TYPE_CHECKING"):
        registry.check()
    written = kind.model_construct() if issubclass(kind, BaseModel) else kind(None)
    with pytest.raises(ConfigError, match="'Money'"):
        Codec(cls, "x").encode(written)


async def test_an_application_says_so_before_it_connects(monkeypatch: pytest.MonkeyPatch) -> None:
    registry = Registry()
    event(context="sea", registry=registry)(Paid)
    monkeypatch.setattr("seaway.app.registry", registry)
    with pytest.raises(ConfigError, match="'Money'"):
        await Seaway.from_config({"nats": {"url": "nats://127.0.0.1:1"}}).run()


@dataclass
class Early:
    later: Later | None = None


@dataclass
class Later:
    name: str


def test_a_type_that_is_defined_later_is_fine() -> None:
    codec = Codec(Early, "x")
    assert codec.decode(codec.encode(Early(Later("a")))) == Early(Later("a"))
