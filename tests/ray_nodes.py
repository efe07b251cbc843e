"""A Ray cluster of two nodes on this machine: `python ray_nodes.py`.

Prints the address of the cluster. Then takes orders, one a line, and answers each with a line:
`kill` ends the second node at once, `add` starts another in its place.
"""

from __future__ import annotations

import sys

from ray.cluster_utils import Cluster

MEMORY = 200 << 20


def main() -> None:
    """Keep the cluster until the input ends."""
    head = {"num_cpus": 1, "object_store_memory": MEMORY, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
        sys.stdout.write(f"{cluster.address}\n")
        sys.stdout.flush()
        for line in sys.stdin:
            if line.strip() == "kill":
                cluster.remove_node(node, allow_graceful=False)
            else:
                node = cluster.add_node(num_cpus=1, object_store_memory=MEMORY)
            sys.stdout.write("done\n")
            sys.stdout.flush()
    finally:
        cluster.shutdown()


if __name__ == "__main__":
    main()
