"""The algorithms: a folder a family, a file a paper. ``polopt.PPO`` and the like find them here."""
