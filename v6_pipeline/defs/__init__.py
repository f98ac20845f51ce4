"""The Dagster face of the pipeline: a module per concept, each short, deciding nothing.

The only package that imports dagster. What a tick or a run does is in ``v6_pipeline.sync``; here it is given a
schedule, a partition and metadata.
"""
