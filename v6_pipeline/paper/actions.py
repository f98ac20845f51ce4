"""Everything that can be done to a running gateway, by name: the one registry behind all ways of saying it.

Belongs here: checking an action's fields and carrying it out. What an action does is the method that the table names;
its fields are that method's parameters. The control port, scenario files and `PaperGateway.perform` all come through
here, so that they cannot differ.
"""

import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.contracts import Holding
from v6_pipeline.paper.fields import FieldSpec, fields_of
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.statistics import Statistics

Reply = dict[str, object]


class Actions:
    """The actions of one gateway: a table of names and methods."""

    def __init__(self, table: Mapping[str, Callable[..., object]], market: Market, statistics: Statistics) -> None:
        self._table = dict(table)
        self._fields = {name: fields_of(method) for name, method in self._table.items()}
        self._market = market
        self._statistics = statistics

    @property
    def names(self) -> tuple[str, ...]:
        """All actions."""
        return tuple(self._table)

    def fields(self, name: str) -> Mapping[str, FieldSpec]:
        """The fields of an action.

        Raises:
            GatewayError: there is no such action.
        """
        if name not in self._fields:
            raise GatewayError(f"unknown action {name!r}: one of {', '.join(self._table)}")
        return self._fields[name]

    def describe(self) -> list[tuple[str, str, str]]:
        """Name, fields and effect of every action; a field that may be left out ends in ``?``."""
        return [
            (
                name,
                " ".join(spec.name if spec.is_required else f"{spec.name}?" for spec in specs.values()),
                (inspect.getdoc(self._table[name]) or "").split("\n", 1)[0],
            )
            for name, specs in self._fields.items()
        ]

    def read(self, name: str, fields: Mapping[str, object]) -> dict[str, object]:
        """The fields as the action takes them; nothing is done yet.

        Raises:
            GatewayError: no such action or field, a field is missing or impossible, or it names a contract or an
                account that the gateway does not have.
        """
        specs = self.fields(name)
        unknown = sorted(fields.keys() - specs.keys())
        if unknown:
            raise GatewayError(f"unknown field {', '.join(unknown)}")
        for spec in specs.values():
            if spec.is_required and spec.name not in fields:
                raise GatewayError(f"{spec.name} is missing")
        values = {key: specs[key].read(value) for key, value in fields.items()}
        self._check_known(values)
        return values

    def perform(self, name: str, fields: Mapping[str, object]) -> Reply:
        """Carry out an action; answers what it gives, or else its fields.

        Raises:
            GatewayError: as `read`, or the action itself is impossible now; nothing was changed.
        """
        values = self.read(name, fields)
        result = self._table[name](**values)
        self._statistics.acted(name, fields)
        if isinstance(result, Holding):
            return holding_reply(result)
        if isinstance(result, dict):
            return result
        return {key: str(value) if isinstance(value, StrEnum) else value for key, value in values.items()}

    def _check_known(self, values: Mapping[str, object]) -> None:
        conids = values.get("conids")
        for conid in (values.get("conid"), *(conids if isinstance(conids, list) else ())):
            if isinstance(conid, int):
                self._market.contract(conid)
        account = values.get("account")
        if isinstance(account, str) and account not in self._market.universe.accounts:
            raise GatewayError(f"the paper gateway has no account {account}")


def holding_reply(holding: Holding) -> Reply:
    """A holding as JSON can carry it."""
    return {
        "account": holding.account,
        "conid": holding.conid,
        "quantity": holding.quantity,
        "average_cost": holding.average_cost,
    }
