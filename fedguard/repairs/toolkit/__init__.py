"""What repairs share: the server's rows in two parts, training on them, masks of channels."""
