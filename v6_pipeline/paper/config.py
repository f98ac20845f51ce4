"""Configuration of a paper gateway, fixed at its start. Changes of a running gateway are `actions`."""

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum

from v6_pipeline.errors import GatewayError
from v6_pipeline.paper.holdings_file import HoldingsFile

LOOPBACK = "127.0.0.1"
"""The only address on which the gateway listens; it cannot be configured."""

_ACCOUNT = re.compile(r"SIM[0-9A-Z]{1,12}", re.ASCII)
_RELEASE = re.compile(r"(\d{1,3})\.(\d{1,3})", re.ASCII)
LEDGER_PREFIX_SINCE = (10, 47)
"""The release of TWS that puts ``$LEDGER-`` before the tags of one currency (TWS API changelog, 2026-05-08)."""


class AccountConflict(StrEnum):
    """Outcome of a request for account updates while another client holds a different account.

    IBKR documents both: 2100, the new request replaces the old one, and 2101, the new request is rejected.
    """

    EVICT = "evict"
    REFUSE = "refuse"


def utcnow() -> datetime:
    """Now, in UTC and aware."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """Settings of one paper gateway.

    Attributes:
        port, control_port, flex_port: of the API, control and Flex; 0 picks a free one, `None` opens none.
        accounts: managed accounts, each ``SIM`` and up to twelve capitals or digits; a login of more than 50 of them is
            refused `reqPositions`.
        flat_accounts: those of `accounts` that hold nothing at the start.
        tws_version: release of TWS that is simulated, in whose words account values are sent.
        positions: number of positions that the accounts hold together at the start.
        unusual: hold contracts of kinds that few accounts have besides: bonds, bills, prices in pence, CFDs, spreads.
        holdings: contracts and holdings of a file besides, whose accounts are among `accounts`; see `holdings_file`.
        seed: determines quantities, costs and prices.
        lines: market data lines over all clients; IB grants 100 by default.
        message_rate: messages that one client may send in a rolling second.
        tick_seconds: time between price changes, at least 0.05; `None` leaves ticking to `PaperGateway.tick_once`.
        portfolio_seconds: time between updates of marks and account values; IB's is three minutes and fixed.
        snapshot_seconds: time until a snapshot ends; IB's is about eleven seconds.
        history_seconds: time until a historical request is answered.
        history_rate: historical answers a second for bars of a minute and more; faster requests wait. IB slows clients
            down likewise, and documents no number.
        read_only: IB's setting "Read-Only API": requests about orders are then refused with 321, even a request for
            open orders. An order is never accepted, whatever the setting.
        as_of: the live day, from which expiries are computed; by default the day of `utcnow` in New York.
        keeps_hours: after the close of the live day by `utcnow`, contracts are priced at it; else they trade at all
            hours. The action ``close_market`` does the same at any time.
        clock: monotonic seconds, for rate windows and the interval between portfolio updates.
        utcnow: the aware time in messages.

    Raises:
        GatewayError: a value is impossible.
    """

    port: int = 0
    control_port: int | None = 0
    flex_port: int | None = None
    accounts: tuple[str, ...] = ("SIM0000001", "SIM0000002")
    flat_accounts: tuple[str, ...] = ()
    tws_version: str = "10.30"
    positions: int = 60
    unusual: bool = False
    holdings: HoldingsFile | None = None
    seed: int = 1
    lines: int = 100
    message_rate: int = 100
    tick_seconds: float | None = 1.0
    portfolio_seconds: float = 180.0
    snapshot_seconds: float = 0.0
    history_seconds: float = 0.0
    history_rate: float = 50.0
    read_only: bool = True
    as_of: date | None = None
    keeps_hours: bool = False
    account_conflict: AccountConflict = AccountConflict.EVICT
    clock: Callable[[], float] = time.monotonic
    utcnow: Callable[[], datetime] = utcnow

    def __post_init__(self) -> None:
        ports = {"port": self.port, "control port": self.control_port, "Flex port": self.flex_port}
        checks = (
            (bool(self.accounts), "there must be at least one account"),
            (len(set(self.accounts)) == len(self.accounts), "accounts must differ"),
            (
                all(_ACCOUNT.fullmatch(account) for account in self.accounts),
                f"accounts must be SIM and 1 to 12 capitals or digits, not {', '.join(self.accounts)}",
            ),
            (
                set(self.flat_accounts) < set(self.accounts),
                f"flat accounts must be some of the accounts and not all, not {', '.join(self.flat_accounts)}",
            ),
            (_RELEASE.fullmatch(self.tws_version), f"TWS version must be like 10.47, not {self.tws_version}"),
            (
                self.holdings is None or set(self.holdings.accounts) <= set(self.accounts),
                "the accounts of the holdings file are not among the accounts",
            ),
            *(
                (port is None or 0 <= port <= 65535, f"{name} {port} is not between 0 and 65535")
                for name, port in ports.items()
            ),
            (not self.port or self.port != self.control_port, f"port and control port are both {self.port}"),
            (self.lines >= 0, f"lines cannot be {self.lines}"),
            (self.message_rate >= 1, f"message rate cannot be {self.message_rate}"),
            (
                self.tick_seconds is None or self.tick_seconds >= 0.05,
                f"tick seconds must be at least 0.05, not {self.tick_seconds}",
            ),
            (self.portfolio_seconds > 0, f"portfolio seconds cannot be {self.portfolio_seconds}"),
            (self.history_seconds >= 0, f"history seconds cannot be {self.history_seconds}"),
            (self.history_rate > 0, f"history rate cannot be {self.history_rate}"),
            (self.snapshot_seconds >= 0, f"snapshot seconds cannot be {self.snapshot_seconds}"),
        )
        for holds, text in checks:
            if not holds:
                raise GatewayError(f"paper gateway: {text}")

    @property
    def has_ledger_prefix(self) -> bool:
        """True if the tags of one currency have ``$LEDGER-`` before them in account updates."""
        major, minor = self.tws_version.split(".")
        return (int(major), int(minor)) >= LEDGER_PREFIX_SINCE


def simulated_accounts(count: int) -> tuple[str, ...]:
    """Return `count` account names: SIM0000001 and following."""
    return tuple(f"SIM{number:07d}" for number in range(1, count + 1))
