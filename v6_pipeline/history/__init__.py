"""A trading day's truth: positions, closes, snapshots, profit and loss, exposure, and their lineage.

Belongs here: assembling a past or running day from the lake's tables and from Flex rows.
Does not belong here: requests to the gateway (``ib``), statement parsing (``flex``), partitions and runs (``defs``).
"""
