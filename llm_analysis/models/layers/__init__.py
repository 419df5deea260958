"""The operators of each kind of layer.

kinds             the table of layer kinds: which function makes the operators of each, and what it needs
base              what every layer depends on, and norms, residuals and all-reduces
attention         multi-head, grouped-query, windowed and latent attention (MLA)
sparse_attention  block-sparse attention (MiniMax-M3) and attention over compressed tokens (DeepSeek-V4)
recurrent         Mamba, Mamba-2, delta-nets, lightning attention, gated linear recurrences, short convolutions
hybrid            attention and a state space in one layer (Falcon-H1, Zamba2)
streams           several residual streams (hyper-connections, AltUp), low-rank residuals, an embedding per layer
feed_forward      dense feed-forward, and experts
context_parallel  exchange of keys, values and queries between context-parallel ranks
"""
