"""The state database: what processes must agree on, in SQLite or PostgreSQL.

A room per concept (``queue``, ``slots``, ``leases``, ``registry``, ``pacing``, ``account``), each whole: the public
class, its rules and its SQL. Positions themselves live in the lake, not here. Only this package imports SQLAlchemy.
"""
