"""The names of everything that can be done to a running gateway.

Belongs here: the table, and nothing else. An action's fields are the parameters of its method, with their types and
limits; how they are checked is in `fields` and `actions`.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from v6_pipeline.paper.gateway import PaperGateway


def action_table(gateway: "PaperGateway") -> dict[str, Callable[..., object]]:
    """Every action of a gateway by its name."""
    connections, link = gateway.connection_faults, gateway.link_faults
    contracts, accounts = gateway.contract_faults, gateway.account_faults
    history = gateway.history_faults
    return {
        "drop": connections.drop,
        "refuse_connections": connections.refuse_connections,
        "blackhole": connections.blackhole,
        "delay": connections.delay,
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
        "halt": contracts.halt,
        "end_halt": contracts.end_halt,
        "withhold_greeks": contracts.withhold_greeks,
        "distort_prices": contracts.distort_prices,
        "expire": contracts.expire,
        "unqualify": contracts.unqualify,
        "advise": contracts.advise,
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
        "flex_fault": gateway.flex.faults.flex_fault,
        "open": accounts.open_position,
        "resize": accounts.resize_position,
        "close": accounts.close_position,
        "assign": accounts.assign,
        "heal": gateway.heal,
        "play": gateway.play_shipped,
        "reset_peaks": gateway.statistics.reset_peaks,
        "tick": gateway.tick_once,
        "portfolio_tick": gateway.portfolio_tick,
    }
