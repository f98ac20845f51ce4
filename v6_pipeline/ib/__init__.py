"""Interactive Brokers: connection, requests, pacing, contracts, market data, account feed, history.

Belongs here: everything that speaks to ib_async, which no other package imports; results are dataclasses of ``model``.
Does not belong here: the choice of contracts to stream or refresh (``streaming``, ``refresh``), and tables (``lake``).
"""
