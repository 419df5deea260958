"""Published measurements: read, score, fit.

measurements   a CSV of published latencies
validation     errors of the estimates against measurements
load_scores    errors of simulations of serving against measurements
calibrate      a runtime fitted to a user's own measurements
fitting        build the package's own data files
"""
