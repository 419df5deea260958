"""A scenario and a workload from names and keywords: the flags of the command line, or keywords of the Python API."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError

from llm_analysis.catalog import get_gpu, get_model
from llm_analysis.errors import BadValue, Unsupported, one_line, shown
from llm_analysis.inference.methods import Efficiencies
from llm_analysis.inference.runtimes import get_runtime
from llm_analysis.inference.scenario import NGRAM, Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.reading.reader import without_prediction_note
from llm_analysis.physics.dtypes import get_dtypes
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.units import Quantity, some

# Names of draft models that are made from the model.
MTP = "mtp"  # its own layer for multi-token prediction
EAGLE = "eagle"  # an EAGLE head

_Part = TypeVar("_Part", bound=BaseModel)
_Known = TypeVar("_Known")


def question(flags: Mapping[str, Any]) -> tuple[Scenario, Workload]:
    """Return the scenario and the workload of the flags. Raises LLMAnalysisError."""
    scenario = scenario_of(flags)
    return scenario, workload_of(flags, scenario)


def workload_of(flags: Mapping[str, Any], scenario: Scenario) -> Workload:
    """Return the workload of the flags. Raises BadValue.

    Flags that are missing or None have the defaults of the scenario's serving engine, or else of `Workload`.
    """
    given = {name: flags[name] for name in Workload.model_fields if name in flags}
    return _part(Workload, scenario.workload_settings(given))


def scenario_of(flags: Mapping[str, Any], known: dict[tuple[str, object], Any] | None = None) -> Scenario:
    """Return the scenario of the flags; model, GPU, formats and runtime are looked up by name.

    Flags that are missing or None have their defaults. With the same dictionary `known` in several calls each model,
    GPU and runtime is read once. Raises LLMAnalysisError.
    """
    layout, known = _part(Parallelism, flags), {} if known is None else known
    model = model_of(flags, known)
    if flags.get("draft_model_name") == MTP:
        model = without_prediction_note(model)
    gpu = _cached(known, "gpu", _required("gpu_name", flags), get_gpu)
    dtypes, runtime = flags.get("dtype_name"), flags.get("runtime")
    return Scenario.of(
        model,
        gpu,
        None if dtypes is None else get_dtypes(dtypes),
        layout,
        method=flags.get("method"),
        efficiencies=Efficiencies(
            flags.get("flops_efficiency"),
            flags.get("hbm_memory_efficiency"),
            flags.get("intra_node_memory_efficiency"),
            flags.get("inter_node_memory_efficiency"),
            flags.get("achieved_tflops"),
            flags.get("achieved_memory_bandwidth_GBs"),
        ),
        runtime=None if runtime is None else _cached(known, "runtime", runtime, get_runtime),
        draft=_draft_of(model, flags),
        kv_cache_dtype_bytes=flags.get("kv_cache_dtype_bytes"),
        layernorm_dtype_bytes=flags.get("layernorm_dtype_bytes"),
    )


def model_of(flags: Mapping[str, Any], known: dict[tuple[str, object], Any]) -> ModelConfig:
    """Return the model that the flags name, from `known` if it was read before. Raises LLMAnalysisError."""
    download = flags.get("allow_download", False)
    return _cached(known, "model", _required("model_name", flags), lambda name: get_model(name, download))


def check_generates(model: ModelConfig, output_tokens: Quantity, remedy: str) -> None:
    """Raise Unsupported for an encoder that is to generate more than the one output of its pass."""
    if model.is_encoder and some(output_tokens > 1):
        raise Unsupported(f"{model.name} is an encoder and generates no tokens; {remedy}")


def _cached(known: dict[tuple[str, object], Any], kind: str, name: Any, read: Callable[[Any], _Known]) -> _Known:
    """Return `read(name)`, cached in `known` if the name is text; a name may be of any type."""
    if not isinstance(name, str):
        return read(name)
    if (kind, name) not in known:
        known[kind, name] = read(name)
    found: _Known = known[kind, name]
    return found


def _draft_of(model: ModelConfig, flags: Mapping[str, Any]) -> ModelConfig | Literal["ngram"] | None:
    """Return the draft model, if one is asked for. Raises BadValue if no number of draft tokens is given with it."""
    name = flags.get("draft_model_name")
    if name is None:
        return None
    if not flags.get("num_draft_tokens"):
        raise BadValue(f"draft_model_name {shown(name)} needs num_draft_tokens, the tokens proposed in each step")
    if name == NGRAM:
        return "ngram"
    return own_draft(model, name) if name in (MTP, EAGLE) else get_model(name, flags.get("allow_download", False))


def own_draft(model: ModelConfig, name: str = MTP) -> ModelConfig:
    """Return the draft model that is part of a model: one layer, with the model's embedding and output head.

    The layer's inputs are the hidden state and the embedding of the next token, projected to one (DeepSeek-V3, 2024,
    equation 21). `mtp`: the model's layer for multi-token prediction, like its last layer. `eagle`: a dense layer
    (EAGLE, Li et al. 2024). Raises Unsupported for a model without an MTP layer, and for an EAGLE head of unknown
    width.
    """
    if name == MTP and not model.num_nextn_predict_layers:
        raise Unsupported(f"{model.name} has no layer for multi-token prediction; give a draft model, eagle or ngram")
    one: dict[str, Any] = {"name": f"{model.name} {name}", "num_hidden_layers": 1, "num_draft_inputs": 2}
    one |= {"layer_types": model.layer_types[-1:], "mlp_layer_types": model.mlp_layer_types[-1:]}
    if name == EAGLE:
        if not model.intermediate_size:
            raise Unsupported(
                f"the width of an EAGLE head for {model.name} is unknown; give its config.json as draft_model_name"
            )
        one |= {"mlp_layer_types": (), "num_experts": 0, "num_experts_per_tok": 0, "moe_intermediate_size": 0}
        one |= {"shared_expert_intermediate_size": 0, "moe_latent_size": 0, "zero_expert_num": 0}
    return model.model_copy(update=one)


def _part(kind: type[_Part], flags: Mapping[str, Any]) -> _Part:
    """Return a record with the flags of its field names. Raises BadValue."""
    given = {name: flags[name] for name in kind.model_fields if name in flags}
    for name, value in given.items():
        if isinstance(value, (list, tuple)) and value:
            several = ",".join(map(str, value))
            raise BadValue(f"{name} takes one value, not {shown(several)}; llm-analysis sweep and compare take lists")
    try:
        return kind(**given)
    except ValidationError as error:
        raise BadValue(one_line(error)) from None


def _required(flag: str, flags: Mapping[str, Any]) -> object:
    """Return a flag that the user must give. Raises BadValue if it is missing."""
    if flags.get(flag) is None:
        raise BadValue(f"--{flag} is missing; `llm-analysis {flag.removesuffix('_name')}s` lists the known names")
    value: object = flags[flag]
    return value
