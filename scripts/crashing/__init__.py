"""A server that is killed at random instants, and clients that bring their uploads to an end."""
