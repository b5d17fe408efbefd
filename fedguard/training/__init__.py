"""Training rules: how a client trains on its shard in one round."""
