"""What `make docs` writes while the site is built: pages of parts, the reference, notebooks."""
