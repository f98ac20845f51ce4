"""The Dagster face of the pipeline: a module per Dagster concept, each short, deciding nothing.

Belongs here: assets, checks, jobs, schedules, sensors and their metadata. The only package that imports dagster.
Does not belong here: what a tick or a run does (``streaming``, ``refresh``, ``history``, ``checks``).
"""
