"""What is known of the accounts: holdings, contract details, exchange rates, downloads, closes.

Belongs here: one module per table, its row type and its SQL.
Does not belong here: downloading from the gateway (``ib``), rows of the lake (``lake``).
"""
