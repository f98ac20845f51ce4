"""Queued positions: drains the queue, values each position from the account feed, and adds quotes through free slots.

Belongs here: the steps of one refresh, the decision that one is due, and reconciliation with the account download.
Does not belong here: the queue itself (``state.queue``), real-time streams (``streaming``), schedules (``defs``).
"""
