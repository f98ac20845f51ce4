"""Exclusive, expiring leases with a fencing epoch: the streamer's, client ids, and named ones.

Belongs here: granting, renewing and ending a lease, and its SQL.
Does not belong here: starting or stopping a process (``streaming.control``).
"""
