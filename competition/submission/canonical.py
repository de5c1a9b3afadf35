"""A SavedModel whose bytes depend on nothing but what is in it.

TensorFlow numbers functions by how many the process has traced, and names nodes after Keras' layers, which are numbered
by how many there have been. Neither means anything: here they get numbers of their own.
"""

import re

NUMBER = re.compile(r"_(\d+)$")
KERAS = re.compile(r"functional_\d+")  # how Keras numbers its models: in the names of constants, say


def normalise_saved_model(folder):
    """Rewrite the SavedModel in a folder so that every process, whatever it did before, writes the same bytes.

    `fingerprint.pb` holds a random number; nothing needs it. How a protobuf orders its maps is up to the process.
    """
    from tensorflow.core.protobuf import saved_model_pb2

    (folder / "fingerprint.pb").unlink(missing_ok=True)
    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    for graph in model.meta_graphs:
        _number_functions(graph)
        _forget_process(graph.graph_def.node)
        renamed = {function.signature.name: _number_nodes(function) for function in graph.graph_def.library.function}
        for node in graph.object_graph_def.nodes:
            if node.HasField("captured_tensor"):  # what a gradient of its own (silu's, in EfficientNets) reads
                tensor = node.captured_tensor
                tensor.name = renamed[tensor.concrete_function](tensor.name)
    file.write_bytes(model.SerializeToString(deterministic=True))


def _number_functions(graph):
    """Number the functions of a MetaGraphDef by the order in which they were traced, and sort them so."""

    def traced(function):
        number = NUMBER.search(function.signature.name)
        return int(number[1]) if number else -1, function.signature.name

    library = graph.graph_def.library
    functions = sorted(library.function, key=traced)
    names = {
        function.signature.name: NUMBER.sub("", function.signature.name) + f"_{number}"
        for number, function in enumerate(functions)
    }
    gradients = sorted(library.registered_gradients, key=lambda gradient: names[gradient.gradient_func])
    names |= {gradient.registered_op_type: f"CustomGradient-{number}" for number, gradient in enumerate(gradients)}
    functions = [type(function).FromString(function.SerializeToString()) for function in functions]
    del library.function[:]
    library.function.extend(functions)
    _replace(graph, names)


def _replace(message, names):
    """Replace every text in a message, and in all that it holds, that is one of `names`: {before: after}."""
    for field, value in message.ListFields():
        if hasattr(value, "ListFields"):
            _replace(value, names)
        elif isinstance(value, (str, bytes)):
            setattr(message, field.name, _renamed(value, names))
        elif hasattr(value, "items"):
            _replace_in_map(value, names)
        elif hasattr(value, "__getitem__"):
            for i, inner in enumerate(value):
                if hasattr(inner, "ListFields"):
                    _replace(inner, names)
                elif isinstance(inner, (str, bytes)):
                    value[i] = _renamed(inner, names)


def _replace_in_map(pairs, names):
    for key, inner in list(pairs.items()):
        if not hasattr(inner, "ListFields"):
            del pairs[key]
            pairs[_renamed(key, names)] = _renamed(inner, names)
            continue
        _replace(inner, names)
        if _renamed(key, names) != key:
            kept = inner.SerializeToString()
            del pairs[key]
            pairs[_renamed(key, names)].ParseFromString(kept)


def _renamed(text, names):
    if isinstance(text, bytes):
        return names.get(text.decode("latin-1"), text.decode("latin-1")).encode("latin-1")
    return names.get(text, text) if isinstance(text, str) else text


def _forget_process(nodes):
    """Remove the process's number of threads and its GPU from the calls of functions."""
    for node in nodes:
        if "config_proto" in node.attr:
            node.attr["config_proto"].s = b""


def _number_nodes(function):
    """Name the nodes and outputs of a FunctionDef by their order; returns what renames "node:output".

    Variables that it has from outside are called after the object's number in the process: they lose that name.
    """
    for argument in function.arg_attr.values():
        name = argument.attr["_user_specified_name"].s
        if name.isdigit() or not name or KERAS.search(name.decode()):
            del argument.attr["_user_specified_name"]
    names = {node.name: f"{node.op}_{number}" for number, node in enumerate(function.node_def)}
    names |= {
        argument.name: f"captured_{number}"
        for number, argument in enumerate(function.signature.input_arg)
        if KERAS.search(argument.name)
    }
    for argument in function.signature.input_arg:
        argument.name = names.get(argument.name, argument.name)

    def renamed(reference):
        """Of "node", "node:output:0", "^node"; the name of an argument stays."""
        hat, name = reference[: reference.startswith("^")], reference.removeprefix("^")
        name, *rest = name.split(":")
        return hat + ":".join([names.get(name, name), *rest])

    for node in function.node_def:
        node.name = names[node.name]
        node.ClearField("experimental_debug_info")
        node.input[:] = [renamed(reference) for reference in node.input]
        if "_class" in node.attr:  # "loc:@node": where it is to be placed
            places = node.attr["_class"].list.s
            places[:] = [b"loc:@" + renamed(place.decode().removeprefix("loc:@")).encode() for place in places]
    _forget_process(function.node_def)
    outputs = [function.ret[output.name] for output in function.signature.output_arg]
    function.ret.clear()
    for number, (output, reference) in enumerate(zip(function.signature.output_arg, outputs)):
        output.name = f"output_{number}"
        function.ret[output.name] = renamed(reference)
    controls = dict(function.control_ret)
    function.control_ret.clear()
    for node in controls.values():
        function.control_ret[names[node]] = names[node]
    function.signature.control_output[:] = [names[controls[key]] for key in function.signature.control_output]
    return renamed
