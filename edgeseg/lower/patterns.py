"""Rewrites of the ONNX graph before lowering. Each is exact; what they do not recognise stays as it is."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from edgeseg.lower.dimensions import spell_out_running_sums, window_two_axes
from edgeseg.lower.ops_norm import batch_norm_terms
from edgeseg.lower.scalar_functions import recognise
from edgeseg.lower.scaling import fold_scales, scale_operands
from edgeseg.lower.source import AttrValue, Node, Source
from edgeseg.lower.views import compose_views

__all__ = ["rewrite"]


def rewrite(source: Source) -> None:
    """Apply all patterns, in place."""
    fold_batch_norm(source)
    merge_pads(source)
    recognise(source)
    gate_as_hard_swish(source)
    divide_by_root(source)
    scale_operands(source)
    fold_scales(source)
    name_group_norm(source)
    name_pixel_shuffle(source)
    order_shuffled_channels(source)
    name_max_unpool(source)
    spell_out_fold(source)
    window_two_axes(source)
    spell_out_running_sums(source)
    compose_views(source)
    source.prune()


def _only_consumer(source: Source, name: str) -> Node | None:
    """The one node that reads ``name``, once; None where it is read elsewhere or is an output."""
    readers = source.consumers().get(name, [])
    return readers[0] if len(readers) == 1 and name not in source.outputs else None


def _replace(source: Source, old: Node, new: Node) -> None:
    source.nodes[source.nodes.index(old)] = new


def fold_batch_norm(source: Source) -> None:
    """Conv or ConvTranspose, then BatchNormalization: the norm's factor goes into the weights, the rest into the bias."""
    producers = source.producers()
    for norm in [node for node in source.nodes if node.op == "BatchNormalization"]:
        conv = producers.get(norm.inputs[0])
        if conv is None or conv.op not in {"Conv", "ConvTranspose"} or _only_consumer(source, conv.outputs[0]) is None:
            continue
        names = (*norm.inputs[1:5], conv.inputs[1], *filter(None, [conv.input(2)]))
        if any(name not in source.constants for name in names):
            continue
        scale, bias, mean, variance = (source.constants[name] for name in norm.inputs[1:5])
        factor, shift = batch_norm_terms(scale, bias, mean, variance, norm.real("epsilon", 1e-5))
        weights = source.constants[conv.inputs[1]].astype(np.float64)
        if conv.op == "Conv":
            weights = weights * factor.reshape(-1, *[1] * (weights.ndim - 1))
        else:
            groups = conv.integer("group", 1)
            per_group = factor.reshape(groups, 1, -1, *[1] * (weights.ndim - 2))
            shaped = weights.reshape(groups, -1, *weights.shape[1:])
            weights = (shaped * per_group).reshape(weights.shape)
        if conv.input(2):
            shift = shift + source.constants[conv.inputs[2]].astype(np.float64) * factor
        weight_name = source.add_constant(conv.inputs[1], weights.astype(np.float32))
        bias_name = source.add_constant(conv.input(2) or norm.inputs[2], shift.astype(np.float32))
        folded = replace(conv, inputs=(conv.inputs[0], weight_name, bias_name), outputs=norm.outputs)
        source.nodes.remove(norm)
        _replace(source, conv, folded)
        producers[norm.outputs[0]] = folded


def merge_pads(source: Source) -> None:
    """A Pad with zeros before a Conv becomes the Conv's own padding."""
    producers = source.producers()
    for conv in [node for node in source.nodes if node.op == "Conv"]:
        pad = producers.get(conv.inputs[0])
        own = conv.integers("pads") or (0, 0, 0, 0)
        if pad is None or pad.op != "Pad" or pad.text("mode", "constant") != "constant":
            continue
        if conv.text("auto_pad", "NOTSET") != "NOTSET" or len(own) != 4 or pad.input(3):
            continue
        given = pad.integers("pads")
        if given is None and pad.input(1) in source.constants:
            given = tuple(int(item) for item in source.constants[pad.inputs[1]])
        value = source.scalar(pad.input(2)) if pad.input(2) else pad.real("value", 0.0)
        if given is None or value != 0.0 or len(given) != 8 or min(given) < 0 or any(given[i] for i in (0, 1, 4, 5)):
            continue
        pads = (own[0] + given[2], own[1] + given[3], own[2] + given[6], own[3] + given[7])
        merged = replace(conv, inputs=(pad.inputs[0], *conv.inputs[1:]), attrs={**conv.attrs, "pads": pads})
        _replace(source, conv, merged)


def gate_as_hard_swish(source: Source) -> None:
    """x * HardSigmoid(x) with slope 1/6 and offset 1/2 is HardSwish."""
    producers = source.producers()
    for product in [node for node in source.nodes if node.op == "Mul"]:
        for first, second in (product.inputs, product.inputs[::-1]):
            gate = producers.get(second)
            if gate is None or gate.op != "HardSigmoid" or gate.inputs[0] != first:
                continue
            if abs(gate.real("alpha", 0.2) - 1 / 6) < 1e-6 and abs(gate.real("beta", 0.5) - 0.5) < 1e-6:
                _replace(source, product, replace(product, op="HardSwish", inputs=(first,)))
                break


def divide_by_root(source: Source) -> None:
    """a / sqrt(b) is a * rsqrt(b), which is cheaper: b is a variance, far smaller than a."""
    producers = source.producers()
    for quotient in [node for node in source.nodes if node.op == "Div"]:
        root = producers.get(quotient.inputs[1])
        if root is None or root.op != "Sqrt" or root.inputs[0] in source.constants:
            continue
        name = f"{root.outputs[0]}/rsqrt"
        if name not in source.shapes:
            source.shapes[name], source.dtypes[name] = source.shapes[root.outputs[0]], "float32"
            inverse = Node("Rsqrt", f"{root.name}/rsqrt", root.inputs, (name,))
            source.nodes.insert(source.nodes.index(root), inverse)
        _replace(source, quotient, replace(quotient, op="Mul", inputs=(quotient.inputs[0], name)))


def name_group_norm(source: Source) -> None:
    """Reshape to (N, groups, rest), InstanceNormalization, Reshape back is GroupNormalization. In channels-last storage the
    merged axis would not lie in one piece."""
    producers = source.producers()
    for last in [node for node in source.nodes if node.op == "Reshape"]:
        norm = producers.get(last.inputs[0])
        if norm is None or norm.op != "InstanceNormalization":
            continue
        first = producers.get(norm.inputs[0])
        if first is None or first.op != "Reshape":
            continue
        whole, split = source.shapes[first.inputs[0]], source.shapes[first.outputs[0]]
        if source.shapes[last.outputs[0]] != whole or len(split) != 3 or split[0] != whole[0] or whole[1] % split[1]:
            continue
        scale, bias = (source.constants.get(name) for name in norm.inputs[1:3])
        if scale is None or bias is None:
            continue
        repeated = [np.repeat(item, whole[1] // split[1]) for item in (scale, bias)]
        names = [
            source.add_constant(f"{last.outputs[0]}/{what}", item)
            for what, item in zip(("scale", "bias"), repeated, strict=True)
        ]
        settings: dict[str, AttrValue] = {"num_groups": split[1], "epsilon": norm.real("epsilon", 1e-5)}
        grouped = Node("GroupNormalization", norm.name, (first.inputs[0], *names), last.outputs, settings)
        _replace(source, last, grouped)


_SHUFFLES = {
    ((1, 2, 3), (0, 1, 4, 2, 5, 3)): "CRD",  # (N, C, r, r, H, W)
    ((3, 1, 2), (0, 3, 4, 1, 5, 2)): "DCR",  # (N, r, r, C, H, W)
}


def name_pixel_shuffle(source: Source) -> None:
    """Reshape, Transpose, Reshape as exporters write a pixel shuffle is DepthToSpace."""
    producers = source.producers()
    for last in [node for node in source.nodes if node.op == "Reshape"]:
        swap = producers.get(last.inputs[0])
        first = producers.get(swap.inputs[0]) if swap is not None and swap.op == "Transpose" else None
        if swap is None or first is None or first.op != "Reshape":
            continue
        split, before = source.shapes[first.outputs[0]], source.shapes[first.inputs[0]]
        for ((channel, down, across), axes), mode in _SHUFFLES.items():
            if len(split) != 6 or len(before) != 4 or swap.integers("perm") != axes:
                continue
            block = split[down]
            batch, inner, height, width = split[0], split[channel], split[4], split[5]
            fits = block == split[across] and before == (batch, inner * block * block, height, width)
            if fits and source.shapes[last.outputs[0]] == (batch, inner, height * block, width * block):
                attrs: dict[str, AttrValue] = {"blocksize": block, "mode": mode}
                _replace(source, last, Node("DepthToSpace", last.name, first.inputs[:1], last.outputs, attrs))
                break


def order_shuffled_channels(source: Source) -> None:
    """A convolution right before a pixel shuffle gives its channels in the order that DEPTH_TO_SPACE wants."""
    producers = source.producers()
    for shuffle in [node for node in source.nodes if node.op == "DepthToSpace" and node.text("mode", "DCR") == "CRD"]:
        conv = producers.get(shuffle.inputs[0])
        if conv is None or conv.op != "Conv" or conv.integer("group", 1) != 1:
            continue
        names = [name for name in conv.inputs[1:] if name]
        if _only_consumer(source, conv.outputs[0]) is None or any(name not in source.constants for name in names):
            continue
        block = shuffle.integer("blocksize", 1) ** 2
        channels = source.shapes[conv.outputs[0]][1]
        order = np.arange(channels).reshape(channels // block, block).T.reshape(-1)
        reordered = [source.add_constant(name, source.constants[name][order]) for name in names]
        _replace(source, conv, replace(conv, inputs=(conv.inputs[0], *reordered)))
        _replace(source, shuffle, replace(shuffle, attrs={**shuffle.attrs, "mode": "DCR"}))


def name_max_unpool(source: Source) -> None:
    """What exporters make of a max unpooling, a scatter to the places that a max pooling found, is MaxUnpool of the pooling's
    input and the values. Only windows that neither overlap nor leave gaps."""
    producers = source.producers()
    for last in [node for node in source.nodes if node.op == "Reshape"]:
        scatter = producers.get(last.inputs[0])
        if scatter is None or scatter.op != "ScatterND" or scatter.text("reduction", "none") != "none":
            continue
        zeros = source.constants.get(scatter.inputs[0])
        pool = _pool_of_indices(source, producers, scatter.inputs[1])
        if zeros is None or np.any(zeros) or pool is None or not _tiles(source, pool):
            continue
        values = producers.get(scatter.inputs[2])
        pooled = source.shapes[pool.outputs[0]]
        if values is None or values.op != "Reshape" or source.shapes[values.inputs[0]] != pooled:
            continue
        if source.shapes[last.outputs[0]] == source.shapes[pool.inputs[0]]:
            _replace(source, last, Node("MaxUnpool", last.name, (pool.inputs[0], values.inputs[0]), last.outputs, pool.attrs))


def _tiles(source: Source, pool: Node) -> bool:
    """Whether the windows of a pooling cover its input once."""
    kernel = pool.integers("kernel_shape") or ()
    plain = not any(pool.integers("pads") or ()) and set(pool.integers("dilations") or (1,)) == {1}
    size = source.shapes[pool.inputs[0]][2:]
    return plain and kernel == pool.integers("strides") and not any(a % b for a, b in zip(size, kernel, strict=True))


def _pool_of_indices(source: Source, producers: dict[str, Node], name: str) -> Node | None:
    """The max pooling whose places, as indices into the whole flat output, ``name`` holds.

    onnx counts its indices over the whole tensor, PyTorch within a channel: the exporter subtracts each channel's first index
    (that of a pooling of single pixels) and adds it again for the scatter.
    """
    node = producers.get(name)
    while node is not None and node.op in {"Unsqueeze", "Reshape"}:
        node = producers.get(node.inputs[0])
    if node is None or node.op != "Add":
        return None
    offsets = [item for item in node.inputs if item in source.constants]
    within = producers.get(next((item for item in node.inputs if item not in source.constants), ""))
    if len(offsets) != 1 or within is None or within.op != "Sub":
        return None
    pool, first = producers.get(within.inputs[0]), producers.get(within.inputs[1])
    single = producers.get(first.inputs[0]) if first is not None and first.op == "Slice" else None
    if pool is None or single is None or {pool.op, single.op} != {"MaxPool"} or pool.inputs != single.inputs:
        return None
    if within.inputs[0] != pool.outputs[1] or single.integers("kernel_shape") != (1, 1):
        return None
    batch, channels, height, width = source.shapes[pool.inputs[0]]
    starts = np.arange(channels).reshape(1, channels, 1, 1) * (height * width)
    same = np.array_equal(np.broadcast_to(source.constants[offsets[0]], starts.shape), starts)
    return pool if batch == 1 and same and source.shapes[within.inputs[1]] == starts.shape else None


def spell_out_fold(source: Source) -> None:
    """Col2Im of blocks that neither overlap nor leave gaps is a reshape, a transpose and a reshape."""
    for fold in [node for node in source.nodes if node.op == "Col2Im"]:
        block = source.constants.get(fold.inputs[2])
        if (
            block is None
            or len(block) != 2
            or any(fold.integers("pads") or ())
            or set(fold.integers("dilations") or (1,)) != {1}
        ):
            continue
        down, across = (int(item) for item in block)
        batch, channels, height, width = source.shapes[fold.outputs[0]]
        if fold.integers("strides") != (down, across) or height % down or width % across:
            continue
        name = fold.outputs[0]
        split = (batch, channels, down, across, height // down, width // across)
        turned = tuple(split[axis] for axis in (0, 1, 4, 2, 5, 3))
        for made, shape in ((f"{name}/split", split), (f"{name}/turned", turned)):
            source.shapes[made], source.dtypes[made] = shape, source.dtypes[name]
        targets = [source.add_constant(f"{name}/shape", np.asarray(shape, np.int64)) for shape in (split, source.shapes[name])]
        position = source.nodes.index(fold)
        source.nodes[position : position + 1] = [
            Node("Reshape", f"{name}/split", (fold.inputs[0], targets[0]), (f"{name}/split",)),
            Node("Transpose", f"{name}/turned", (f"{name}/split",), (f"{name}/turned",), {"perm": (0, 1, 4, 2, 5, 3)}),
            Node("Reshape", fold.name, (f"{name}/turned", targets[1]), (name,)),
        ]
