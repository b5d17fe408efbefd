"""flowertune: a Flower app that fine-tunes a language model by low-rank adapters."""
