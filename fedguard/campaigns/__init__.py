"""Many runs: a grid of configurations, each run once."""
