"""On-policy methods, one file a paper; the engine they share is :mod:`polopt.on_policy`."""
