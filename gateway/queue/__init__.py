"""The durable queue of jobs: leases, lanes, settlement."""
