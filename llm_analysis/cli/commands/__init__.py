"""The commands.

infer       infer and explain
catalogue   models, gpus and dtypes
sweep       sweep
compare     compare
plot        plot
accuracy    validate and calibrate
"""
