"""Generative policies, one file a paper: actions carried out of noise. The engine of those that learn from rollouts is
:mod:`polopt.on_policy`; flows are :mod:`polopt.flow`."""
