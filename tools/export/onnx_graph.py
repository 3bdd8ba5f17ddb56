"""Makes an exported graph small without changing what it computes or how the exporter spelled it."""


def without_strings(model):
    """Drops documentation and type annotations of intermediate values: they repeat what the graph says."""
    model.doc_string = model.graph.doc_string = ""
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    return model


def share_equal_nodes(graph):
    """Keeps the first of every set of nodes with the same operator, inputs and attributes.

    A dynamic graph of the TorchScript exporter asks for the same shape and spells out the same constant hundreds of
    times.
    """
    outputs = {o.name for o in graph.output}
    first, renamed, kept = {}, {}, []
    for node in graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = renamed.get(name, name)
        attributes = tuple(a.SerializeToString(deterministic=True) for a in node.attribute)
        key = (node.domain, node.op_type, tuple(node.input), attributes, len(node.output))
        same = first.setdefault(key, node)
        if same is node or node.op_type.startswith("Random") or outputs & set(node.output):
            kept.append(node)
        else:
            renamed.update(zip(node.output, same.output))
    del graph.node[:]
    graph.node.extend(kept)
    return len(renamed)
