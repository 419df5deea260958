"""TODO."""

from __future__ import annotations

from llm_analysis.physics.operators import Op
from llm_analysis.units import Quantity


def collective(
    name: str, kind: str, wire_bytes: Quantity, group: int, *, count: Quantity = 1.0, span: int | None = None
) -> list[Op]:
    """A collective among `group` GPUs; none at all for a group of one.

    `wire_bytes` is what one GPU sends, `span` how many consecutive GPUs the group reaches over (which link it needs).
    """
    if group == 1:
        return []
    return [
        Op(name=name, kind=kind, count=count, span=span or group, messages=group - 1.0, wire_bytes=wire_bytes),
    ]


def over_nodes(group: int, node: int) -> tuple[int, int]:
    """GPUs of a group in each node (in the fullest, where they do not share out evenly), and nodes of `node` GPUs."""
    nodes = -(-group // node)
    return -(-group // nodes), nodes


def all_reduce(name: str, message_bytes: Quantity, group: int, *, node: int, count: Quantity = 1.0) -> list[Op]:
    """All-reduce of a message of `message_bytes` over `group` GPUs, `node` of which share the fast link.

    Inside a node each GPU sends 2 (t-1)/t M. Over n nodes the usual hierarchy: reduce-scatter and all-gather inside
    the node, and an all-reduce of each GPU's 1/t part with its n-1 counterparts.
    """
    inside, nodes = over_nodes(group, node)
    local = collective(name, "all_reduce", 2.0 * (inside - 1) / inside * message_bytes, inside, count=count)
    part = message_bytes / inside
    across = collective(
        f"{name}_inter_node", "all_reduce", 2.0 * (nodes - 1) / nodes * part, nodes, count=count, span=group
    )
    return local + across


def all_gather(
    name: str, message_bytes: Quantity, group: int, *, node: int, count: Quantity = 1.0, stride: int = 1
) -> list[Op]:
    """All-gather of `message_bytes` in all, a part on each of `group` GPUs that lie `stride` apart.

    Inside a node each GPU sends (t-1)/t M. Over n nodes each GPU's part goes to its n-1 counterparts first.
    """
    inside, nodes = over_nodes(group, max(node // stride, 1))
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
    """Tokens of each of `group` GPUs, `token_bytes` in all, to `copies` GPUs each, evenly; or back. Own copies stay.

    Over n nodes a token goes once to each node that needs it, an expected (n - 1) (1 - (1 - 1/n)^copies) others, and on
    to its GPUs inside the node; on the way back they are added up there first (as in DeepEP, DeepSeek's library).
    """
    inside, nodes = over_nodes(group, max(node // stride, 1))
    near, others = copies * (inside - 1) / inside, (nodes - 1) * (1.0 - (1.0 - 1.0 / nodes) ** copies)
    local = collective(name, "all_to_all", token_bytes * near, inside, count=count, span=inside * stride)
    return local + collective(
        f"{name}_inter_node", "all_to_all", token_bytes * others, nodes, count=count, span=group * stride
    )
