"""The fields of an action: types, limits, and the strict conversion of values from outside.

An action's signature is the only description of its fields, for the control port and for scenario files.
"""

import inspect
import types
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from v6_pipeline.errors import GatewayError


@dataclass(frozen=True, slots=True)
class Range:
    """The least and the greatest value of a field."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OneOf:
    """The only values of a field."""

    values: tuple[int, ...]


Number = Annotated[float, Range(-1e12, 1e12)]
"""Within the range of amounts of money and quantities."""

Seconds = Annotated[float, Range(0, 1e7)]
Count = Annotated[int, Range(1, 1_000)]
Rows = Annotated[int, Range(0, 1_000_000)]
Lines = Annotated[int, Range(0, 1_000_000)]
ClientId = Annotated[int, Range(0, 2**31 - 1)]
Port = Annotated[int, Range(0, 65_535)]
Code = Annotated[int, Range(1, 99_999)]


@dataclass(frozen=True, slots=True)
class FieldSpec:
    """One field of an action."""

    name: str
    kind: Any
    is_required: bool
    limits: Range | None = None
    choices: tuple[object, ...] = ()

    def read(self, value: object) -> object:
        """Convert a value for the action.

        Raises:
            GatewayError: a wrong type or a value outside the limits; the message names the field.
        """
        if value is None and not self.is_required:
            return None
        if isinstance(self.kind, type) and issubclass(self.kind, StrEnum):
            return self._member(value)
        if self.kind is float:
            return self._number(value)
        if self.kind == list[int]:
            if not isinstance(value, list) or not all(type(item) is int for item in value):
                raise GatewayError(f"{self.name} must be a list of integers")
            return value
        # isinstance would accept a bool as an int.
        if type(value) is not self.kind:
            wanted = {int: "an integer", bool: "true or false", str: "text"}[self.kind]
            raise GatewayError(f"{self.name} must be {wanted}")
        if isinstance(value, int) and not self._is_within(value):
            allowed = ", ".join(map(str, self.choices)) or self._span()
            raise GatewayError(f"{self.name} cannot be {value}: {allowed}")
        return value

    def _member(self, value: object) -> object:
        if not isinstance(value, str) or value not in set(self.kind):
            raise GatewayError(f"{self.name} must be one of {', '.join(self.kind)}")
        return self.kind(value)

    def _number(self, value: object) -> float:
        # `_is_within` returns False for NaN too.
        if isinstance(value, bool) or not isinstance(value, int | float) or not self._is_within(value):
            raise GatewayError(f"{self.name} must be a number{' ' if self.limits else ''}{self._span()}")
        return float(value)

    def _is_within(self, value: float) -> bool:
        if self.choices:
            return value in self.choices
        return self.limits is None or self.limits.low <= value <= self.limits.high

    def _span(self) -> str:
        return f"between {self.limits.low:.12g} and {self.limits.high:.12g}" if self.limits else ""


def fields_of(function: Callable[..., object]) -> dict[str, FieldSpec]:
    """Return the fields of an action, by name, from its signature."""
    hints = get_type_hints(function, include_extras=True)
    return {
        name: _spec(name, hints[name], is_required=parameter.default is inspect.Parameter.empty)
        for name, parameter in inspect.signature(function).parameters.items()
    }


def _spec(name: str, hint: Any, *, is_required: bool) -> FieldSpec:  # noqa: ANN401 - a type hint has no type
    if get_origin(hint) in {Union, types.UnionType}:
        (hint,) = (part for part in get_args(hint) if part is not types.NoneType)
    extras: tuple[object, ...] = ()
    if get_origin(hint) is Annotated:
        hint, *rest = get_args(hint)
        extras = tuple(rest)
    limits = next((extra for extra in extras if isinstance(extra, Range)), None)
    choices = next((extra.values for extra in extras if isinstance(extra, OneOf)), ())
    return FieldSpec(name, hint, is_required, limits, choices)
