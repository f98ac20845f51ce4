"""The chaos suite: real processes, faults drawn from a seed, and an oracle that asks the gateway, not us.

``python -m v6_pipeline_tests.chaos --seed 1 --minutes 10`` runs it for as long as asked; ``docs/reliability.md`` says
what it proves. Nothing here reads the product's own status: what streams is the gateway's word, what was written is the
Delta log's.
"""
