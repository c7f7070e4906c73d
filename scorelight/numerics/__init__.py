"""Numerical methods that know nothing of diffusion: derivatives, quadratures, integrators."""
