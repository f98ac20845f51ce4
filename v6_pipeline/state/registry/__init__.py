"""The strategy registry: ``StrategyRegistry``, selectors, edits, and history, with their SQL.

Belongs here: which contracts belong to which active strategies, now and in the past.
Does not belong here: routing (``streaming.routing``).
"""
