"""v6_pipeline: every Interactive Brokers position in Delta Lake, within the account's market-data lines.

This file stays empty of imports: the streamer process starts in two seconds because nothing here pulls in Dagster.
"""

__version__ = "0.1.0"
