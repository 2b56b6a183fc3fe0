"""Latency: sessions measured against each other, interleaved in one run, raw samples kept."""

from edgeseg.bench.analysis import recover
from edgeseg.bench.executor import Candidate
from edgeseg.bench.result import BenchResult
from edgeseg.bench.scheduler import Instruments, measure
from edgeseg.bench.settings import BenchSettings

__all__ = ["BenchResult", "BenchSettings", "Candidate", "Instruments", "measure", "recover"]
