"""Serving under load: requests that arrive, queue, are batched continuously and share a KV cache.

arrivals    arrival times of requests
scheduler   discrete-event simulation of one replica of an engine
step_times  tables of step times, built once per scenario from the operators
"""
