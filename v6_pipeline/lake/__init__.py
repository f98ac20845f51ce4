"""The lake: Delta tables, their specs, and the code that writes, reads and maintains them.

Belongs here: everything that uses delta-rs (table handles, commits and their metadata, fencing by application
transaction, compaction, durability, repair) and the form of rows (explicit schemas, casts, null for unknown). Import
the module that you need: this package imports nothing, so that a process loads only what it uses.

Does not belong here: which rows to write and when (``streaming``, ``refresh``, ``history``), the state database
(``state``), the broker's protocol (``ib``), and Dagster (``defs``), which reads commits through ``lake.commits``.
"""
