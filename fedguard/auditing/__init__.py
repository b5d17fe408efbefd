"""Somebody's own Flower app under attack: what breaks it, and which line keeps it alive."""
