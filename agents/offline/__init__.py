"""Methods that learn from a fixed dataset, one file a paper."""
