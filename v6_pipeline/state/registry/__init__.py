"""The strategy registry: ``StrategyRegistry``, its changes, the rule of assignment, selectors, and the rows.

Belongs here: the contracts of each active strategy, now and in the past.
Does not belong here: routing (``streaming.routing``).
"""
