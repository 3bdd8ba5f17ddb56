#!/usr/bin/env python3
"""The emulated driver keeps the real one's order and refuses what the real one refuses.

    tools/gpu/emulate/test_driver.py [folder of libcuda.so.1]     needs Python alone
"""

import ctypes
import pathlib
import subprocess
import sys
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
FOLDER = ROOT / "target" / "cubins" / "emulated"
N = 1000
INVALID_VALUE, NO_CONTEXT, UNSUPPORTED, INVALIDATED, UNJOINED, IMPLICIT = 1, 201, 900, 901, 904, 906


def handle():
    return ctypes.c_void_p()


class Driver(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.cuda = ctypes.CDLL(str(FOLDER / "libcuda.so.1"))
        context = handle()
        assert cls.cuda.cuInit(0) == 0
        assert cls.cuda.cuCtxSynchronize() == NO_CONTEXT
        assert cls.cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0) == 0
        assert cls.cuda.cuCtxSetCurrent(context) == 0

    def call(self, name, *arguments, status=0):
        sized = [ctypes.c_size_t(a) if isinstance(a, int) and a >= N else a for a in arguments]
        self.assertEqual(getattr(self.cuda, name)(*sized), status, name)

    def new(self, name, *arguments):
        out = handle()
        self.call(name, ctypes.byref(out), *arguments)
        return out

    def setUp(self):
        self.first, self.second = self.new("cuStreamCreate", 1), self.new("cuStreamCreate", 1)
        self.a, self.b = self.new("cuMemAlloc_v2", N), self.new("cuMemAlloc_v2", N)
        self.pinned = self.new("cuMemHostAlloc", N, 0)
        self.bytes = (ctypes.c_ubyte * N).from_address(self.pinned.value)
        self.event, self.other = self.new("cuEventCreate", 0), self.new("cuEventCreate", 0)

    def fill(self, memory, value, stream, count=N, status=0):
        self.call("cuMemsetD8Async", memory, value, count, stream, status=status)

    def fetch(self, memory, stream):
        self.call("cuMemcpyDtoHAsync_v2", self.pinned, memory, N, stream)

    def synchronize(self, stream):
        self.call("cuStreamSynchronize", stream)

    def after(self, later, event, earlier):
        self.call("cuEventRecord", event, earlier)
        self.call("cuStreamWaitEvent", later, event, 0)

    def test_work_waits_for_a_synchronisation(self):
        self.assertEqual(self.bytes[0], 255)
        self.fill(self.a, 7, self.first)
        self.fetch(self.a, self.first)
        self.assertEqual(self.bytes[0], 255)
        self.synchronize(self.first)
        self.assertEqual(set(self.bytes), {7})

    def test_new_memory_is_poison(self):
        self.fetch(self.a, self.first)
        self.synchronize(self.first)
        self.assertEqual(set(self.bytes), {255})

    def test_streams_are_ordered_by_events_alone(self):
        self.fill(self.a, 1, self.first)
        self.fetch(self.a, self.second)
        self.synchronize(self.second)
        self.assertEqual(self.bytes[0], 255)
        self.after(self.second, self.event, self.first)
        self.fetch(self.a, self.second)
        self.synchronize(self.second)
        self.assertEqual(self.bytes[0], 1)

    def capture(self, join):
        graph = handle()
        self.call("cuStreamBeginCapture_v2", self.first, 0)
        self.fill(self.a, 3, self.first)
        self.after(self.second, self.event, self.first)
        self.call("cuMemcpyDtoDAsync_v2", self.b, self.a, N, self.second)
        if join:
            self.after(self.first, self.other, self.second)
        self.fetch(self.b, self.first)
        self.call("cuStreamEndCapture", self.first, ctypes.byref(graph), status=0 if join else UNJOINED)
        return graph

    def test_a_graph_keeps_edges_across_streams(self):
        graph = self.new("cuGraphInstantiateWithFlags", self.capture(join=True), ctypes.c_ulonglong(0))
        self.assertEqual(self.bytes[0], 255)
        self.call("cuGraphLaunch", graph, self.first)
        self.synchronize(self.first)
        self.assertEqual(set(self.bytes), {3})

    def test_a_fork_must_be_joined(self):
        self.capture(join=False)

    def spoiled(self, call, status):
        self.call("cuStreamBeginCapture_v2", self.first, 0)
        call(status)
        self.call("cuStreamEndCapture", self.first, ctypes.byref(handle()), status=INVALIDATED)

    def test_what_a_capture_forbids(self):
        self.spoiled(lambda s: self.call("cuStreamSynchronize", self.first, status=s), UNSUPPORTED)
        self.spoiled(lambda s: self.call("cuMemAlloc_v2", ctypes.byref(handle()), N, status=s), UNSUPPORTED)

    def test_the_default_stream_waits_for_blocking_ones(self):
        blocking = self.new("cuStreamCreate", 0)
        self.fill(self.a, 5, blocking)
        self.call("cuMemcpyDtoH_v2", self.pinned, self.a, N)
        self.assertEqual(self.bytes[0], 5)
        self.call("cuStreamBeginCapture_v2", blocking, 2)
        self.fill(self.a, 6, None, status=IMPLICIT)
        self.call("cuStreamEndCapture", blocking, ctypes.byref(handle()), status=INVALIDATED)

    def test_a_copy_stays_inside_its_allocation(self):
        self.fill(self.a, 1, self.first, count=N + 1, status=INVALID_VALUE)

    def test_a_host_that_reads_device_memory_is_stopped(self):
        child = subprocess.run(
            [sys.executable, __file__, str(FOLDER), "Driver.read_device_memory"], capture_output=True, text=True
        )
        self.assertNotEqual(child.returncode, 0)
        self.assertIn("byte 0 of an allocation of 1000 bytes in device memory, by the host", child.stderr)

    def read_device_memory(self):
        ctypes.string_at(self.a.value, 1)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        FOLDER = pathlib.Path(sys.argv.pop(1)).resolve()
    unittest.main()
