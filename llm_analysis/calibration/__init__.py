"""Published measurements: read, score, fit.

columns            columns and cells that all tables of measurements have
measurements       a CSV of published latencies
timing             many measurements timed at once, as arrays
validation         errors of the estimates against measurements
steady_rows        serving rows of such a CSV, estimated in steady state
load_runs          a CSV of published runs of serving under load
load_definitions   how their benchmarks work: lengths, settings, repeated prompts
load_estimates     such runs as simulations
load_scores        errors of these simulations
load_measurements  such runs as rows for a calibration
residuals          measured / estimated by source, GPU and model, from which error bands are built
calibrate          a runtime fitted to a user's own measurements
fitting            build the package's own data files
"""
