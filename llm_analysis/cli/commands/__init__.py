"""The commands.

infer       infer and explain
catalogue   models, gpus and dtypes
accuracy    validate and calibrate
"""
