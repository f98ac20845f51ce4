"""Corrections of ib_async 2.1.0's decoder, for messages that it misreads; nothing else belongs here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ib_async import IB, PortfolioItem, Position

_PORTFOLIO_VALUE, _BOND_DETAILS, _POSITION, _POSITION_MULTI = 7, 18, 61, 71
"""Ids of messages."""
_NUMBERS = {_PORTFOLIO_VALUE: (14, 15, 16, 17, 18), _POSITION: (15,), _POSITION_MULTI: (16,)}
"""Fields that are numbers: price, value, average cost, unrealized and realized profit."""
_CONID_AND_TYPE = {_PORTFOLIO_VALUE: (2, 4), _POSITION: (3, 5), _POSITION_MULTI: (4, 6)}
_COUPON = 5

_Fields = list[str]


def read_faithfully(ib: IB) -> None:
    """Let ``ib`` read three kinds of messages as they are.

    - Portfolio rows and positions with an empty number: ib_async raises on it and drops the row, so that the position
      looks closed; here the number is NaN, unknown.
    - Positions and portfolio rows of IOPT: ib_async makes a WAR of it; here IB's text is restored.
    - Definitions of bonds with a coupon such as 4.25: ib_async reads it as an integer, raises, and drops the
      definition; here the coupon, which is not used, is left out.
    """
    handlers: dict[int, Callable[[_Fields], None]] = ib.client.decoder.handlers
    sec_types: dict[int, str] = {}

    def reading(message: int, read: Callable[[_Fields], None]) -> Callable[[_Fields], None]:
        conid, sec_type = _CONID_AND_TYPE[message]

        def handle(fields: _Fields) -> None:
            sec_types[int(fields[conid])] = fields[sec_type]
            filled = list(fields)
            for index in _NUMBERS[message]:
                filled[index] = fields[index] or "nan"
            read(filled)

        return handle

    for message in _CONID_AND_TYPE:
        handlers[message] = reading(message, handlers[message])
    read_bond = handlers[_BOND_DETAILS]
    handlers[_BOND_DETAILS] = lambda fields: read_bond([*fields[:_COUPON], "", *fields[_COUPON + 1 :]])

    def restore(item: Position | PortfolioItem) -> None:
        item.contract.secType = sec_types.get(item.contract.conId, item.contract.secType)

    # The first listeners: all others see the restored text.
    listeners: Any = (ib.positionEvent, ib.updatePortfolioEvent)
    for event in listeners:
        event.connect(restore)
