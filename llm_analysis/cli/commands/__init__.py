"""The commands.

infer       infer and explain
catalogue   models, gpus and dtypes
sweep       sweep
plan        plan
compare     compare
load        load
plot        plot
accuracy    validate and calibrate
"""
