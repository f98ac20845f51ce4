"""Market-data lines (slots): the ledger of all processes, its SQL, allocation, and the learned ceiling.

Belongs here: who holds which line, and who may take one.
Does not belong here: subscribing at the gateway (``ib.subscriptions``).
"""
