"""Golden bytes of an event file, written by the tensorboard package itself: tensorboard.json.

Run: python make_tensorboard.py > tensorboard.json
"""
import io
import json

import tensorboard
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.summary.writer.record_writer import RecordWriter, masked_crc32c
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import crc32c

out = io.BytesIO()
writer = RecordWriter(out)
writer.write(event_pb2.Event(wall_time=1700000000.25, file_version="brain.Event:2").SerializeToString())
values = [("train/loss", 2.125), ("train/grad_norm", 0.1), ("peak_memory_bytes", 1234567890.0)]
for step in (1, 300, 1 << 40):
    summary = summary_pb2.Summary(value=[summary_pb2.Summary.Value(tag=t, simple_value=v) for t, v in values])
    writer.write(event_pb2.Event(wall_time=1700000001.5, step=step, summary=summary).SerializeToString())
data = [b"", b"a", b"123456789", bytes(32), bytes(range(256))]
print(json.dumps({
    "made_with": f"tensorboard {tensorboard.__version__}",
    "file": out.getvalue().hex(),
    "crc32c": [[d.hex(), crc32c(d), masked_crc32c(d)] for d in data],
}, indent=1))
