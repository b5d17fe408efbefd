"""Who says what to whom under encryption: clients, server, keys, transcripts."""
