"""A stand-in for the tensorrt module where there is no GPU: it has the names of one version's API table and nothing else.

``EDGESEG_FAKE_TRT`` names the table (JSON), ``EDGESEG_FAKE_TRT_MODE`` what goes wrong: refuse, memory, crash, hang. Every call is
appended to ``EDGESEG_FAKE_TRT_CALLS``. It proves order and names of calls, never a figure.
"""

# ruff: noqa: ARG002
import enum
import json
import os
import pathlib
import signal
import time

_table = json.loads(pathlib.Path(os.environ["EDGESEG_FAKE_TRT"]).read_text())
_mode = os.environ.get("EDGESEG_FAKE_TRT_MODE", "")
__version__ = os.environ.get("EDGESEG_FAKE_TRT_VERSION", _table["version"])


def _called(name, *arguments):
    path = os.environ.get("EDGESEG_FAKE_TRT_CALLS")
    if path:
        with pathlib.Path(path).open("a") as stream:
            stream.write(json.dumps([name, *map(str, arguments)]) + "\n")


def _enum(name):
    return enum.IntEnum(name, {member: place for place, member in enumerate(_table[name])}) if _table.get(name) else None


def _only(cls):
    """Take from a class what the version's real one does not have."""
    allowed = _table[cls.__name__]
    for name in [n for n in vars(cls) if not n.startswith("_") and n not in allowed]:
        delattr(cls, name)

    def guarded(self, name, value):
        if not name.startswith("_") and name not in allowed:
            raise AttributeError(f"{cls.__name__} of {__version__} has no {name}")
        _called(f"{cls.__name__}.{name}=", value)
        object.__setattr__(self, name, value)

    cls.__setattr__ = guarded
    return cls


class ILogger:
    class Severity(enum.IntEnum):
        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2
        INFO = 3
        VERBOSE = 4

    def log(self, severity, message):
        print(message)


class Logger(ILogger):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = ILogger.Severity

    def __init__(self, level=None):
        del level


for _name in ("BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType", "ProfilingVerbosity", "TacticSource"):
    globals()[_name] = _enum(_name)
LayerInformationFormat = _enum("LayerInformationFormat")
DataType = _enum("DataType")
TensorIOMode = enum.IntEnum("TensorIOMode", {"NONE": 0, "INPUT": 1, "OUTPUT": 2})
if _table.get("HardwareCompatibilityLevel"):
    HardwareCompatibilityLevel = _enum("HardwareCompatibilityLevel")


@_only
class ITimingCache:
    def __init__(self, content):
        self._content = content

    def serialize(self):
        return memoryview(self._content + b"measured;")


class IOptimizationProfile:
    def set_shape(self, name, least, usual, most):
        _called("set_shape", name, least, usual, most)


@_only
class IBuilderConfig:
    profiling_verbosity = builder_optimization_level = hardware_compatibility_level = None

    def set_flag(self, flag):
        _called("set_flag", flag.name)

    def clear_flag(self, flag):
        _called("clear_flag", flag.name)

    def set_memory_pool_limit(self, pool, size):
        _called("set_memory_pool_limit", pool.name, size)

    def set_tactic_sources(self, bits):
        _called("set_tactic_sources", bits)
        return True

    def add_optimization_profile(self, profile):
        return 0

    def get_timing_cache(self):
        return ITimingCache(b"kept;")

    def create_timing_cache(self, content):
        return ITimingCache(bytes(content))

    def set_timing_cache(self, cache, ignore):
        return not cache._content.startswith(b"foreign")


@_only
class ITensor:
    name = "input"
    shape = (int(os.environ.get("EDGESEG_FAKE_TRT_DECLARED", "1")), 3, 4, 4)


@_only
class INetworkDefinition:
    def get_input(self, index):
        return ITensor()


@_only
class Builder:
    def __init__(self, logger):
        object.__setattr__(self, "logger", logger)
        _called("Builder")

    def create_network(self, bits):
        _called("create_network", bits)
        return INetworkDefinition()

    def create_builder_config(self):
        return IBuilderConfig()

    def create_optimization_profile(self):
        return IOptimizationProfile()

    def build_serialized_network(self, network, config):
        if _mode == "memory":
            self.logger.log(Logger.ERROR, "[defaultAllocator.cpp] Error Code 2: OutOfMemory (no further information)")
            return None
        if _mode == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if _mode == "hang":
            time.sleep(60)
        print("building", flush=True)
        return memoryview(b"engine")


@_only
class OnnxParser:
    def __init__(self, network, logger):
        del network, logger

    def parse_from_file(self, path):
        _called("parse_from_file", pathlib.Path(path).name)
        return _mode != "refuse"

    num_errors = 1

    def get_error(self, index):
        return "In node 3 (importQuantizeLinear): UNSUPPORTED_NODE: non-zero zero points"


@_only
class EngineInspector:
    def get_engine_information(self, layout):
        return json.dumps({"Layers": [{"Name": "conv", "LayerType": "CaskConvolution"}]})


@_only
class IExecutionContext:
    def set_input_shape(self, name, shape):
        _called("set_input_shape", name, tuple(shape))
        return True

    def get_tensor_shape(self, name):
        return (int(os.environ.get("EDGESEG_FAKE_TRT_BATCH", "1")), 3 if name == "input" else 2, 4, 4)

    def set_tensor_address(self, name, address):
        _called("set_tensor_address", name)
        return True

    def execute_async_v3(self, stream):
        _called("execute_async_v3")
        return _mode != "fail"


@_only
class ICudaEngine:
    num_io_tensors = 2
    num_layers = 1

    def create_engine_inspector(self):
        return EngineInspector()

    def create_execution_context(self):
        return IExecutionContext()

    def get_tensor_name(self, index):
        return ("input", "logits")[index]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name == "input" else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name):
        return DataType.FLOAT

    def get_tensor_shape(self, name):
        size = (-1, -1) if os.environ.get("EDGESEG_FAKE_TRT_ANY_SIZE") else (4, 4)
        return (-1, 3 if name == "input" else 2, *size)

    def get_tensor_profile_shape(self, name, index):
        least = int(os.environ.get("EDGESEG_FAKE_TRT_BATCH", "1"))
        lengths = (2, 4, 8) if os.environ.get("EDGESEG_FAKE_TRT_ANY_SIZE") else (4, 4, 4)
        return [(batch, 3, size, size) for batch, size in zip((least, 16, 16), lengths, strict=True)]


@_only
class Runtime:
    engine_host_code_allowed = False

    def __init__(self, logger):
        _called("Runtime")

    def deserialize_cuda_engine(self, plan):
        return ICudaEngine() if bytes(plan) == b"engine" else None


for _name in [n for n in globals() if n[0].isupper() and n not in _table["top"] and n not in ("ILogger", "Logger")]:
    del globals()[_name]
