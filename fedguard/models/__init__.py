"""Networks, each of which names its latent layer."""
