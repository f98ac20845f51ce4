"""Interactive Brokers: connection, contracts, market data, account feed, and the arithmetic of prices.

The only package that imports ib_async; what leaves it are the dataclasses of ``v6_pipeline.model``. Which contracts to
stream, when to refresh and where rows go is decided in ``streaming`` and ``refresh``.
"""
