"""Market-data lines (slots): the ledger of all processes with its SQL, allocation, and the learned ceiling.

Belongs here: the holder of each line, and the rules by which a line is granted.
Does not belong here: subscribing at the gateway (``ib.subscriptions``).
"""
