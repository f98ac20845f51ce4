"""Asset checks: what must hold, judged from the state database and the lake; pure functions that return a ``Verdict``.

Belongs here: the rule of each check, its thresholds, and the registry of all checks.
Does not belong here: Dagster's asset checks (``defs``), and checks of an installation (``doctor``).
"""
