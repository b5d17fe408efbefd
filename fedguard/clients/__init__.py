"""What a client does with its shard."""
