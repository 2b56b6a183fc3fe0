"""The ways to run a trained model on PyTorch that a benchmark can compare: arithmetic, torch.compile, CUDA graph."""

from __future__ import annotations

from dataclasses import dataclass

from edgeseg.errors import UsageError

__all__ = ["EAGER", "TorchVariant", "parse_variants"]

_PRECISIONS = ("fp32", "tf32", "fp16", "bf16")


@dataclass(frozen=True)
class TorchVariant:
    """``precision``: fp32, tf32 (CUDA only), fp16 or bf16, of weights and activations. ``compiled``: by torch.compile.
    ``graph``: recorded as a CUDA graph and replayed (CUDA only)."""

    precision: str = "fp32"
    compiled: bool = False
    graph: bool = False

    @property
    def label(self) -> str:
        """As it is written on the command line.

        >>> TorchVariant().label, TorchVariant("bf16", compiled=True).label
        ('eager', 'bf16+compile')
        """
        words = [self.precision] if self.precision != "fp32" else []
        words += ["compile"] * self.compiled + ["graph"] * self.graph
        return "+".join(words) or "eager"

    @property
    def needs_cuda(self) -> bool:
        return self.precision == "tf32" or self.graph


EAGER = TorchVariant()


def parse_variants(text: str, *, cuda: bool) -> tuple[TorchVariant, ...]:
    """``eager,compile,bf16+compile``: variants by commas, the words of one by ``+``.

    Args:
        cuda: whether they are to run on a GPU.

    Raises:
        UsageError: an unknown word, two precisions in one variant, a variant twice, or one that needs a GPU without one.

    >>> [variant.label for variant in parse_variants("eager, compile+bf16", cuda=False)]
    ['eager', 'bf16+compile']
    """
    found = tuple(_parse(part) for part in text.split(","))
    if len(set(found)) < len(found):
        raise UsageError(f"--torch {text} names a variant twice.", hint="Name each once.")
    for variant in found:
        if variant.needs_cuda and not cuda:
            raise UsageError(f"The variant '{variant.label}' runs on a GPU only.", hint="Add --device cuda, or leave it out.")
    return found


def _parse(part: str) -> TorchVariant:
    words = [word.strip() for word in part.split("+")]
    known = ("eager", "compile", "graph", *_PRECISIONS)
    for word in words:
        if word not in known:
            raise UsageError(
                f"'{word}' is no way to run PyTorch.",
                hint=f"There are {', '.join(known)}; join them by + and list them by commas: --torch eager,compile,bf16.",
            )
    precisions = [word for word in words if word in _PRECISIONS]
    if len(precisions) > 1 or ("eager" in words and "compile" in words):
        raise UsageError(f"'{part.strip()}' contradicts itself.", hint="List ways to compare by commas: --torch eager,compile.")
    return TorchVariant(precisions[0] if precisions else "fp32", "compile" in words, "graph" in words)
