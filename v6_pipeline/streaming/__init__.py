"""Streamed positions: ``IBPositionStreamer``, routing, handlers, the writer, feed health, and the streamer's control.

Belongs here: what the long-running streamer process does, and what its owner needs to know about it.
Does not belong here: batch refreshes (``refresh``), the sensor (``defs``), the process's entry point (``streamer``).
"""
