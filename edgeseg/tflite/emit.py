"""The quantizing emitter: a float graph and a plan in, a mixed integer and float graph out.

Every operator runs in the domain the plan gives it. Where a tensor crosses domains, or an operator needs it at another scale,
one QUANTIZE or DEQUANTIZE is inserted and shared by all who need that form. Scales are never coupled backwards: an
operator that must have one scale (a concatenation) has that of its own output, and inputs that differ are requantized.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from edgeseg.errors import StageError
from edgeseg.quantize.learned import LayerWeights
from edgeseg.quantize.plan import Domain, QuantPlan, TensorQuant
from edgeseg.spec import IoType
from edgeseg.tflite.builder import GraphBuilder
from edgeseg.tflite.graph import OptionValue, Quant, TfGraph, TfOp
from edgeseg.tflite.support import RELU_LIMITS, RULES, OpRule, Scales, fixed_output, obstacle, requantizes, saturates_alike
from edgeseg.tflite.weights import LIMITS, Rounding, constant_range, float32, quantize_array, quantize_linear, widened

__all__ = ["quantize"]

_STAGE = "quantize_tflite"
_UINT8_SHIFT = 128


@dataclass(frozen=True)
class _Form:
    """A representation of a tensor's values; ``quant`` is None for float."""

    dtype: str
    quant: Quant | None = None


_FLOAT = _Form("float32")


def quantize(
    graph: TfGraph,
    plan: QuantPlan,
    *,
    io: IoType = IoType.FLOAT32,
    integer_only: bool = False,
    rounding: Rounding = Rounding.BALANCED,
    learned: Mapping[str, LayerWeights] | None = None,
) -> TfGraph:
    """The graph with each operator in its planned domain.

    Tensors keep their names in the form their operator computes (or, for inputs and outputs, in the form the file shows);
    other forms have a suffix: ``x_int8``, ``x_float32``. An output whose kernel prescribes the scale has that
    one; where a kernel takes no scale so small, the output has the smallest that it takes.

    Args:
        graph: float, not changed.
        plan: operators it does not name stay float; it needs an entry in ``tensors`` for every activation that an integer
            operator reads or writes.
        io: the type of the file's float inputs and outputs. uint8 is int8 with all integers 128 higher. Outputs that are
            no float in the given graph (an argmax) stay as they are.
        integer_only: convert between integers directly, also where the delegate does not and the way through float is
            faster; for hardware without float.
        rounding: of weights; see Rounding.
        learned: weights of integer operators that were learned for this plan, by operator; the others are rounded.

    Raises:
        StageError: the plan asks for what no kernel does, or lacks a tensor.
    """
    return _Emitter(graph, plan, io, learned or {}, integer_only=integer_only, rounding=rounding).run()


class _Emitter:
    def __init__(
        self,
        graph: TfGraph,
        plan: QuantPlan,
        io: IoType,
        learned: Mapping[str, LayerWeights],
        *,
        integer_only: bool,
        rounding: Rounding,
    ) -> None:
        self._learned = learned
        self._integer_only = integer_only
        self._rounding = rounding
        self._graph = graph
        self._plan = plan
        self._io = io
        self._domains = {entry.op: entry.domain for entry in plan.ops}
        self._build = GraphBuilder(TfGraph({}, [], (), ()))
        self._native: dict[str, _Form] = {}
        self._forms: dict[tuple[str, _Form], str] = {}
        self._boundary = {name for name in (*graph.inputs, *graph.outputs) if graph.tensors[name].dtype == "float32"}
        self._check_names()

    def run(self) -> TfGraph:
        for name in self._graph.inputs:
            self._input(name)
        for op in self._graph.ops:
            domain = self._domains.get(op.id, Domain.FLOAT)
            if domain is Domain.FLOAT:
                self._float_op(op)
            else:
                self._integer_op(op, domain)
        out = self._build.graph
        out.outputs = tuple(self._output(name) for name in self._graph.outputs)
        return out

    def _check_names(self) -> None:
        """A plan for another graph must not pass as one that keeps everything float."""
        known = {op.id: op.kind for op in self._graph.ops}
        for entry in self._plan.ops:
            if known.get(entry.op, entry.kind) != entry.kind or (entry.op not in known and entry.domain != Domain.FLOAT):
                found = f"is a {known[entry.op]}" if entry.op in known else "does not exist"
                raise _refused(f"the plan names operator '{entry.op}' ({entry.kind}), which {found} in the graph")

    # ------------------------------------------------------------------------------------------------- boundary

    def _input(self, name: str) -> None:
        tensor = self._graph.tensors[name]
        if tensor.dtype != "float32" or self._io is IoType.FLOAT32:
            self._register(name, _Form(tensor.dtype), self._build.input(name, tensor.shape, tensor.dtype))
            return
        inner = self._planned(name, Domain.INT8)
        shown = _shifted(inner) if self._io is IoType.UINT8 else inner
        made = self._build.input(name, tensor.shape, shown.dtype)
        self._build.graph.tensors[made] = replace(self._build.graph.tensors[made], quant=shown.quant)
        if shown == inner:
            self._register(name, inner, made)
        else:
            self._register(name, shown, made)
            self._register(name, inner, self._convert(name, made, inner))

    def _output(self, name: str) -> str:
        if self._graph.tensors[name].dtype != "float32":
            return self._form(name, self._native_form(name))
        if self._io is IoType.FLOAT32:
            return self._form(name, _FLOAT)
        native = self._native_form(name)
        inner = native if native.dtype == "int8" else self._planned(name, Domain.INT8)
        return self._form(name, _shifted(inner) if self._io is IoType.UINT8 else inner)

    # ------------------------------------------------------------------------------------------------- operators

    def _float_op(self, op: TfOp) -> None:
        tensors = self._graph.tensors
        inputs = tuple(
            None
            if name is None
            else self._form(name, _FLOAT if tensors[name].dtype == "float32" else _Form(tensors[name].dtype))
            for name in op.inputs
        )
        outputs = tuple(self._declare(name, _Form(tensors[name].dtype)) for name in op.outputs)
        self._build.graph.ops.append(replace(op, inputs=inputs, outputs=outputs))

    def _integer_op(self, op: TfOp, domain: Domain) -> None:
        why = obstacle(op, self._graph, domain)
        if why:
            raise _refused(f"the plan asks for {op.kind} '{op.id}' in {domain.value}, but {why}")
        if self._clips_only(op, domain):
            self._requantizing_relu(op)
            return
        rule = RULES[op.kind]
        forms = self._output_forms(op, rule, domain)
        inputs: list[str | None] = [
            None if name is None else self._untouched(name) if i in _structural(rule, op) else None
            for i, name in enumerate(op.inputs)
        ]
        for i in rule.operands(op):
            name = op.inputs[i]
            if name is not None:
                inputs[i] = self._operand(name, rule, forms[0], domain)
        if rule.weight is not None:
            self._weights(op, rule, inputs, forms[0], domain)
        late = self._requantize_after(op, rule, domain)
        if late is None:
            outputs = tuple(self._declare(name, form) for name, form in zip(op.outputs, forms, strict=True))
        else:
            outputs = (self._build.tensor(f"{op.id}_unscaled", self._graph.tensors[op.id].shape, domain.value, forms[0].quant),)
        self._build.graph.ops.append(replace(op, inputs=tuple(inputs), outputs=outputs, options=_options(op, domain)))
        if late is not None:
            made = self._declare(op.id, late)
            self._build.graph.ops.append(TfOp("QUANTIZE", outputs, (made,), {}, "QuantizeOptions"))

    def _clips_only(self, op: TfOp, domain: Domain) -> bool:
        """A RELU or RELU6 whose output range has the same ends: saturation to int8 does the clipping.

        The runtime's delegate has no int8 RELU but does requantize.
        """
        if domain is not Domain.INT8 or op.kind not in RELU_LIMITS:
            return False
        return saturates_alike(op.kind, self._planned(op.outputs[0], domain).quant)

    def _requantizing_relu(self, op: TfOp) -> None:
        name, form = op.outputs[0], self._planned(op.outputs[0], Domain.INT8)
        source = str(op.inputs[0])
        native = self._native[source]
        if self._through_float(self._form(source, native), form):
            native = _FLOAT
        read = self._form(source, native)
        made = self._declare(name, form)
        self._build.graph.ops.append(TfOp("QUANTIZE", (read,), (made,), {}, "QuantizeOptions"))

    def _output_forms(self, op: TfOp, rule: OpRule, domain: Domain) -> list[_Form]:
        """The form of each output as the kernel computes it."""
        if rule.integer_output:
            return [_Form(self._graph.tensors[name].dtype) for name in op.outputs]
        fixed = fixed_output(op.kind, domain)
        if fixed is not None:
            return [_Form(domain.value, fixed)]
        if rule.scales is Scales.SAME and (len(op.outputs) > 1 or self._requantize_after(op, rule, domain) is not None):
            return [self._activation(str(op.inputs[rule.operands(op)[0]]), domain)] * len(op.outputs)
        return [self._bearable(op, rule, self._planned(name, domain), domain) for name in op.outputs]

    def _bearable(self, op: TfOp, rule: OpRule, form: _Form, domain: Domain) -> _Form:
        """The planned output form, its scale widened to what the kernel takes beside its inputs' scales. One step of an input is
        then some hundred steps of the output: nothing is lost that the inputs had not lost."""
        if rule.least_output is None or form.quant is None:
            return form
        factor, power = rule.least_output
        names = [str(op.inputs[i]) for i in rule.operands(op)]
        largest = max(self._read_scale(name, domain) for name in names)
        least = factor * largest**power
        return form if form.quant.scale[0] >= least else _Form(domain.value, widened(form.quant, least, domain.value))

    def _read_scale(self, name: str, domain: Domain) -> float:
        data = self._graph.tensors[name].data
        quant = self._activation(name, domain).quant if data is None else constant_range(data, domain.value)
        assert quant is not None
        return quant.scale[0]

    def _requantize_after(self, op: TfOp, rule: OpRule, domain: Domain) -> _Form | None:
        """The planned output form, where a SAME operator of one input runs at its input's scale and is rescaled behind.

        So it is where the operator averages (clipping does not commute with it), and where fewer values come out than go in.
        """
        if rule.scales is not Scales.SAME or len(op.outputs) > 1 or len(rule.operands(op)) > 1:
            return None
        source, tensors = str(op.inputs[rule.operands(op)[0]]), self._graph.tensors
        planned = self._planned(op.outputs[0], domain)
        if planned == self._activation(source, domain):
            return None
        shrinks = _count(tensors[op.outputs[0]].shape) < _count(tensors[source].shape)
        return planned if rule.mixes or (shrinks and self._native_form(source) != _FLOAT) else None

    def _operand(self, name: str, rule: OpRule, output: _Form, domain: Domain) -> str:
        if rule.scales is Scales.SAME:
            return self._form(name, output)
        data = self._graph.tensors[name].data
        form = self._activation(name, domain) if data is None else _Form(domain.value, constant_range(data, domain.value))
        if rule.least_ratio and form.quant is not None and output.quant is not None:
            least = output.quant.scale[0] * rule.least_ratio
            if form.quant.scale[0] < least:  # less than a step of the output in all; the delegate wants a wider scale
                form = _Form(domain.value, Quant((float32(2 * least),), (0,)))
        return self._form(name, form)

    def _weights(self, op: TfOp, rule: OpRule, inputs: list[str | None], output: _Form, domain: Domain) -> None:
        """Fill in the weights and the bias, which depend on the scales around the operator."""
        assert rule.weight is not None
        assert output.quant is not None
        source = self._build.graph.tensors[str(inputs[rule.data[0]])].quant
        assert source is not None
        weight_name = str(op.inputs[rule.weight])
        bias_name = op.inputs[rule.bias] if rule.bias is not None and rule.bias < len(op.inputs) else None
        weights = self._graph.tensors[weight_name].data
        assert weights is not None
        try:
            made = quantize_linear(
                weights,
                rule.axis,
                None if bias_name is None else self._graph.tensors[bias_name].data,
                input_scale=source.scale[0],
                output_scale=output.quant.scale[0],
                wide_bias=domain is Domain.INT16,
                rounding=self._rounding,
                learned=self._learned.get(op.id),
            )
        except ValueError as error:
            raise _refused(f"the plan's learned weights do not fit {op.kind} '{op.id}': {error}") from error
        inputs[rule.weight] = self._build.constant(f"{weight_name}_int8", made.weights, made.quant)
        if made.bias is not None and rule.bias is not None:
            inputs += [None] * (rule.bias + 1 - len(inputs))
            inputs[rule.bias] = self._build.constant(f"{bias_name or op.id}_{made.bias.dtype.name}", made.bias, made.bias_quant)

    # ------------------------------------------------------------------------------------------------- forms

    def _native_form(self, name: str) -> _Form:
        return self._native.get(name, _Form(self._graph.tensors[name].dtype))

    def _activation(self, name: str, domain: Domain) -> _Form:
        """The form in which an operator that takes any scale reads a tensor: as it is, where it is of the domain's type."""
        native = self._native_form(name)
        return native if native.dtype == domain.value else self._planned(name, domain)

    def _planned(self, name: str, domain: Domain) -> _Form:
        entry = self._plan.tensors.get(name)
        if entry is None:
            raise _refused(f"the plan has no scale for tensor '{name}', which an integer operator or the file's boundary needs")
        return _Form(domain.value, _as_type(name, entry, domain.value))

    def _form(self, name: str, form: _Form) -> str:
        """The name, in the new graph, of a tensor in a given form; converted once."""
        found = self._forms.get((name, form))
        if found is None:
            tensor = self._graph.tensors[name]
            if tensor.data is not None:
                data = tensor.data if form.quant is None else quantize_array(tensor.data, form.quant, form.dtype)
                found = self._build.constant(self._label(name, form), data, form.quant or tensor.quant)
                self._forms[(name, form)] = found
            else:
                found = self._convert(name, self._forms[(name, self._native[name])], form)
        return found

    def _convert(self, name: str, source: str, form: _Form) -> str:
        kind = "DEQUANTIZE" if form == _FLOAT else "QUANTIZE"
        if self._through_float(source, form):
            source = self._form(name, _FLOAT)
        shape = self._graph.tensors[name].shape
        made = self._build.op(kind, (source,), shape, name=self._label(name, form), dtype=form.dtype, quant=form.quant)
        self._forms[(name, form)] = made
        return made

    def _through_float(self, source: str, form: _Form) -> bool:
        """Whether integers reach another integer form faster by way of float."""
        before = self._build.graph.tensors[source]
        if self._integer_only or before.quant is None or form.quant is None:
            return False
        return not requantizes(before, form.dtype, form.quant)

    def _declare(self, name: str, form: _Form) -> str:
        """A new tensor for what an operator computes; it is the form in which others find it."""
        made = self._build.tensor(self._label(name, form), self._graph.tensors[name].shape, form.dtype, form.quant)
        self._register(name, form, made)
        return made

    def _register(self, name: str, form: _Form, made: str) -> None:
        self._native[name] = form
        self._forms[(name, form)] = made

    def _untouched(self, name: str) -> str:
        return self._form(name, _Form(self._graph.tensors[name].dtype))

    def _label(self, name: str, form: _Form) -> str:
        """The plain name for the form that the file shows at its boundary, or that is the first; a suffix for others."""
        if name in self._boundary:
            return name if form.dtype == self._io.value else f"{name}_{form.dtype}"
        return name if name not in self._build.graph.tensors else f"{name}_{form.dtype}"


def _structural(rule: OpRule, op: TfOp) -> set[int]:
    """Positions of operands that no quantization touches: shapes, axes, paddings."""
    return set(range(len(op.inputs))) - set(rule.operands(op)) - {rule.weight, rule.bias}


def _options(op: TfOp, domain: Domain) -> dict[str, OptionValue]:
    options = dict(op.options)
    if domain is Domain.INT16 and op.kind in {"ADD", "SUB"}:
        options["potScaleInt16"] = False  # the schema's default demands scales that are powers of two
    return options


def _as_type(name: str, entry: TensorQuant, dtype: str) -> Quant:
    """A planned quantization in the type an operator needs, over the same range."""
    if len(entry.scale) != 1 or len(entry.zero_point) != 1:
        raise _refused(f"the plan gives tensor '{name}' {len(entry.scale)} scales, activations have one")
    scale, zero = float32(entry.scale[0]), entry.zero_point[0]
    if entry.dtype == dtype:
        if dtype == "int16" and zero:
            raise _refused(f"the plan gives the int16 tensor '{name}' zero point {zero}, kernels demand 0")
        return Quant((scale,), (zero,))
    if entry.dtype not in LIMITS:
        raise _refused(f"the plan quantizes tensor '{name}' to '{entry.dtype}'")
    if {entry.dtype, dtype} == {"int8", "uint8"}:
        return Quant((scale,), (zero + LIMITS[dtype][0] - LIMITS[entry.dtype][0],))
    low, high = ((limit - zero) * scale for limit in LIMITS[entry.dtype])
    if dtype == "int16":
        return Quant((float32(max(-low, high) / LIMITS[dtype][1]),), (0,))
    step = float32((high - low) / 255)
    return Quant((step,), (round(LIMITS[dtype][0] - low / step),))


def _shifted(form: _Form) -> _Form:
    """The uint8 form whose integers are an int8 form's plus 128."""
    assert form.quant is not None
    return _Form("uint8", replace(form.quant, zero_point=(form.quant.zero_point[0] + _UINT8_SHIFT,)))


def _count(shape: tuple[int, ...]) -> int:
    product = 1
    for size in shape:
        product *= size
    return product


def _refused(why: str) -> StageError:
    return StageError(f"{why}.", hint="Correct quantization.json, or leave --plan out to have a plan made.", stage=_STAGE)
