"""Model-based methods: what is learned from imagined experience."""
