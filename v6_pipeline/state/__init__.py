"""The state database: what processes must agree on, in SQLite or PostgreSQL.

One module per concept, each with small functions on a ``Connection`` that return plain dataclasses. Transactions and
policy (how long a lease lasts, what a failure costs) belong to ``v6_pipeline.sync``. Positions themselves live in the
lake, not here. Only this package imports SQLAlchemy.
"""
