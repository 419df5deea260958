"""The operators of each kind of layer.

base              what every layer depends on, and norms, residuals and all-reduces
attention         multi-head, grouped-query, windowed and latent attention (MLA)
recurrent         Mamba, Mamba-2, gated delta-nets, lightning attention
feed_forward      dense feed-forward, and experts
context_parallel  exchange of keys, values and queries between context-parallel ranks
"""
