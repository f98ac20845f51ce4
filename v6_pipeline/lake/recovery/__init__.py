"""Durability and repair: what survives a power cut, and what makes a damaged table readable again.

Belongs here: fsync of commits, inspection of log and data files, and repair.
Does not belong here: regular maintenance (``lake.maintenance``).
"""
