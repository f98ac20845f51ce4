"""Durability and repair: commits that survive a power cut, and tables that become readable again after one.

Belongs here: fsync of commits, inspection of log and data files, and repair.
Does not belong here: regular maintenance (``lake.maintenance``).
"""
