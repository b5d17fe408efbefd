"""Repairs: what the server does to the global model after aggregation, behind any strategy."""
