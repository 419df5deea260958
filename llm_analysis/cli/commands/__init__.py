"""The commands.

infer       infer and explain
catalogue   models, gpus and dtypes
sweep       sweep
plan        plan
compare     compare
load           load
load_accuracy  validate --load
plot        plot
accuracy    validate and calibrate
"""
