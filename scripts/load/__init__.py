"""A load of uploads for any tus 1.0.0 server, and the faults of clients that go with it."""
