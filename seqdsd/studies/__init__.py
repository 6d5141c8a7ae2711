"""Many runs: comparisons and sweeps, the jobs that train them, here or on a cluster."""
