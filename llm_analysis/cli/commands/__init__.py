"""The commands.

infer       infer and explain
catalogue   models, gpus and dtypes
compare     compare
plot        plot
accuracy    validate and calibrate
"""
