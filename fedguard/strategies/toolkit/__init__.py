"""What defences share: distances, kernels, clusters, scores, and what the server lends."""
