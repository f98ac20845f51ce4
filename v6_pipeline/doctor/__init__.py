"""Checks of an installation for ``v6 doctor``: directories, gateway, permissions, market data. Each returns findings.

Belongs here: one probe per thing that can be wrong before the system starts, and what to do about it.
Does not belong here: checks of running data (``checks``), output (``cli``).
"""
