"""The Dagster side of the pipeline: one short module per Dagster concept, none of which makes decisions.

Belongs here: assets, checks, jobs, schedules, sensors and their metadata. The only package that imports dagster.
Does not belong here: what a tick or a run does (``streaming``, ``refresh``, ``history``, ``checks``).
"""
