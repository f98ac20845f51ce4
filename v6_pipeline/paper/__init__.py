"""The paper gateway: IB's socket protocol over a seeded, simulated market and accounts. Serves on loopback only.

Belongs here: the simulation. Does not belong here: anything that the product needs to run. Of the product it imports
only the errors, and it does not import ib_async, so that the two can disagree.
"""

from v6_pipeline.paper.config import AccountConflict, GatewayConfig, simulated_accounts
from v6_pipeline.paper.control import ControlClient
from v6_pipeline.paper.gateway import GatewayThread, PaperGateway
from v6_pipeline.paper.holdings_file import HoldingsFile, load_holdings
from v6_pipeline.paper.prices import Quote, quote_at
from v6_pipeline.paper.scenario import Scenario, load_scenario, shipped_scenario, shipped_scenarios

__all__ = [
    "AccountConflict",
    "ControlClient",
    "GatewayConfig",
    "GatewayThread",
    "HoldingsFile",
    "PaperGateway",
    "Quote",
    "Scenario",
    "load_holdings",
    "load_scenario",
    "quote_at",
    "shipped_scenario",
    "shipped_scenarios",
    "simulated_accounts",
]
