"""Records as text: tables, JSON, CSV, Markdown. The only place with milliseconds and GB.

tables        tables and units
estimate      the answer of infer
explanation   the answer of explain
accuracy      the answers of validate and calibrate
sweep         the rows of sweep
plan          the answer of plan
compare       the answer of compare
plots         pictures (matplotlib)
gpu           one GPU in full, with the measurements behind its estimates
load          the answer of load
steady_state  the answer of infer --max_concurrency
load_accuracy the answer of validate --load
load_plot     a picture of the answer of load (matplotlib)
catalogue     lists of models, GPUs and number formats
"""
