"""Host time of serving engines beside the GPU's, fitted to published runs (`data/host_terms.json`).

    beside_seconds          per step: preparation of the next one, in engines that schedule asynchronously
    beside_sequence_seconds the same per sequence of a step
    stream_seconds          per output token, in the process that streams the answers
    launch_seconds          per kernel of a step with prompts that is not replayed from a CUDA graph
    front_seconds           per request, HTTP and tokenizer; requests do not wait for each other
    chat_seconds            the same again where the benchmark used the chat endpoint
    front_serial_seconds    per request, in the one process that takes requests in

Host time for which the GPU waits is a term of the runtime (`data/runtimes/`), here as in a static estimate.

The file has the terms of each engine, and for each source of runs the terms of a fit without its runs, by which that
source is scored. `calibration/fitting/build_host_terms.py` writes it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from llm_analysis.files import DATA, read_json
from llm_analysis.units import Quantity, some

if TYPE_CHECKING:
    from llm_analysis.inference.scenario import Scenario

FILE = DATA / "host_terms.json"
NEWEST = "vllm-v1"  # whose terms an engine without runs gets


class HostTerms(NamedTuple):
    """The terms of one engine, in seconds."""

    beside_seconds: float = 0.0
    beside_sequence_seconds: float = 0.0
    stream_seconds: float = 0.0
    launch_seconds: float = 0.0
    front_seconds: float = 0.0
    chat_seconds: float = 0.0
    front_serial_seconds: float = 0.0


@cache
def _file() -> dict[str, Any]:
    """Return the file."""
    return read_json(FILE)


def host_terms(runtime: str, left_out: str = "") -> HostTerms:
    """Return the terms of the engine of a runtime, fitted without the runs of the source `left_out`."""
    fitted: dict[str, dict[str, float]] = _file()["held_out"].get(left_out, _file()["terms"])
    return HostTerms(**fitted.get(runtime, fitted[NEWEST]))


def shorter_than_host(scenario: Scenario, sequences: Quantity, step_seconds: Quantity) -> bool:
    """Return whether an asynchronous engine needs longer to prepare a step of `sequences` than the step takes."""
    engine = scenario.engine
    if engine is None or not engine.host_overlapped:
        return False
    terms = host_terms(engine.runtimes[0])
    return some(step_seconds < terms.beside_seconds + terms.beside_sequence_seconds * sequences)
