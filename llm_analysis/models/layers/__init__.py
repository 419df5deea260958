"""The operators of each kind of layer.

kinds             the table of layer kinds: functions that return their operators, sizes that they need
base              the inputs of all layers; norms, residuals and all-reduces
attention         multi-head, grouped-query, windowed and latent attention (MLA)
sparse_attention  block-sparse attention (MiniMax-M3) and attention over compressed tokens (DeepSeek-V4)
recurrent         Mamba, Mamba-2, delta-nets, lightning attention, gated linear recurrences, short convolutions
hybrid            attention and a state space in one layer (Falcon-H1, Zamba2)
streams           several residual streams (hyper-connections, AltUp), low-rank residuals, an embedding per layer
feed_forward      dense feed-forward, and experts
context_parallel  exchange of keys, values and queries between context-parallel ranks
"""
