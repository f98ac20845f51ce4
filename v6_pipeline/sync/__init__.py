"""What keeps the lake in step with the account: registry, queue, slots, leases, streamer, worker, reconciliation."""
