"""The GPU record: the figures of a datasheet that the estimates need.

Peaks are dense (without structured sparsity), bandwidths are in bytes/s, and a link bandwidth is the rate at which one
GPU sends in one direction over all its links together. Vendors often print both directions added up.
"""

from math import inf
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from llm_analysis.errors import nearest, printable, shown
from llm_analysis.units import Quantity, minimum

RATES = ("fp32", "tf32", "fp16", "bf16", "fp8", "int8", "fp6", "fp4", "int4")  # formats that may have a peak
_GPUS_PER_SERVER = 8  # the default if neither the file nor the user gives a number
_LOW_CONFIDENCE = "{}: some of its figures are announcements or recalled, not taken from a datasheet; check them"

_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Count = Annotated[int, Field(gt=0, le=10**6)]
_Text = Annotated[str, AfterValidator(printable)]
# Plausible values. A value outside of its range is taken for one in another unit, such as GB/s instead of bytes/s.
_LINK_RANGE = (1e7, 1e14, "bytes/s (1 GB/s is 1e9)")
_MEMORY_RANGE = (1e9, 1e14, "bytes (1 GB is 1e9)")
_RANGES = {
    "memory_bytes": _MEMORY_RANGE,
    "driver_memory_bytes": _MEMORY_RANGE,
    "memory_bandwidth": (1e10, 1e15, "bytes/s (1 GB/s is 1e9)"),
    "peak_flops": (1e11, 1e18, "FLOP/s (1 TFLOP/s is 1e12)"),
    "fp16_accumulate_flops": (1e11, 1e18, "FLOP/s (1 TFLOP/s is 1e12)"),
    "l2_bytes": (1e5, 1e12, "bytes (1 MB is 1e6)"),
    "boost_clock_hz": (1e8, 1e11, "Hz (1 GHz is 1e9)"),
    **dict.fromkeys(("link_bandwidth", "peer_bandwidth", "pcie_bandwidth", "inter_node_bandwidth"), _LINK_RANGE),
}


def _as_tuple(value: object) -> object:
    """Return a list of JSON as a tuple."""
    return tuple(value) if isinstance(value, list) else value


class GPU(BaseModel):
    """Facts of one kind of GPU. Frozen; a file with an unknown key, or with a value in another unit, is rejected."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    name: Annotated[_Text, Field(min_length=1, max_length=200)]
    vendor: _Text = ""
    architecture: _Text = ""
    release_year: int | None = None
    devices: _Count = 1  # devices that software sees in one package; each has an equal share of all figures
    package_devices: _Count = 1  # devices in the package of this one; `per_device` sets it
    memory_bytes: _Positive  # the size as sold
    driver_memory_bytes: _Positive | None = None  # total memory that the driver reports (nvidia-smi, rocm-smi)
    memory_bandwidth: _Positive
    peak_flops: dict[str, _Positive] = Field(min_length=1)
    fp16_accumulate_flops: _Positive | None = None  # peak of fp16 products summed in fp16, if that is faster
    l2_bytes: _Positive | None = None
    num_sms: _Count | None = None  # streaming multiprocessors, compute units or cores
    boost_clock_hz: _Positive | None = None
    link: _Text = ""
    link_bandwidth: _Positive | None = None  # over all links of one GPU together
    link_domain_size: _Count = 1  # GPUs connected by the link
    gpus_per_server: _Count = _GPUS_PER_SERVER
    peer_bandwidth: _Positive | None = None  # bandwidth to one other GPU if each pair has its own link (full mesh)
    pcie_bandwidth: _Positive | None = None
    peer_access: bool = True  # on PCIe GPUs read each other's memory; otherwise all data goes through the host's memory
    inter_node_bandwidth: _Positive | None = None
    tdp_watts: _Positive | None = None
    confidence: _Text = ""  # high, medium or low
    source: str = ""
    notes: Annotated[tuple[_Text, ...], BeforeValidator(_as_tuple)] = ()  # shown with every estimate

    @field_validator("package_devices")
    @classmethod
    def _check_package(cls, devices: int) -> int:
        """Reject the field in a file: it follows from `devices`."""
        if devices != 1:
            raise ValueError("package_devices follows from devices; give devices")
        return devices

    @field_validator("peak_flops")
    @classmethod
    def _check_rates(cls, peaks: dict[str, float]) -> dict[str, float]:
        """Reject an unknown format: its peak would never be used."""
        for rate in peaks:
            if rate not in RATES:
                raise ValueError(f"unknown rate {shown(rate)} in peak_flops{nearest(rate, RATES)}")
        return peaks

    @field_validator(*_RANGES)
    @classmethod
    def _check_range(cls, value: Any, info: ValidationInfo) -> Any:
        """Reject an implausible value and name the unit."""
        low, high, unit = _RANGES[str(info.field_name)]
        for name, one in (value if isinstance(value, dict) else {"": value}).items():
            if one is not None and not low <= one <= high:
                field = f"{info.field_name}.{name}".rstrip(".")
                raise ValueError(f"{field} is in {unit} and must be from {low:g} to {high:g}, not {one:g}")
        return value

    @property
    def usable_memory_bytes(self) -> float:
        """Memory that the driver reports, in bytes; the memory as sold if that is not known."""
        return self.driver_memory_bytes or self.memory_bytes

    @property
    def as_reported(self) -> "GPU":
        """The GPU with the memory that the driver reports."""
        return self.model_copy(update={"memory_bytes": self.usable_memory_bytes})

    @property
    def pcie_link(self) -> str:
        """Name of the link between two GPUs on PCIe."""
        return "PCIe" if self.peer_access else "PCIe without peer access"

    @property
    def gpus_per_node(self) -> int:
        """Number of GPUs that reach each other without the network between servers."""
        return max(self.link_domain_size, self.gpus_per_server)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """The notes of the file, after a warning if the confidence in its figures is low."""
        return ((_LOW_CONFIDENCE.format(self.name),) if self.confidence == "low" else ()) + self.notes

    def fastest(self, rate: str) -> float:
        """Return the peak FLOP/s of a format with whichever accumulation is faster."""
        peak = self.peak_flops[rate]
        return max(peak, self.fp16_accumulate_flops or peak) if rate == "fp16" else peak

    def with_more_flops(self, factor: float) -> "GPU":
        """Return the GPU with all peak rates multiplied."""
        rates = {rate: factor * peak for rate, peak in self.peak_flops.items()}
        accumulate = self.fp16_accumulate_flops and factor * self.fp16_accumulate_flops
        return self.model_copy(update={"peak_flops": rates, "fp16_accumulate_flops": accumulate})

    def per_device(self) -> "GPU":
        """Return the GPU as software sees it: one die of a package of several, with its share of all figures."""
        if self.devices == 1:
            return self
        shared = (
            *("memory_bytes", "driver_memory_bytes", "memory_bandwidth", "l2_bytes", "link_bandwidth"),
            "fp16_accumulate_flops",
        )
        whole = {name: getattr(self, name) for name in shared}
        return self.model_copy(
            update={
                **{name: value / self.devices for name, value in whole.items() if value},
                "peak_flops": {rate: peak / self.devices for rate, peak in self.peak_flops.items()},
                "num_sms": self.num_sms // self.devices if self.num_sms else None,
                "link_domain_size": self.link_domain_size * self.devices,
                "devices": 1,
                "package_devices": self.devices,
            }
        )

    def in_nodes_of(self, gpus: int | None) -> "GPU":
        """Return the GPU in nodes of `gpus` GPUs; only the network between servers joins the nodes."""
        if gpus is None:
            return self
        return self.model_copy(update={"gpus_per_server": gpus, "link_domain_size": min(self.link_domain_size, gpus)})

    def link_over(self, span: int, peers: Quantity = inf) -> tuple[str, Quantity | None]:
        """Return the name and the bandwidth (bytes/s) of the slowest link that `span` consecutive GPUs need.

        `peers` is the number of other GPUs that each one exchanges data with. In a full mesh each pair of GPUs has its
        own link of `peer_bandwidth`, so a group of n GPUs can use n - 1 links of each GPU: (n - 1) * peer_bandwidth
        bytes/s, at most `link_bandwidth`. Behind a switch one peer can get the whole `link_bandwidth`.
        """
        if span <= self.link_domain_size:
            if self.peer_bandwidth is None or self.link_bandwidth is None:
                return self.link, self.link_bandwidth
            return self.link, minimum(self.link_bandwidth, minimum(peers, span - 1.0) * self.peer_bandwidth)
        if span <= self.gpus_per_node:
            return self.pcie_link, self.pcie_bandwidth
        return "inter-node", self.inter_node_bandwidth
