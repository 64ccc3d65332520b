"""
Real parts for tests: servers, databases, object stores and the faults between them.

Each is a context manager that leaves nothing behind, is importable without pytest, and
starts real software instead of imitating it. Only the services of W&B and Neptune,
which cannot be had without their makers, are imitated; there the clients are real.
"""
