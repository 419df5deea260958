"""`--method calibrated`: the fitted kernels of a GPU, and what a runtime adds to them."""

from __future__ import annotations

from copy import copy
from math import inf

from llm_analysis.hardware import GPU, Efficiency
from llm_analysis.operators import Op
from llm_analysis.profile import collective, kernel, profile_for
from llm_analysis.runtime import COLLECTIVES, MATMULS, Runtime

# The measured attention kernels rotate Q and K and write the cache themselves.
FUSED = Efficiency(memory=inf)


class Calibrated:
    """Chooses an operator's numbers: the kernel profile of the GPU, adjusted by the runtime.

    `notes` tell each fall-back that was made on the way.
    """

    def __init__(self, gpu: GPU, runtime: Runtime) -> None:
        self.gpu, self.runtime, self.profile = gpu, runtime, profile_for(gpu)
        self.notes: dict[str, None] = {self.profile.note: None} if self.profile.note else {}
        self.known: dict[tuple[str, str, str, float, int, float], Efficiency] = {}

    def under(self, runtime: Runtime) -> Calibrated:
        """The same kernels under another runtime."""
        other = copy(self)
        other.runtime, other.known = runtime, {}
        return other

    def __call__(self, op: Op) -> Efficiency:
        """The numbers for `op`."""
        key = (op.kind, op.format, op.rate, op.group, op.span, op.messages)
        if key not in self.known:
            self.known[key] = self.find(op)
        return self.known[key]

    def find(self, op: Op) -> Efficiency:
        """The numbers for the kind of kernel that `op` is, under the runtime."""
        if op.kind.startswith("host_"):
            return Efficiency(launch=self.runtime.host_seconds(op.kind))
        usual = kernel(self.profile, op.kind, "bf16").numbers.launch if op.kind in MATMULS else 0.0
        return self.runtime.adjusted(op, self.gpu, self.bare(op), usual)

    def bare(self, op: Op) -> Efficiency:
        """The same without a runtime; fall-backs are noted."""
        if op.kind == "rotary":
            return FUSED
        if op.kind in COLLECTIVES:
            found = collective(self.gpu.link_over(op.span)[0], op.kind, op.messages + 1, self.runtime.collective)
        else:
            found = kernel(self.profile, op.kind, op.format)
        self.notes |= dict.fromkeys(found.notes)
        return found.numbers
