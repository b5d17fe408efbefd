"""Where clients run: each grid is a `flwr.serverapp.Grid`."""
