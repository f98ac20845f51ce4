"""The state database: what processes must agree on, in SQLite or PostgreSQL.

One subpackage per concept (``queue``, ``slots``, ``leases``, ``registry``, ``pacing``, ``account``), with its public
class, its rules and its SQL. Positions themselves live in the lake, not here. Only this package imports SQLAlchemy.
"""
