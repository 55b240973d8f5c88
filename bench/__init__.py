"""The benchmark: what settling an entry costs, beside the server's own part of it and the peers."""
