"""Request pacing shared by all processes: messages, historical requests, and web services.

Belongs here: the rates and their SQL.
Does not belong here: waiting for a grant inside a process (``ib.pacing``, ``ib.allowance``).
"""
