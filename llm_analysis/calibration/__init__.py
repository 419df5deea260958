"""Published measurements: read, score, fit.

measurements   a CSV of published latencies
timing         many measurements timed at once, as arrays
validation     errors of the estimates against measurements
load_scores    errors of simulations of serving against measurements
residuals      measured / estimated by source, GPU and model, from which error bands are built
calibrate      a runtime fitted to a user's own measurements
fitting        build the package's own data files
"""
