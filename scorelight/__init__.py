"""scorelight: score-based generative models, every one a YAML file.

Data at t = 0, noise at t = 1; x0 is data and ε ~ N(0, I):

    x_t = α(t) x0 + σ(t) ε                                (1)  ForwardProcess: data into noise
    dx  = f x dt + g dw,  f = α'/α,  g² = 2σ(σ' − fσ)     (2)    the same as an SDE
    dx  = [f x − g² ∇log p_t(x)] dt + g dw̄                (3)  Sampler: noise into data, by the reverse SDE
    dx  = [α' x0 + σ' ε] dt                               (4)    or by the probability flow
    y   = a(t) x0 + b(t) ε                                (5)  Parameterization: what the network outputs
    L   = E[w λ ‖ŷ − y‖²], minimised by the true score    (7)  Objective
    log p(x0) = log p_T(x_T) + ∫ tr ∂v̂/∂z dθ             (21)  log_likelihood, along the flow (4)

A `Denoiser` joins process, network and parameterization: ``pred = denoiser(x_t, t)`` has
``pred.x0 .epsilon .score .velocity``. `ScoreModule` trains it under Lightning.
"""

from __future__ import annotations

import lazy_loader

__version__ = "0.1.0"

# Every name comes from the module that __init__.pyi names, which is imported when the name is first used.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
