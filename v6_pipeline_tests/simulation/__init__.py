"""Simulated trading days: the whole system in one process, on a clock that jumps, from a seed.

``loop`` is the event loop with virtual time, ``wire`` the network in memory, ``world`` the day with its gateway,
processes and people, ``storms`` what goes wrong, ``oracle`` and ``ledgers`` what must hold all the same. Run it with
``python -m v6_pipeline_tests.simulation``.
"""
