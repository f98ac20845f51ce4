"""Exclusive, expiring leases with a fencing epoch: named ones, the streamer's, and API client ids.

Belongs here: each kind of lease with its rows, and the identity of the process that owns it.
Does not belong here: decisions of the sensor about the streamer (``streaming.control``).
"""
