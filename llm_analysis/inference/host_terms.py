"""Host time of serving engines that overlaps the GPU's or precedes the first step (`data/host_terms.json`).

    beside_seconds          per step: preparation of the next one, in engines that schedule asynchronously
    beside_sequence_seconds the same per sequence of a step
    stream_seconds          per output token, in the process that streams the answers
    launch_seconds          per kernel of a step with prompts that is not replayed from a CUDA graph
    front_seconds           per request, HTTP, tokenizer and hand-over to the scheduler; requests do not wait for each
                            other
    chat_seconds            more per request where the benchmark used the chat endpoint
    front_serial_seconds    per request, in the one process that takes HTTP requests in

Host time for which the GPU waits is a term of the runtime (`data/runtimes/`), here as in a static estimate.

The file has the terms of each engine, and for each source of runs the terms of a fit without its runs, by which that
source is scored. `calibration/fitting/build_host_terms.py` writes it.
"""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from llm_analysis.files import DATA, read_json
from llm_analysis.inference.engines import Engine
from llm_analysis.inference.runtimes import DEFAULT_RUNTIME
from llm_analysis.physics.operators import Op
from llm_analysis.units import Quantity

FILE = DATA / "host_terms.json"
_BESIDE, _BESIDE_SEQUENCE = BESIDE = ("host_beside", "host_beside_sequence")


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
    """Return the terms of the engine of a runtime, fitted without the runs of the source `left_out`.

    An engine without runs has those of the newest vLLM.
    """
    fitted: dict[str, dict[str, float]] = _file()["held_out"].get(left_out, _file()["terms"])
    return HostTerms(**fitted.get(runtime, fitted[DEFAULT_RUNTIME]))


def beside_ops(engine: Engine | None, sequences: Quantity) -> list[Op]:
    """Return an asynchronous engine's preparation of a decode step as operators of the kinds `BESIDE`.

    A step is not shorter than their sum. The list is empty for other engines, for which the GPU waits in any case.
    """
    if engine is None or not engine.host_overlapped:
        return []
    return [Op(_BESIDE, _BESIDE), Op(_BESIDE_SEQUENCE, _BESIDE_SEQUENCE, count=sequences)]


def beside_seconds(engine: Engine, kind: str) -> float:
    """Return the seconds of one operator of `beside_ops`."""
    terms = host_terms(engine.runtimes[0])
    return terms.beside_seconds if kind == _BESIDE else terms.beside_sequence_seconds
