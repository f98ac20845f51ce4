"""Flex statements, end to end: the web service, the drop folder, the reader, the statement model, and rows from it.

Belongs here: everything that knows IB's Flex XML or its web service.
Does not belong here: what a trading day is made of (``history``), writing tables (``lake``).
"""
