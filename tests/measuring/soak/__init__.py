"""Many clients publish to quorum queues of a cluster while faults strike, and account is kept of every message."""
