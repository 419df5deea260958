"""Records as text: tables, JSON, CSV, Markdown. The only place with milliseconds and GB.

tables        tables and units
estimate      the answer of infer
explanation   the answer of explain
accuracy      the answers of validate and calibrate
catalogue     lists of models, GPUs and number formats
"""
