"""Every operator: one module each, five sections (definition, CPU, GPU, operator, function).

``OPERATORS`` is the table of them all; the tests walk it, so that an operator is tested the moment it stands here.
"""

from __future__ import annotations

from ..engine.op import Op
from . import methods as methods  # gives Tensor its arithmetic
from . import numpy_functions as numpy_functions
from .activation import ELU, GELU, RELU, SIGMOID, TANH, elu, gelu, relu, sigmoid, tanh
from .arithmetic import ADD, DIVIDE, MULTIPLY, SUBTRACT, add, divide, multiply, subtract
from .batchnorm import BATCH_NORM, batch_norm
from .conv2d import CONV2D, GENERAL_CONV2D, conv2d
from .depthwise import DEPTHWISE_CONV2D, GENERAL_DEPTHWISE_CONV2D, depthwise_conv2d
from .dropout import DROPOUT, dropout
from .elementary import ABS, CLIP, EXP, LOG, POWER, SQRT, abs, clip, exp, log, power, sqrt
from .extremes import MAX, MIN, max, min
from .indexing import INDEX, index
from .linear import LINEAR, linear
from .loss import BINARY_CROSS_ENTROPY, CROSS_ENTROPY, binary_cross_entropy_with_logits, cross_entropy
from .matmul import MATMUL, matmul
from .mse_loss import MSE_LOSS, mse_loss
from .pointwise import POINTWISE_CONV2D, pointwise_conv2d
from .pooling import (
    AVG_POOL2D,
    GENERAL_AVG_POOL2D,
    GENERAL_MAX_POOL2D,
    GLOBAL_AVG_POOL,
    MAX_POOL2D,
    avg_pool2d,
    global_avg_pool,
    max_pool2d,
)
from .reduction import MEAN, SUM, mean, sum, var
from .reflect_pad import REFLECT_PAD2D, reflect_pad2d
from .reshape import CONCAT, RESHAPE, TRANSPOSE, concat, reshape, transpose
from .separable import RELU_SEPARABLE_CONV2D, SEPARABLE_CONV2D, separable_conv2d
from .softmax import LOG_SOFTMAX, SOFTMAX, log_softmax, softmax

OPERATORS: dict[str, Op] = {
    op.name: op
    for op in (
        CONV2D,
        GENERAL_CONV2D,
        DEPTHWISE_CONV2D,
        GENERAL_DEPTHWISE_CONV2D,
        POINTWISE_CONV2D,
        SEPARABLE_CONV2D,
        RELU_SEPARABLE_CONV2D,
        BATCH_NORM,
        RELU,
        ELU,
        GELU,
        SIGMOID,
        TANH,
        SOFTMAX,
        LOG_SOFTMAX,
        ADD,
        SUBTRACT,
        MULTIPLY,
        DIVIDE,
        EXP,
        LOG,
        SQRT,
        ABS,
        POWER,
        CLIP,
        MATMUL,
        RESHAPE,
        TRANSPOSE,
        CONCAT,
        INDEX,
        SUM,
        MEAN,
        MAX,
        MIN,
        REFLECT_PAD2D,
        MAX_POOL2D,
        GENERAL_MAX_POOL2D,
        AVG_POOL2D,
        GENERAL_AVG_POOL2D,
        GLOBAL_AVG_POOL,
        LINEAR,
        DROPOUT,
        CROSS_ENTROPY,
        BINARY_CROSS_ENTROPY,
        MSE_LOSS,
    )
}

__all__ = [
    "OPERATORS",
    "abs",
    "add",
    "avg_pool2d",
    "batch_norm",
    "binary_cross_entropy_with_logits",
    "clip",
    "concat",
    "conv2d",
    "cross_entropy",
    "depthwise_conv2d",
    "divide",
    "dropout",
    "elu",
    "exp",
    "gelu",
    "global_avg_pool",
    "index",
    "linear",
    "log",
    "log_softmax",
    "matmul",
    "max",
    "max_pool2d",
    "mean",
    "min",
    "mse_loss",
    "multiply",
    "pointwise_conv2d",
    "power",
    "reflect_pad2d",
    "relu",
    "reshape",
    "separable_conv2d",
    "sigmoid",
    "softmax",
    "sqrt",
    "subtract",
    "sum",
    "tanh",
    "transpose",
    "var",
]
