"""A small typed TFLite graph, its flatbuffer reader and writer, rewriting passes and the INT8 emitter."""
