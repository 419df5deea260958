"""A question put in flags, as the commands that answer one share them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from llm_analysis import catalog
from llm_analysis.errors import BadValue, one_line, shown
from llm_analysis.inference.analysis import LLMAnalysis
from llm_analysis.inference.passes import MTP, own_draft
from llm_analysis.inference.runtimes import get_runtime
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.models.config import ModelConfig
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.parallelism import Parallelism

# Flags that `LLMAnalysis` takes as they are.
KEYWORDS = (
    "method",
    "flops_efficiency",
    "hbm_memory_efficiency",
    "achieved_tflops",
    "achieved_memory_bandwidth_GBs",
    "intra_node_memory_efficiency",
    "inter_node_memory_efficiency",
    "kv_cache_dtype_bytes",
    "layernorm_dtype_bytes",
)
Part = TypeVar("Part", bound=BaseModel)


def question(flags: Mapping[str, Any]) -> tuple[Scenario, Workload]:
    """Return the scenario and the workload that the flags of a command ask for. Raises LLMAnalysisError."""
    layout, model = part(Parallelism, flags), catalog.get_model(required("model_name", flags), flags["allow_download"])
    analysis = LLMAnalysis(
        model,
        catalog.get_gpu(required("gpu_name", flags)),
        None if flags["dtype_name"] is None else get_dtypes(flags["dtype_name"]),
        layout,
        draft_config=draft_of(model, flags),
        runtime=None if flags["runtime"] is None else get_runtime(flags["runtime"]),
        **{name: flags[name] for name in KEYWORDS},
    )
    return analysis.scenario, part(Workload, flags)


def draft_of(model: ModelConfig, flags: Mapping[str, Any]) -> ModelConfig | None:
    """The model that drafts tokens, if one is asked for. Raises BadValue for one that is given nothing to draft."""
    name = flags["draft_model_name"]
    if name is None:
        return None
    if not flags["num_draft_tokens"]:
        raise BadValue(f"draft_model_name {shown(name)} needs num_draft_tokens: how many it proposes in each step")
    return own_draft(model) if name == MTP else catalog.get_model(name, flags["allow_download"])


def part(kind: type[Part], flags: Mapping[str, Any]) -> Part:
    """The part of a question that has flags of its fields' names. Raises BadValue."""
    try:
        return kind(**{name: flags[name] for name in kind.model_fields if name in flags})
    except ValidationError as error:
        raise BadValue(one_line(error)) from None


def required(flag: str, flags: Mapping[str, Any]) -> object:
    """A flag that the user must give. Raises BadValue where it is missing."""
    if flags[flag] is None:
        raise BadValue(f"the question needs --{flag}; `llm-analysis {flag.removesuffix('_name')}s` lists what is known")
    value: object = flags[flag]
    return value
