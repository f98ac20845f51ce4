"""The accounts: holdings, contract details, downloads with their exchange rates, closes.

Belongs here: one module per table, its row type and its SQL.
Does not belong here: downloading from the gateway (``ib``), rows of the lake (``lake``).
"""
