"""Flex statements from the web service or a folder to rows of the Flex tables.

Belongs here: everything that knows IB's Flex XML or its web service.
Does not belong here: building a trading day from its sources (``history``), writing tables (``lake``).

A Flex file passes these modules in this order, and none of them imports a later one. All may import ``model``.

1. ``replies``, ``exchange``, ``service``, ``archive``: the web service's statements become files of the archive.
   Files that the user drops into ``V6_FLEX_DIR`` start at 2.
2. ``values``, ``activity``, ``needs``, ``statement``, ``reader``: the bytes of a file become statements.
3. ``index``, ``parts``, ``files``: the files are listed, the newest statement of each account and day is chosen,
   completed with those of closed days before it, and returned day by day.
4. ``rows``: a day's statements become rows of ``flex_positions``, ``flex_activity`` and ``flex_statements``.

``history.flex_days`` writes the rows, and ``history.snapshot_days`` makes the snapshot rows of a day from them.
"""
