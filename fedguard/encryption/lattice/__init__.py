"""Lattices: rings, packing, CKKS profiles and formats, on NumPy and on TenSEAL."""
