"""The operators of each kind of layer.

kinds             the table of layer kinds: which function makes the operators of each, and what it needs
base              what every layer depends on, and norms, residuals and all-reduces
attention         multi-head, grouped-query, windowed and latent attention (MLA)
recurrent         Mamba, Mamba-2, gated delta-nets, lightning attention
feed_forward      dense feed-forward, and experts
context_parallel  exchange of keys, values and queries between context-parallel ranks
"""
