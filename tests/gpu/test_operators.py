"""Operators that a bundle may have are those that TensorRT knows: asked of its real parser, which needs no GPU."""

from tests.gpu import bed

ASK = """
import tensorrt_rtx as trt
from engines.ops import OPERATORS

log = trt.Logger(trt.Logger.ERROR)
network = trt.Builder(log).create_network(0)
parser = trt.OnnxParser(network, log)
print(len(OPERATORS), *sorted(name for name in OPERATORS if not parser.supports_operator(name)))
"""


def test_every_allowed_operator_is_known_to_the_parser():
    bed.need()
    count, *unknown = bed.run(ASK, driver=False, fake=False, rtx=True).stdout.split()
    assert int(count) > 100
    assert unknown == []
