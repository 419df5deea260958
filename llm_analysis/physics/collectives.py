"""Collectives: bytes that one GPU sends, and the number of consecutive messages.

A collective over several nodes is two operators: one inside the nodes, one between them, each over its own link.
"""

from __future__ import annotations

from llm_analysis.physics.operators import Op
from llm_analysis.units import Quantity


def collective(
    name: str, kind: str, wire_bytes: Quantity, group: int, *, count: Quantity = 1.0, span: int | None = None
) -> list[Op]:
    """Return a collective among `group` GPUs as a list of one operator; an empty list for a group of one.

    `wire_bytes` is sent by each GPU. `span` is the number of consecutive GPUs from the first to the last of the group;
    it determines the link.
    """
    if group == 1:
        return []
    return [
        Op(name=name, kind=kind, count=count, span=span or group, messages=group - 1.0, wire_bytes=wire_bytes),
    ]


def _over_nodes(group: int, node: int) -> tuple[int, int]:
    """Return the GPUs of a group in its fullest node, and the number of nodes with `node` GPUs each."""
    nodes = -(-group // node)
    return -(-group // nodes), nodes


def all_reduce(name: str, message_bytes: Quantity, group: int, *, node: int, count: Quantity = 1.0) -> list[Op]:
    """Return the all-reduce of `message_bytes` over `group` GPUs in nodes of `node` GPUs.

    Inside a node each of t GPUs sends 2 (t-1)/t M. Over n nodes: reduce-scatter and all-gather inside the node, and an
    all-reduce of each GPU's 1/t part with its n-1 counterparts.
    """
    inside, nodes = _over_nodes(group, node)
    local = collective(name, "all_reduce", 2.0 * (inside - 1) / inside * message_bytes, inside, count=count)
    part = message_bytes / inside
    across = collective(
        f"{name}_inter_node", "all_reduce", 2.0 * (nodes - 1) / nodes * part, nodes, count=count, span=group
    )
    return local + across


def all_gather(
    name: str, message_bytes: Quantity, group: int, *, node: int, count: Quantity = 1.0, stride: int = 1
) -> list[Op]:
    """Return the all-gather of `message_bytes` in total over `group` GPUs that are `stride` apart.

    Inside a node each of t GPUs sends (t-1)/t M. Over n nodes, each GPU first sends its part to its n-1 counterparts.
    """
    inside, nodes = _over_nodes(group, max(node // stride, 1))
    wire, part = message_bytes * (inside - 1) / inside, message_bytes / inside * (nodes - 1) / nodes
    local = collective(name, "all_gather", wire, inside, count=count, span=inside * stride)
    return local + collective(f"{name}_inter_node", "all_gather", part, nodes, count=count, span=group * stride)


def all_to_all(
    name: str,
    token_bytes: Quantity,
    copies: float,
    group: int,
    *,
    node: int,
    count: Quantity = 1.0,
    stride: int = 1,
) -> list[Op]:
    """Return the all-to-all that sends the tokens of each GPU, `token_bytes` in total, to `copies` GPUs each, or back.

    Destinations are spread evenly over the `group` GPUs; a copy for the same GPU is not sent. Over n nodes, a token
    goes once to each node that needs it, (n - 1) (1 - (1 - 1/n)^copies) other nodes on average, and from there to the
    GPUs of the node. On the way back, the outputs are added up inside the node first (as in DeepEP).
    """
    inside, nodes = _over_nodes(group, max(node // stride, 1))
    near, others = copies * (inside - 1) / inside, (nodes - 1) * (1.0 - (1.0 - 1.0 / nodes) ** copies)
    local = collective(name, "all_to_all", token_bytes * near, inside, count=count, span=inside * stride)
    return local + collective(
        f"{name}_inter_node", "all_to_all", token_bytes * others, nodes, count=count, span=group * stride
    )
