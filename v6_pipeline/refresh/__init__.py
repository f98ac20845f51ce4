"""Queued positions: draining the queue, valuing each position from the account feed, and quotes through free slots.

Belongs here: what one refresh does, what is due, and reconciliation with the account download.
Does not belong here: the queue itself (``state.queue``), real-time streams (``streaming``), schedules (``defs``).
"""
