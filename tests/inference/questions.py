"""Random valid questions, and laws that the answers must obey: identities, conservation, monotonicity, bounds.

    python tests/inference/questions.py [questions] [seed] [first]

asks many of them outside of pytest. It prints every law that is broken, and how often each law was checked. A question
depends on the seed and on its number only: with `first` the script starts there.
"""

import csv
import io
import json
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cached_property
from itertools import pairwise
from math import inf, isclose, isfinite
from typing import Any, NamedTuple

from llm_analysis import GPU, Estimate, LLMAnalysisError, Step, catalog
from llm_analysis.explore.sweep import Sweep
from llm_analysis.inference.analysis import estimate
from llm_analysis.inference.estimate import KEYS
from llm_analysis.inference.explain import explanation
from llm_analysis.inference.memory import Memory
from llm_analysis.inference.methods import Efficiencies
from llm_analysis.inference.question import question
from llm_analysis.inference.runtimes import runtime_names
from llm_analysis.inference.scenario import Scenario
from llm_analysis.inference.workload import Workload
from llm_analysis.models.config import ModelConfig
from llm_analysis.models.forward import forward, stage_ops
from llm_analysis.physics.dtypes import EVERYDAY, get_dtypes
from llm_analysis.physics.operators import Op
from llm_analysis.physics.parallelism import Parallelism
from llm_analysis.serving.lengths import uniform
from llm_analysis.serving.metrics import summarize
from llm_analysis.serving.server import Workload as Traffic
from llm_analysis.serving.server import build_server
from llm_analysis.serving.steady_state import steady_state

MODELS, GPUS = catalog.names("model_configs"), catalog.names("gpu_configs")
# A sum of some hundred terms in another order differs in the last digits; nothing else is forgiven.
ROUNDING = 1e-9
_OF_WINDOWS, _OF_PREFIXES = 1e-3, 2e-3  # by which a latency may be off
LATENCIES = ("prefill_latency", "decode_latency", "total_latency")
OPTIONS: dict[str, tuple[float, list[Any]]] = {  # flag -> (probability, values)
    "dtype_name": (0.6, [*EVERYDAY, "w4a16e16kv8", "w16a16e16kv8"]),
    "tp_size": (0.7, [1, 2, 4, 8, 16]),
    "pp_size": (0.3, [2, 3, 4, 8]),
    "dp_size": (0.25, [2, 4]),
    "cp_size": (0.08, [2, 4]),
    "ep_size": (0.3, [2, 4, 8]),
    "expert_imbalance": (0.05, [1.2, 2.0]),
    "num_gpus_per_node": (0.05, [1, 2, 4, 8]),
    "runtime": (0.4, [*runtime_names(), "none"]),
    "kv_cache_dtype_bytes": (0.15, [0.5, 1, 2, 4]),
    "layernorm_dtype_bytes": (0.03, [2, 4]),
    "num_samples": (0.08, [2, 3, 8]),
    "prefill_chunk_size": (0.2, [64, 512, 2048, 8192]),
    "use_kv_cache": (0.03, [False]),
    "disaggregated": (0.06, [True]),
    "gpu_memory_utilization": (0.3, [0.5, 0.9, 0.95]),
}

Law = tuple[str, bool, str]  # name, whether it holds, what was found


class Question(NamedTuple):
    """The flags of a valid question, with its scenario and workload."""

    flags: dict[str, Any]
    scenario: Scenario
    workload: Workload


def questions(seed: int, number: int, start: int = 0) -> Iterator[Question]:
    """Yield random questions that the program accepts."""
    for index in range(start, start + number):
        rng = random.Random(f"question {seed} {index}")
        while (found := _question(rng)) is None:
            pass
        yield found


def _question(rng: random.Random) -> Question | None:
    """Return a random question; None if the program refuses it."""
    flags: dict[str, Any] = {"model_name": rng.choice(MODELS), "gpu_name": rng.choice(GPUS)}
    flags["method"] = rng.choices(["calibrated", "ideal", "published"], [6, 3, 1])[0]
    flags |= {name: rng.choice(values) for name, (share, values) in OPTIONS.items() if rng.random() < share}
    if flags["method"] != "calibrated":
        flags.pop("runtime", None)
    if flags["method"] == "published":
        few = ("model_name", "gpu_name", "dtype_name", "method", "tp_size", "kv_cache_dtype_bytes")
        flags = {name: flags[name] for name in few if name in flags} | {"flops_efficiency": rng.uniform(0.1, 1)}
    if flags.get("tp_size", 1) > 1 and flags["method"] != "published" and rng.random() < 0.2:
        flags["sp_size"] = flags["tp_size"]
    if flags["method"] != "published" and rng.random() < 0.1 and "pp_size" not in flags:
        flags |= {"draft_model_name": rng.choice(["mtp", "llama-3.2-1b", "qwen2.5-0.5b"])}
        flags |= {"num_draft_tokens": rng.randrange(1, 6), "acceptance_rate": round(rng.random(), 2)}
    if rng.random() < 0.3:
        flags["cost_per_gpu_hour"] = round(rng.uniform(0.2, 12), 2)
    try:
        positions = catalog.get_model(flags["model_name"]).max_position_embeddings
        longest = max(min(positions, 32_768) // 2, 1)
        flags["batch_size_per_gpu"] = _between(rng, 1, 512)
        flags["seq_len"] = _between(rng, 1, longest)
        flags["num_tokens_to_generate"] = _between(rng, 1, min(longest, 2048))
        if rng.random() < 0.1 and flags["method"] != "published" and flags["seq_len"] > 1:
            flags["cached_prefix_len"] = rng.randrange(1, flags["seq_len"])
        scenario, workload = question(flags)
        estimate(scenario, workload)
    except LLMAnalysisError:
        return None
    return Question(flags, scenario, workload)


def _between(rng: random.Random, low: int, high: int) -> int:
    """Return a whole number from `low` to `high`, small ones as likely as large ones."""
    return min(int(low * (high / low) ** rng.random() + rng.random()), high)


def command_line(flags: dict[str, Any]) -> list[str]:
    """Return the words that ask the same question on the command line."""
    return ["infer", *(f"--{name}={value}" for name, value in flags.items())]


class Laws:
    """All laws, checked on one question."""

    def __init__(self, question: Question, ask: Callable[..., Any], rng: random.Random) -> None:
        self.flags, self.s, self.w = question
        self.ask, self.rng = ask, rng
        self.price = self.flags.get("cost_per_gpu_hour")
        self.e = estimate(self.s, self.w, self.price)

    def checked(self) -> Iterator[Law]:
        """Yield the identities, and half of the laws that compare the answer with others, with whether they hold."""
        for part in (self.sums, self.memory, self.rates, self.interfaces, self.bounds, self.capacity):
            yield from part()
        for part in (self.longer, self.hardware, self.sharding, self.formats, self.options, self.serving):
            if self.rng.random() < 0.5:
                yield from part()
        if self.rng.random() < 0.2:
            yield from self.explained()

    # Helpers

    def again(self, workload: dict[str, Any] | None = None, **parts: Any) -> Estimate | None:
        """Return the answer with other values of the workload, or other parts of the scenario; None if refused."""
        try:
            return estimate(self._scenario(**parts), self._workload(**(workload or {})), self.price)
        except LLMAnalysisError:
            return None

    def _scenario(self, **parts: Any) -> Scenario:
        method = parts.pop("method", None)
        if method is not None:
            s = self.s
            return Scenario.of(
                s.model, s.gpu, s.dtypes, s.layout, method=method, draft=s.draft,
                kv_cache_dtype_bytes=s.kv_cache_dtype_bytes, layernorm_dtype_bytes=s.layernorm_dtype_bytes,
            )  # fmt: skip
        return self.s.changed(**parts) if parts else self.s

    def _workload(self, **values: Any) -> Workload:
        return Workload(**(dict(self.w) | values))

    def _layout(self, **sizes: int) -> Parallelism:
        return self.s.layout.model_copy(update=sizes)

    def _better(self, factor: float, *names: str) -> GPU:
        """Return the GPU with some of its figures multiplied."""
        figures = {name: value * factor for name in names if (value := getattr(self.s.gpu, name)) is not None}
        return self.s.gpu.model_copy(update=figures)

    @cached_property
    def alone(self) -> list[Op]:
        """The operators of the prefill on one GPU that holds the whole model."""
        return forward(self.s.model, self.w.widest_pass, self.s.dtypes, Parallelism())

    # Laws

    def sums(self) -> Iterator[Law]:
        """Latencies are the sums of their parts."""
        e = self.e
        yield equal("the total is prefill plus decode", e.total_latency, e.prefill_latency + e.total_decode_latency)
        steps = e.num_tokens_to_generate - (self.s.method.name != "published")
        yield equal("decode is its steps", e.total_decode_latency, steps * e.decode_latency)
        yield equal("per token", e.total_per_token_latency * e.num_tokens_to_generate, e.total_latency)
        for phase, latency in (("prefill", e.prefill_latency), ("decode", e.decode_latency)):
            rows = [row for row in e.operators if row.phase == phase]
            yield equal(f"operators of {phase} add up", sum(row.seconds for row in rows), latency)
            yield equal(f"shares of {phase} add up", sum(row.share for row in rows), 1.0)
            low = [max(row.compute_seconds, row.memory_seconds) + row.launch_seconds for row in rows]
            high = [row.compute_seconds + row.memory_seconds + row.launch_seconds for row in rows]
            inside = all(
                least * (1 - ROUNDING)
                <= row.seconds - row.network_seconds
                <= most * (1 + ROUNDING) + ROUNDING * latency
                for row, least, most in zip(rows, low, high, strict=True)
            )
            yield law(f"{phase}: an operator takes its largest term at least, their sum at most", inside, str(rows))
            light = all(0 <= row.achieved_fraction <= 1 for row in rows)
            yield law(f"{phase}: no operator is faster than light", light, str(rows))
        numbers = [value for value in e.as_dict().values() if isinstance(value, float)]
        yield law("all numbers are finite", all(isfinite(value) for value in numbers), str(numbers))
        yield law("latencies are above 0", min(e.prefill_latency, e.decode_latency) > 0, str(e[:40]))

    def memory(self) -> Iterator[Law]:
        """The parts of the memory add up; they are what the operators hold."""
        e = self.e
        classes = [name for name in e._fields if name.endswith("_weight_memory_per_gpu")]
        weights = e.weight_memory_per_gpu
        yield equal("classes of weights add up", sum(getattr(e, name) for name in classes), weights)
        held = weights + e.activation_memory_per_gpu + e.runtime_memory_per_gpu
        parts, cache, share = held + e.kv_cache_memory_per_gpu, e.kv_cache_memory_per_gpu, e.gpu_memory_utilization
        left = {  # by what the fraction of an engine is of
            "everything": share * e.memory_per_gpu - parts,
            "free": share * (e.memory_per_gpu - held) - cache,
            "weights_and_cache": min(share * e.memory_per_gpu - weights - cache, e.memory_per_gpu - parts),
        }[self.s.engine.fraction_of if self.s.engine else "everything"]
        rest = abs(e.memory_left_per_gpu - left)
        yield law("parts of the memory add up", rest <= ROUNDING * e.memory_per_gpu, f"{e.memory_left_per_gpu} {left}")
        yield law("it fits if memory is left", e.fits == (e.memory_left_per_gpu >= 0), f"{e.memory_left_per_gpu}")
        least = min(getattr(e, name) for name in (*classes, "kv_cache_memory_per_gpu", "activation_memory_per_gpu"))
        yield at_least("no part of the memory is negative", least, 0)
        layers = self.s.layout.stages(self.s.model.num_hidden_layers)
        covered = [layer for first, last in layers for layer in range(first, last)]
        yield law("stages cover all layers", covered == list(range(self.s.model.num_hidden_layers)), str(layers))
        if self.w.num_draft_tokens:
            return
        held = [stored(stage_ops(self.s.model, self.w.widest_pass, self.s.dtypes, self.s.layout, *n)) for n in layers]
        yield at_most("the fullest stage is one of the stages", weights, max(held))
        per_gpu = self.s.layout.tp_size * max(self.s.layout.ep_size // self.s.layout.tp_size, 1)
        yield at_least("all GPUs together hold the model", sum(held) * per_gpu, stored(self.alone))
        yield at_most("a GPU holds the model at most", max(held), stored(self.alone))
        bits = min(self.s.dtypes.weight_bits, *(f.weight_bits for f in (self.s.dtypes.experts,) if f), 16)
        yield at_least("weights have their bits", stored(self.alone), e.num_params_total * bits / 8 * 0.98)

    def interfaces(self) -> Iterator[Law]:
        """The command line, the Python API and a sweep give the same answer."""
        plain = self.e.as_dict()
        answer = self.ask(*command_line(self.flags), "--format=json")
        shown = json.loads(answer.out) if answer.status == 0 else {}
        different = [key for key in KEYS if shown.get(key) != json.loads(json.dumps(plain[key]))]
        yield law("JSON equals the Python API", not different, f"{different} {answer.err}")
        if self.rng.random() < 0.3:
            yield from self._other_format(self.rng.choice(["csv", "table", "markdown"]))
        if self.rng.random() < 0.5:
            return
        batches = [self.w.batch_size_per_gpu, self.w.batch_size_per_gpu + 1]
        rows = Sweep(self.flags | {"batch_size_per_gpu": batches}).table()
        names = [name for name in rows if name in plain and plain[name] is not None]
        one = {name: rows[name][0].item() for name in names}
        different = [name for name in names if not same(one[name], plain[name])]
        yield law("a row of a sweep equals infer", not different, str({n: (one[n], plain[n]) for n in different}))

    def _other_format(self, style: str) -> Iterator[Law]:
        """Yield the laws of a format other than JSON."""
        answer = self.ask(*command_line(self.flags), f"--format={style}")
        yield law(f"{style} has an answer", answer.status == 0 and bool(answer.out), answer.err)
        if style == "csv" and answer.status == 0:
            row = next(csv.DictReader(io.StringIO(answer.out)))
            yield law("CSV equals JSON", float(row["total_latency"]) == self.e.total_latency, row["total_latency"])

    def rates(self) -> Iterator[Law]:
        """Throughput is tokens over time, cost is GPUs x price x time."""
        e, dp, n = self.e, self.e.dp_size, self.e.num_tokens_to_generate
        sequences = e.batch_size_per_gpu * e.num_samples
        yield equal("tokens over time", e.total_tokens_per_sec * e.total_latency, dp * sequences * n)
        yield equal("decode tokens over time", e.decode_tokens_per_sec * e.decode_latency, dp * sequences)
        new = e.batch_size_per_gpu * (e.seq_len - e.cached_prefix_len)
        yield equal("prefill tokens over time", e.prefill_tokens_per_sec * e.prefill_latency, dp * new)
        yield equal("tokens of a request", e.request_tokens_per_sec * e.total_latency, n)
        if self.price is not None:
            gpus = self.s.layout.num_gpus
            cost = gpus * self.price / 3600 / e.total_tokens_per_sec * 1e6
            yield equal("cost is GPUs x price x time", e.cost_per_million_tokens, cost)
        for word in LATENCIES:
            low, high = getattr(e, f"{word}_low"), getattr(e, f"{word}_high")
            yield law("both ends of a band, or none", (low is None) == (high is None), f"{low} {high}")
            if low is not None:
                yield within("a band is ordered", low, 0, high)

    def bounds(self) -> Iterator[Law]:
        """No GPU computes faster than its peak; a method is not faster than the speed of light."""
        s, w, e = self.s, self.w, self.e
        peak = max(s.gpu.peak_flops.values()) * s.layout.gpus_of_replica
        new = w.new_prompt_tokens
        whole = forward(s.model, Step(float(w.batch_size_per_gpu), float(new), float(w.cached_prefix_len)), s.dtypes,
                        Parallelism())  # fmt: skip
        flops = sum(float(op.count * op.flops) for op in whole)
        if s.method.name != "published":  # its pass has fewer terms
            yield at_least("the prefill is not faster than the peak", e.prefill_latency, flops / peak)
        step = Step(float(w.num_sequences), 1.0, float(w.seq_len), "decode")
        flops = sum(float(op.count * op.flops) for op in forward(s.model, step, s.dtypes, Parallelism()))
        tokens = w.tokens_per_step
        if s.method.name != "published":
            yield at_least("decode is not faster than the peak", e.decode_latency * tokens, flops / peak)
        if s.method.name == "ideal" and w.use_kv_cache and s.layout.ep_size <= s.layout.tp_size:
            moved = s.gpu.memory_bandwidth * s.layout.gpus_of_replica
            read = sum(float(op.count * op.weight_bytes) for op in forward(s.model, step, s.dtypes, Parallelism()))
            yield at_least("decode reads the weights", e.decode_latency * tokens, read / moved)
        # The peak of method ideal is that of products summed in fp32; some engines sum in fp16, faster on GeForce.
        if s.method.name == "calibrated" and not s.runtime.fp16_accumulate:
            ideal = self.again(method="ideal")
            if ideal is not None:
                for word in ("prefill_latency", "decode_latency"):
                    name = f"calibrated is not faster than ideal: {word}"
                    yield at_least(name, getattr(e, word), getattr(ideal, word))
        if w.prefill_chunk_size is None and s.method.name != "published" and w.use_kv_cache:
            size = self.rng.choice([32, 512, 4096])
            chunked = self.again({"prefill_chunk_size": size})
            if chunked is not None:
                yield at_least("chunks are not faster than the peak", chunked.prefill_latency, self._light(peak))
                # An indexer scores a full row for each token of a pass, so that chunks score less.
                if s.method.name == "ideal" and s.layout.pp_size == 1 and not s.model.index_topk:
                    # Chunks that begin before and after a window is full are one stretch.
                    least = e.prefill_latency * (1 - _OF_WINDOWS * bool(s.model.decode_kinks))
                    yield at_least("chunks are not faster", chunked.prefill_latency, least)

    def _light(self, peak: float) -> float:
        """Return the seconds of the prefill's FLOP at the peak of all GPUs."""
        w, s = self.w, self.s
        step = Step(float(w.batch_size_per_gpu), float(w.new_prompt_tokens), float(w.cached_prefix_len))
        return sum(float(op.count * op.flops) for op in forward(s.model, step, s.dtypes, Parallelism())) / peak

    def longer(self) -> Iterator[Law]:
        """More work takes longer, and needs more memory."""
        e, w = self.e, self.w
        double = self.again({"batch_size_per_gpu": 2 * w.batch_size_per_gpu})
        if self._fills_alike(batch_size_per_gpu=2 * w.batch_size_per_gpu):
            yield from not_faster("twice the batch", double, e)
        if double is not None:
            if self.s.layout.pp_size == 1:  # otherwise another stage may be the fullest one
                kv = 2 * e.kv_cache_memory_per_gpu
                yield equal("twice the batch has twice the cache", double.kv_cache_memory_per_gpu, kv)
                activations = e.activation_memory_per_gpu
                yield at_least("twice the batch: activations", double.activation_memory_per_gpu, activations)
                yield equal("twice the batch: weights", double.weight_memory_per_gpu, e.weight_memory_per_gpu)
            name = "a larger batch has a higher throughput"
            if self.s.method.name == "ideal" and self.s.layout.pp_size == 1 and w.prefill_chunk_size is None:
                yield at_least(name, double.total_tokens_per_sec, e.total_tokens_per_sec)
        for name, size in (("twice the prompt", 2 * w.seq_len), ("one token more in the prompt", w.seq_len + 1)):
            longer = self.again({"seq_len": size})
            # A layer with chunked attention begins anew where a chunk begins.
            chunked = any(mixer.startswith("chunked_attention") for mixer, _ in self.s.model.layer_kinds)
            if self._fills_alike(seq_len=size) and not chunked:
                yield from not_faster(name, longer, e)
            if longer is not None:
                cache = longer.kv_cache_memory_per_gpu
                yield at_least(f"{name}: cache", cache, e.kv_cache_memory_per_gpu)
        more = self.again({"num_tokens_to_generate": w.num_tokens_to_generate + 1})
        if more is not None:
            yield at_least("one token more takes longer", more.total_latency, e.total_latency)
            yield equal("one token more: prefill", more.prefill_latency, e.prefill_latency)

    def hardware(self) -> Iterator[Law]:
        """A better GPU is never slower, and holds no less."""
        factor, e = self.rng.uniform(1.01, 3), self.e
        faster = self.s.gpu.with_more_flops(factor)
        links = ("link_bandwidth", "peer_bandwidth", "pcie_bandwidth", "inter_node_bandwidth")
        for name, gpu in (
            ("more bandwidth", self._better(factor, "memory_bandwidth")),
            ("more FLOP/s", faster),
            ("faster links", self._better(factor, *links)),
        ):
            yield from not_faster(f"without {name}", e, self.again(gpu=gpu))
        larger = self.again(gpu=self._better(factor, "memory_bytes"))
        if larger is not None:
            for word in LATENCIES:
                yield equal("more memory: the same time", getattr(larger, word), getattr(e, word))
            for word in ("max_batch_size_per_gpu", "max_context_len", "memory_left_per_gpu"):
                yield at_least(f"more memory: {word}", getattr(larger, word), getattr(e, word))

    def capacity(self) -> Iterator[Law]:
        """The largest batch and the longest context fit, and one more does not."""
        e, w = self.e, self.w
        batch = e.max_batch_size_per_gpu
        if 0 < batch < 10**8:
            yield law("the largest batch fits", self._fits(batch_size_per_gpu=batch), str(batch))
        if batch < 10**8:
            yield law("one sequence more does not fit", not self._fits(batch_size_per_gpu=batch + 1), str(batch + 1))
        context, n = e.max_context_len, 0 if self.s.model.is_encoder else w.num_tokens_to_generate
        limit = max(self.s.model.max_position_embeddings, w.seq_len + n)
        if context > n + w.cached_prefix_len:
            yield law("the longest context fits", self._fits(seq_len=context - n), str(context))
        if n + w.cached_prefix_len < context < limit:
            yield law("one token more does not fit", not self._fits(seq_len=context - n + 1), str(context + 1))
        yield law("it fits if its context does", e.fits <= (context >= w.seq_len + n), f"{e.fits} {context}")
        yield law("it fits if its batch does", e.fits == (batch >= w.batch_size_per_gpu), f"{e.fits} {batch}")
        less = self._memory(gpu_memory_utilization=w.gpu_memory_utilization / 2)
        yield at_most("half of the memory holds no more", less.max_batch, batch)

    def _memory(self, **values: Any) -> Memory:
        """Return the memory of the workload with other values."""
        return Memory(self.s, self._workload(**values))

    def _fills_alike(self, **values: Any) -> bool:
        """Whether no chunks more fill a pipeline better: the same prompts in more chunks pass through it faster."""
        return self.s.layout.pp_size == 1 or self._workload(**values).fits_one_pass

    def _fits(self, **values: Any) -> bool:
        return bool(self._memory(**values).fits)

    def sharding(self) -> Iterator[Law]:
        """More GPUs hold less each; replicas add throughput, not speed."""
        e, layout = self.e, self.s.layout
        sizes = {"tp_size": 2 * layout.tp_size}
        if layout.sp_size > 1:
            sizes["sp_size"] = 2 * layout.sp_size
        wider = self.again(layout=self._layout(**sizes))
        # The heads of a draft model may not divide by more GPUs: then each GPU holds it whole. Of a pipeline the
        # fullest stage counts, which may be another one with more GPUs.
        alone = layout.ep_size == layout.pp_size == 1 and not isinstance(self.s.draft, ModelConfig)
        if wider is not None and alone:
            for word in ("weight_memory_per_gpu", "kv_cache_memory_per_gpu"):
                yield at_most(f"twice the tp_size: {word}", getattr(wider, word), getattr(e, word))
                half = getattr(e, word) / 2 if not self.w.num_draft_tokens else 0
                yield at_least(f"twice the tp_size: half of {word}", getattr(wider, word), half)
        deeper = self.again(layout=self._layout(pp_size=2 * layout.pp_size))
        if deeper is not None:
            for word in ("weight_memory_per_gpu", "kv_cache_memory_per_gpu"):
                yield at_most(f"twice the pp_size: {word}", getattr(deeper, word), getattr(e, word))
        more = self.again(layout=self._layout(dp_size=2 * layout.dp_size)) if layout.ep_size == 1 else None
        if more is not None:
            for word in LATENCIES:
                yield equal(f"replicas: {word}", getattr(more, word), getattr(e, word))
            yield equal("replicas add throughput", more.total_tokens_per_sec, 2 * e.total_tokens_per_sec)
            yield equal("replicas add GPUs", more.num_gpus, 2 * e.num_gpus)

    def formats(self) -> Iterator[Law]:
        """Narrower formats need less memory."""
        e, w = self.e, self.w
        wide, narrow = (self.again(kv_cache_dtype_bytes=size) for size in (2, 1))
        if wide is not None and narrow is not None:
            for word in ("max_batch_size_per_gpu", "max_context_len"):
                yield at_least(f"a narrower cache: {word}", getattr(narrow, word), getattr(wide, word))
            size = narrow.kv_cache_bytes_per_token
            yield within(
                "a narrower cache has half the bytes", 2 * size, wide.kv_cache_bytes_per_token * (1 - 1e-9), inf
            )
            plain = {mixer for mixer, _ in self.s.model.layer_kinds} <= {"full_attention", "sliding_attention"}
            # Of a pipeline the fullest stage counts, which may be another one with a smaller cache.
            if plain and not w.num_draft_tokens and self.s.layout.pp_size == 1:
                yield equal("half the width is half the cache", 2 * narrow.kv_cache_memory_per_gpu,
                            wide.kv_cache_memory_per_gpu)  # fmt: skip
        found = {name: self.again(dtypes=get_dtypes(name)) for name in ("bf16", "int4")}
        wide, narrow = found["bf16"], found["int4"]
        if wide is not None and narrow is not None:
            yield at_least("narrower weights need less", wide.weight_memory_per_gpu, narrow.weight_memory_per_gpu)
            if self.s.method.name == "ideal":
                name = "narrower weights are not slower to decode"
                yield at_least(name, wide.decode_latency, narrow.decode_latency)
        if self.s.method.name == "published":
            better = self.s.method.efficiencies
            flops = min((better.flops or 1.0) * 1.1, 1.0) if better else 1.0
            faster = Scenario.of(self.s.model, self.s.gpu, self.s.dtypes, self.s.layout, method="published",
                                 efficiencies=Efficiencies(flops, better.memory if better else None),
                                 kv_cache_dtype_bytes=self.s.kv_cache_dtype_bytes)  # fmt: skip
            yield from not_faster("a lower efficiency", e, estimate(faster, self.w))

    def options(self) -> Iterator[Law]:
        """Serving options have their effect."""
        e, w = self.e, self.w
        if self.s.method.name == "published" or not w.use_kv_cache:
            return
        samples = self.again({"num_samples": w.num_samples + 1})
        if samples is not None:
            yield at_least("one sample more: decode", samples.decode_latency, e.decode_latency)
            yield equal("one sample more: prefill", samples.prefill_latency, e.prefill_latency)
            yield at_least("one sample more: cache", samples.kv_cache_memory_per_gpu, e.kv_cache_memory_per_gpu)
        if w.cached_prefix_len == 0 and w.seq_len > 1:
            cached = self.again({"cached_prefix_len": self.rng.randrange(1, int(w.seq_len))})
            if cached is not None:
                if self._fills_alike():
                    # As many chunks of a few tokens read the prefix too.
                    most = e.prefill_latency * (1 + _OF_PREFIXES * (w.prefill_chunk_size is not None))
                    yield at_most("a cached prefix", cached.prefill_latency, most)
                yield equal("a cached prefix: decode", cached.decode_latency, e.decode_latency)
        if not w.disaggregated:
            apart = self.again({"disaggregated": True})
            if apart is not None:
                yield at_least("the cache is sent", apart.prefill_latency, e.prefill_latency)
                yield equal("decode on its own GPUs", apart.decode_latency, e.decode_latency)
        if w.num_draft_tokens:
            better = self.again({"acceptance_rate": min(1.0, (w.acceptance_rate or 0) + 0.1)})
            if better is not None:
                yield at_most("more drafts are accepted", better.decode_latency, e.decode_latency)

    def explained(self) -> Iterator[Law]:
        """The terms of explain add up to the answer of infer."""
        found = explanation(self.s, self.w)
        e = self.e
        yield equal("explain: prefill", sum(t.prefill_seconds for t in found.terms), e.prefill_latency)
        yield equal("explain: decode", sum(t.decode_seconds for t in found.terms), e.decode_latency)
        yield equal("explain: total", sum(t.total_seconds for t in found.terms), e.total_latency)
        yield equal("explain: the same estimate", found.estimate.total_latency, e.total_latency)
        light = [t for t in found.terms if t.name.startswith("light")]
        yield at_least("explain: light", min(min(t.prefill_seconds, t.decode_seconds) for t in light), 0)
        known = ("memory_bandwidth_x1.1", "peak_flops_x1.1", "launch_x0.5", "host_x0.5", "link_bandwidth_x2")
        for saved in found.savings:
            if saved.name in known:
                least = min(saved.prefill_seconds, saved.decode_seconds)
                yield at_least(f"explain: {saved.name} saves", least, -ROUNDING * e.total_latency)

    def serving(self) -> Iterator[Law]:
        """A server in steady state obeys Little's law and its limits; a simulated one loses no token."""
        w, s = self.w, self.s
        if s.method.name == "published" or w.num_tokens_to_generate < 2:
            return
        tokens = float(w.seq_len), float(w.num_tokens_to_generate)
        sizes = sorted(2.0 ** self.rng.uniform(0, 9) * s.layout.dp_size for _ in range(3))
        try:
            states = [steady_state(s, *tokens, size) for size in sizes]
        except LLMAnalysisError:
            return
        for size, state in zip(sizes, states, strict=True):
            in_flight = state.request_throughput * state.e2e
            yield equal("steady state: Little's law", in_flight, size)
            output = state.request_throughput * tokens[1]
            yield equal("steady state: tokens of requests", state.output_token_throughput, output)
        for fewer, more in pairwise(states if tokens[1] >= 32 else ()):
            yield at_least("steady state: TPOT with more in flight", more.tpot, fewer.tpot * (1 - 5e-3))
        if self.rng.random() < 0.1:
            yield from self._simulated(tokens)

    def _simulated(self, tokens: tuple[float, float]) -> Iterator[Law]:
        """Yield the laws of a short simulation."""
        longest = 1.5 * sum(tokens)
        traffic = Traffic(uniform(tokens[0], 0.5), uniform(tokens[1], 0.5), seed=self.rng.randrange(10**6))
        concurrency = self.rng.choice([inf, 8.0 * self.s.layout.dp_size])
        try:
            server = build_server(self.s, longest + 2, tokens[0] + tokens[1] / 2)
            asked = traffic.requests(40, self.rng.choice([inf, 1.0, 20.0]))
            run = server.run(asked, concurrency)
        except LLMAnalysisError:
            return
        found = summarize(run)
        yield law("load: every request is served", len(run.requests) == len(asked), f"{len(run.requests)}")
        out = sum(r.output_tokens for r in asked)
        yield law("load: tokens are conserved", found.total_output_tokens == out, f"{found.total_output_tokens} {out}")
        yield law("load: first before last", all(r.sent < r.first <= r.end for r in run.requests), "")
        latencies = sum(r.end - r.sent for r in run.requests)
        running = run.mean_sequences * run.busy_fraction * run.duration * server.num_replicas
        yield at_most("load: Little's law", running, latencies * (1 + 1e-6))
        yield equal("load: throughput", found.request_throughput * found.duration, len(asked))
        for spread in (found.ttft, found.tpot, found.itl, found.e2e):
            ordered = [spread.median, spread.p90, spread.p95, spread.p99]
            yield law("load: percentiles are ordered", ordered == sorted(ordered), str(spread))
        yield within("load: KV cache", run.peak_kv_tokens / server.policy.kv_tokens, 0, 1 + 1e-9)
        yield within("load: busy", run.busy_fraction, 0, 1 + 1e-9)
        yield at_most("load: running sequences", run.peak_sequences, server.policy.max_num_seqs)
        if concurrency < inf:
            yield at_most("load: in flight", latencies / run.duration, concurrency * (1 + 1e-9))


def stored(ops: list[Op]) -> float:
    """Return the bytes of weights that operators hold."""
    return sum(float(op.count * op.stored_bytes) for op in ops)


def law(name: str, holds: bool, found: str) -> Law:
    """Return a law with whether it holds."""
    return name, bool(holds), found


def equal(name: str, one: Any, other: Any) -> Law:
    """Return the law that two numbers are equal up to rounding."""
    close = one == other or (one is not None and other is not None and isclose(one, other, rel_tol=ROUNDING))
    return law(name, close, f"{one!r} is not {other!r}")


def at_least(name: str, one: Any, least: Any) -> Law:
    """Return the law that a number is not below another, up to rounding."""
    return law(name, one >= least - ROUNDING * abs(least), f"{one!r} is below {least!r}")


def at_most(name: str, one: Any, most: Any) -> Law:
    """Return the law that a number is not above another, up to rounding."""
    return law(name, one <= most + ROUNDING * abs(most), f"{one!r} is above {most!r}")


def within(name: str, one: Any, low: Any, high: Any) -> Law:
    """Return the law that a number lies between two others."""
    return law(name, low <= one <= high, f"{one!r} is not between {low!r} and {high!r}")


def not_faster(name: str, slow: Estimate | None, fast: Estimate | None) -> Iterator[Law]:
    """Yield the laws that no latency of one answer is below that of another; none if a question was refused."""
    if slow is not None and fast is not None:
        for word in LATENCIES:
            yield at_least(f"{name} is not faster: {word}", getattr(slow, word), getattr(fast, word))


def same(one: Any, other: Any) -> bool:
    """Return whether a cell of a sweep equals a value of infer; a sum of powers may differ in the last digits."""
    if isinstance(other, float) and isinstance(one, (int, float)):
        return one == other or isclose(one, other, rel_tol=1e-12)
    return bool(one == other)


def broken(question: Question, ask: Callable[..., Any], seed: str, counts: Counter[str]) -> list[str]:
    """Return the laws that a question breaks, as text; add the number of checks of each law to `counts`."""
    found = []
    for name, holds, problem in Laws(question, ask, random.Random(seed)).checked():
        counts[name] += 1
        if not holds:
            found.append(f"{name}: {problem}")
    return found


def main(number: int, seed: int, first: int) -> int:
    """Ask the questions and print what is broken. Return the number of violations."""
    from conftest import asked

    counts, violations, start = Counter[str](), 0, time.monotonic()
    slowest = (0.0, "")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for index, question in enumerate(questions(seed, number, first), first):
            begun = time.process_time()
            try:
                problems = broken(question, asked, f"laws {seed} {index}", counts)
            except Exception as error:  # a broken law must not hide the next ones
                problems = [f"{type(error).__name__}: {error}"]
            slowest = max(slowest, (time.process_time() - begun, " ".join(command_line(question.flags))))
            violations += len(problems)
            if problems:
                print(f"question {seed} {index}: {' '.join(command_line(question.flags))}", *problems, sep="\n    ")
                sys.stdout.flush()
    seconds = time.monotonic() - start
    print(f"{number:,} questions, {counts.total():,} checks of {len(counts)} laws: {violations} violations")
    print(f"{seconds:.0f} s; the slowest question took {slowest[0]:.1f} s: {slowest[1]}")
    print(*(f"{count:9,} {name}" for name, count in counts.most_common()), sep="\n")
    return violations


if __name__ == "__main__":
    sys.path.insert(0, str(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
    numbers = [int(each) for each in sys.argv[1:]] + [10_000, 1, 0][len(sys.argv) - 1 :]
    sys.exit(main(*numbers) > 0)
