"""Physics 2: a GPU is a few numbers from its datasheet; a few more per kind of kernel say how close one gets to them.

One line times every operator of every phase, of every method:

    seconds = launch + ((flops (1 + fill / parallelism) / (peak e_flops))^p + (bytes / (bandwidth e_memory))^p)^(1/p)
                     + ((messages latency)^p + (wire_bytes / (link_bandwidth e_link))^p)^(1/p)

p = inf is the plain roofline, the larger of compute and memory; p = 2.8, say, rounds its knee, where neither unit is
kept busy all of the time. Work in fewer pieces than the chip has room for leaves compute units idle: as many pieces as
`fill` keep half of them busy. A collective has no FLOP and no HBM bytes, a kernel no messages and nothing on the wire.
"""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from llm_analysis.errors import nearest, shown

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
# What a GPU may have a peak for.
RATES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp6", "fp4", "int4")
# What no GPU is below or above, and the unit meant: beyond it stands a slip, such as GB/s for bytes/s.
LINK_RANGE = (1e7, 1e14, "bytes/s (1 GB/s is 1e9)")
RANGES = {
    "memory_bytes": (1e9, 1e14, "bytes (1 GB is 1e9)"),
    "memory_bandwidth": (1e10, 1e15, "bytes/s (1 GB/s is 1e9)"),
    "peak_flops": (1e11, 1e18, "FLOP/s (1 TFLOP/s is 1e12)"),
    "l2_bytes": (1e5, 1e12, "bytes (1 MB is 1e6)"),
    "boost_clock_hz": (1e8, 1e11, "Hz (1 GHz is 1e9)"),
    **dict.fromkeys(("link_bandwidth", "peer_bandwidth", "pcie_bandwidth", "inter_node_bandwidth"), LINK_RANGE),
}
# GPUs in one server where the datasheet's link does not reach further: the usual eight.
GPUS_PER_SERVER = 8


class GPU(BaseModel):
    """Datasheet facts: dense peaks in FLOP/s, bandwidths in bytes/s (links: one GPU, one direction), sizes in bytes."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: str
    vendor: str = ""
    architecture: str = ""
    release_year: int | None = None
    devices: Annotated[int, Field(gt=0)] = 1  # that software sees in one package, each with its share of all figures
    memory_bytes: Positive
    memory_bandwidth: Positive
    peak_flops: dict[str, Positive] = Field(min_length=1)
    l2_bytes: Positive | None = None
    num_sms: int | None = None
    boost_clock_hz: Positive | None = None
    link: str = ""
    link_bandwidth: Positive | None = None
    link_domain_size: Annotated[int, Field(gt=0)] = 1
    gpus_per_server: Annotated[int, Field(gt=0)] = GPUS_PER_SERVER
    peer_bandwidth: Positive | None = None  # what one peer of a mesh gets
    pcie_bandwidth: Positive | None = None
    inter_node_bandwidth: Positive | None = None
    tdp_watts: Positive | None = None
    confidence: str = ""
    source: str = ""

    @field_validator("peak_flops")
    @classmethod
    def known_rates(cls, peaks: dict[str, float]) -> dict[str, float]:
        """The peaks. A rate that is none of those known would never be used: it is a slip."""
        for rate in peaks:
            if rate not in RATES:
                raise ValueError(f"unknown rate {shown(rate)} in peak_flops{nearest(rate, RATES)}")
        return peaks

    @field_validator(*RANGES)
    @classmethod
    def in_range(cls, value: Any, info: ValidationInfo) -> Any:
        """The value. One that no GPU has is in another unit."""
        low, high, unit = RANGES[str(info.field_name)]
        for name, one in (value if isinstance(value, dict) else {"": value}).items():
            if one is not None and not low <= one <= high:
                field = f"{info.field_name}.{name}".rstrip(".")
                raise ValueError(f"{field} is in {unit}: {one:g} is no GPU's, which are from {low:g} to {high:g}")
        return value

    def per_device(self) -> "GPU":
        """One of the devices that software sees: itself, or one die of a package of several."""
        if self.devices == 1:
            return self
        whole = {
            name: getattr(self, name) for name in ("memory_bytes", "memory_bandwidth", "l2_bytes", "link_bandwidth")
        }
        shares = {name: value / self.devices for name, value in whole.items() if value}
        rates = {name: rate / self.devices for name, rate in self.peak_flops.items()}
        sms = self.num_sms // self.devices if self.num_sms else None
        reach = self.link_domain_size * self.devices
        return self.model_copy(
            update={**shares, "peak_flops": rates, "num_sms": sms, "link_domain_size": reach, "devices": 1}
        )

    @property
    def gpus_per_node(self) -> int:
        """GPUs that a collective reaches without the network between servers."""
        return max(self.link_domain_size, self.gpus_per_server)

    def in_nodes_of(self, gpus: int | None) -> "GPU":
        """The same GPU in nodes of so many; beyond a node there is only the network between servers."""
        if gpus is None:
            return self
        return self.model_copy(update={"gpus_per_server": gpus, "link_domain_size": min(self.link_domain_size, gpus)})

    def link_over(self, span: int) -> tuple[str, float | None]:
        """Name and bandwidth (bytes/s) of the slowest link that `span` consecutive GPUs need."""
        if span <= self.link_domain_size:
            return self.link, self.link_bandwidth
        if span <= self.gpus_per_node:
            return "PCIe", self.pcie_bandwidth
        return "inter-node", self.inter_node_bandwidth
