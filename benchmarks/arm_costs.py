"""Writes the stored operator costs of ARM cores with dot-product instructions, from published figures. Nothing here was measured.

    python benchmarks/arm_costs.py

Published (single thread, the big core: Cortex-A76 at 2.84 GHz with SDOT, Snapdragon 855; Paddle-Lite documentation,
docs/performance/benchmark.md, release v2.10), milliseconds in float32 and in int8:

    ResNet50      192.88   80.46    4.09e9 multiply-adds, hardly any depthwise
    MobileNetV1    29.22   14.81    0.569e9, of them 17.3e6 depthwise
    MobileNetV2    23.17   14.06    0.300e9, of them 20.6e6 depthwise

Dense convolutions get ResNet50's time per multiply-add. In float32 that is 93% of what the core can do (two FMLA of four
lanes a cycle, Arm Cortex-A76 Software Optimization Guide, PJDOC-466751330-7215), so it is a rate that a good library reaches.
Depthwise convolutions get what of MobileNetV1 is then left, per depthwise multiply-add: int8 is no faster there.

For all other kinds no figures were found: they get the x86-vnni table's costs, float and int8, times the ratio of what the two
cores do in float32 per multiply-add. So which of the two is cheaper is as on x86, where elementwise int8 kernels are
bound by arithmetic and not by memory.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgeseg.tflite.stored_costs import ClassCost, StoredCosts

FOLDER = Path(__file__).parent.parent / "edgeseg" / "tflite" / "costs"
RESNET50 = (192.88e3, 80.46e3, 4.09e9)  # us in float32, us in int8, multiply-adds
MOBILENET_V1 = (29.22e3, 14.81e3, 0.569e9, 17.3e6)
BASE_US = 2.0  # of dispatching one operator; the same in both types
DENSE = ("CONV_2D 1x1", "CONV_2D window", "FULLY_CONNECTED", "TRANSPOSE_CONV", "BATCH_MATMUL")
DEPTHWISE = ("DEPTHWISE_CONV_2D 1x1", "DEPTHWISE_CONV_2D window")


def main() -> None:
    x86 = msgspec.json.decode((FOLDER / "x86-vnni.json").read_bytes(), type=StoredCosts)
    dense = [us / RESNET50[2] * 1e3 for us in RESNET50[:2]]  # us per 1000 multiply-adds, float32 and int8
    total, depthwise = MOBILENET_V1[2:]
    rest = [
        max(us - rate * (total - depthwise) / 1e3, 0.0) / depthwise * 1e3
        for us, rate in zip(MOBILENET_V1[:2], dense, strict=True)
    ]
    slower = dense[0] / x86.classes["CONV_2D window"]["float32"].mac
    classes = {kind: {domain: scaled(cost, slower) for domain, cost in costs.items()} for kind, costs in x86.classes.items()}
    for kinds, rates in ((DENSE, dense), (DEPTHWISE, rest)):
        for kind in kinds:
            classes[kind] = {
                domain: ClassCost(BASE_US, float(f"{rate:.4g}"), 0.0)
                for domain, rate in zip(("float32", "int8"), rates, strict=True)
            }
    table = StoredCosts(
        name="arm-dotprod",
        source=(
            "Not measured by edgeseg: derived from published figures by benchmarks/arm_costs.py.",
            "Dense and depthwise convolutions: Paddle-Lite documentation, performance benchmark of release v2.10, Snapdragon 855 "
            "(Cortex-A76 2.84 GHz, SDOT), one thread: ResNet50 192.88 ms float32, 80.46 ms int8; MobileNetV1 29.22 and 14.81 ms.",
            f"All other operators: the x86-vnni table times {slower:.2f}, the ratio of the two cores' float32 convolution rates.",
        ),
        measured=False,
        classes=classes,
        quantize=scaled(x86.quantize, slower),
        dequantize=scaled(x86.dequantize, slower),
    )
    (FOLDER / "arm-dotprod.json").write_bytes(msgspec.json.format(msgspec.json.encode(table), indent=1) + b"\n")
    print(f"dense {dense}, depthwise {rest}, others x {slower:.2f}")


def scaled(cost: ClassCost, factor: float) -> ClassCost:
    return ClassCost(*(float(f"{value * factor:.4g}") for value in (cost.base, cost.mac, cost.byte)))


if __name__ == "__main__":
    main()
