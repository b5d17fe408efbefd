"""What a party of a vertical federation can do to the others."""
