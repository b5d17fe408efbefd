"""Encrypted aggregation: plain and multi-key CKKS on TenSEAL; see ``docs/encryption.md``."""
