"""Generative policies: actions carried out of noise, by a flow or a diffusion."""
