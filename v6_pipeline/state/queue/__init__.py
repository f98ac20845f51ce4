"""The position queue: the public class, its SQL and the rule of what is due.

Belongs here: insert, lease, acknowledge, retry, dead letters.
Does not belong here: valuing a queued position (``refresh``).
"""
