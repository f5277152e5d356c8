"""polopt: policy optimization for classical control."""
