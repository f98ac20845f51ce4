"""The position queue: ``PositionQueue`` with its SQL, its items, and the rule of what is due.

Belongs here: insert, lease, acknowledge, retry, dead letters.
Does not belong here: valuing a queued position (``refresh``).
"""
