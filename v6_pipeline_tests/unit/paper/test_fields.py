"""Reading the fields of an action strictly, by the signature of its method."""

from enum import StrEnum

import pytest

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.fields import ClientId, Seconds, fields_of


class Colour(StrEnum):
    RED = "red"
    BLUE = "blue"


def act(
    seconds: Seconds,
    conids: list[int],
    colour: Colour = Colour.RED,
    client_id: ClientId | None = None,
    text: str = "",
    *,
    is_loud: bool = False,
) -> None:
    """Every kind of field."""


FIELDS = fields_of(act)


def test_what_is_required_is_what_has_no_default() -> None:
    assert [name for name, spec in FIELDS.items() if spec.is_required] == ["seconds", "conids"]


@pytest.mark.parametrize(
    ("name", "value", "read"),
    [
        ("seconds", 5, 5.0),
        ("conids", [1, 2], [1, 2]),
        ("colour", "blue", Colour.BLUE),
        ("colour", Colour.BLUE, Colour.BLUE),
        ("client_id", 0, 0),
        ("client_id", None, None),
        ("text", "a", "a"),
        ("is_loud", True, True),
    ],
)
def test_a_value_is_read_as_its_type(name: str, value: object, read: object) -> None:
    found = FIELDS[name].read(value)
    assert (found, type(found)) == (read, type(read))


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        ("seconds", None, "seconds must be a number"),
        ("seconds", True, "seconds must be a number"),
        ("seconds", float("nan"), "seconds must be a number"),
        ("seconds", float("inf"), "seconds must be a number between 0 and"),
        ("seconds", "5", "seconds must be a number"),
        ("conids", [1, True], "conids must be a list of integers"),
        ("conids", 1, "conids must be a list of integers"),
        ("colour", "green", "colour must be one of red, blue"),
        ("colour", 1, "colour must be one of red, blue"),
        ("client_id", -1, "client_id cannot be -1: between 0 and 2147483647"),
        ("client_id", 1.0, "client_id must be an integer"),
        ("client_id", True, "client_id must be an integer"),
        ("text", 5, "text must be text"),
        ("is_loud", 1, "is_loud must be true or false"),
    ],
)
def test_anything_else_is_refused_by_name(name: str, value: object, problem: str) -> None:
    with pytest.raises(GatewayError, match=problem):
        FIELDS[name].read(value)
