"""
Real parts for tests: servers, databases, object stores and the faults between them.

Each is a context manager that leaves nothing behind, is importable without pytest, and
starts real software instead of imitating it. Only W&B's service, which cannot be had
without its makers, is imitated; there the client is the real one.
"""
