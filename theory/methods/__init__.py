"""One file a paper: its equations as pure functions, and ``experiment(seed)``, which measures its claim."""
