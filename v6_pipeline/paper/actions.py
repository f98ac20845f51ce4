"""Actions on a running gateway, by name: the one table for the control port, scenario files and `perform`.

The table names a method for each action; the method's parameters are the action's fields (see `fields`).
"""

import inspect
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.contracts import Holding
from v6_pipeline.paper.fields import FieldSpec, fields_of
from v6_pipeline.paper.market import Market
from v6_pipeline.paper.statistics import Statistics

if TYPE_CHECKING:
    from v6_pipeline.paper.gateway import PaperGateway

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
        """Names of all actions."""
        return tuple(self._table)

    def fields(self, name: str) -> Mapping[str, FieldSpec]:
        """Return the fields of an action.

        Raises:
            GatewayError: there is no such action.
        """
        if name not in self._fields:
            raise GatewayError(f"unknown action {name!r}: one of {', '.join(self._table)}")
        return self._fields[name]

    def describe(self) -> list[tuple[str, str, str]]:
        """Return name, fields and effect of every action; an optional field ends in ``?``."""
        return [
            (
                name,
                " ".join(spec.name if spec.is_required else f"{spec.name}?" for spec in specs.values()),
                (inspect.getdoc(self._table[name]) or "").split("\n", 1)[0],
            )
            for name, specs in self._fields.items()
        ]

    def read(self, name: str, fields: Mapping[str, object]) -> dict[str, object]:
        """Return the fields as the action takes them, without carrying it out.

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
        """Carry out an action; the reply is its result, or its fields if it has none.

        Raises:
            GatewayError: as `read`, or the action is impossible now; nothing was changed.
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
    """Return a holding in a form that JSON can carry."""
    return {
        "account": holding.account,
        "conid": holding.conid,
        "quantity": holding.quantity,
        "average_cost": holding.average_cost,
    }


def action_table(gateway: "PaperGateway") -> dict[str, Callable[..., object]]:
    """Return the method of every action by name."""
    connections, link = gateway.connection_faults, gateway.link_faults
    contracts, accounts = gateway.contract_faults, gateway.account_faults
    history = gateway.history_faults
    return {
        "drop": connections.drop,
        "refuse_connections": connections.refuse_connections,
        "blackhole": connections.blackhole,
        "delay": connections.delay,
        "stall": connections.stall,
        "truncated_frame": connections.truncated_frame,
        "garbage_frame": connections.garbage_frame,
        "huge_frame": connections.huge_frame,
        "exceed_rate": connections.exceed_rate,
        "occupy_client_id": connections.occupy_client_id,
        "move_port": connections.move_port,
        "notice": connections.notice,
        "link_lost": link.link_lost,
        "link_restored": link.link_restored,
        "server_broken": link.server_broken,
        "farm_broken": link.farm_broken,
        "farm_ok": link.farm_ok,
        "competing_session": link.competing_session,
        "competing_session_ended": link.competing_session_ended,
        "kill_streams": link.kill_streams,
        "lines": contracts.set_lines,
        "tws_lines": contracts.set_tws_lines,
        "quiet": contracts.quiet,
        "resume": contracts.resume,
        "deny": contracts.deny,
        "allow": contracts.allow,
        "quote": contracts.quote,
        "halt": contracts.halt,
        "end_halt": contracts.end_halt,
        "withhold_greeks": contracts.withhold_greeks,
        "distort_prices": contracts.distort_prices,
        "expire": contracts.expire,
        "unqualify": contracts.unqualify,
        "advise": contracts.advise,
        "remark": contracts.remark,
        "reject_market_data": contracts.reject_market_data,
        "restore_contracts": contracts.restore_contracts,
        "delay_history": history.delay_history,
        "ignore_history": history.ignore_history,
        "refuse_history": history.refuse_history,
        "account_conflict": accounts.set_account_conflict,
        "cut_account_download": accounts.cut_account_download,
        "cut_position_download": accounts.cut_position_download,
        "evict_account_feed": accounts.evict_account_feed,
        "refuse_account_feed": accounts.refuse_account_feed,
        "account_not_ready": accounts.account_not_ready,
        "trade_after_download": accounts.trade_after_download,
        "account_ready": accounts.account_ready,
        "flex_fault": gateway.flex.faults.flex_fault,
        "open": accounts.open_position,
        "resize": accounts.resize_position,
        "close": accounts.close_position,
        "flatten": accounts.flatten,
        "assign": accounts.assign,
        "rename": accounts.rename,
        "close_market": gateway.market.close,
        "heal": gateway.heal,
        "play": gateway.play_shipped,
        "reset_peaks": gateway.statistics.reset_peaks,
        "tick": gateway.tick_once,
        "portfolio_tick": gateway.portfolio_tick,
    }
