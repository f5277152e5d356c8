"""Off-policy methods, one file a paper."""
