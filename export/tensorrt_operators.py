"""Which ONNX operators does TensorRT's parser take, and from which release on? A table to look things up in; `export.lint` has the rules.

Facts from onnx-tensorrt: docs/operators.md of its 8.5 and 10.15 releases, docs/Changelog.md for what came in between (8.6 to 10.15), and
the release notes of TensorRT 11.0 to 11.5. An operator that is not listed is not taken.
"""

Release = tuple[int, int]

_WORDS = """
    Abs Acos Acosh Add And ArgMax ArgMin Asin Asinh Atan Atanh AveragePool BatchNormalization Cast Ceil Celu Clip Concat Constant
    ConstantOfShape Conv ConvTranspose Cos Cosh CumSum DepthToSpace DequantizeLinear Div Dropout Einsum Elu Equal Erf Exp Expand EyeLike
    Flatten Floor GRU Gather GatherElements GatherND Gemm GlobalAveragePool GlobalLpPool GlobalMaxPool Greater GreaterOrEqual GridSample
    HardSigmoid HardSwish Identity If ImageScaler InstanceNormalization IsNaN LRN LSTM LeakyRelu Less LessOrEqual Log LogSoftmax Loop
    LpNormalization LpPool MatMul Max MaxPool Mean MeanVarianceNormalization Min Mod Mul Neg NonMaxSuppression NonZero Not OneHot Or PRelu
    Pad ParametricSoftplus Pow QuantizeLinear RNN RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Reciprocal ReduceL1
    ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Resize
    ReverseSequence RoiAlign Round ScaledTanh Scan Scatter ScatterElements ScatterND Selu Shape Shrink Sigmoid Sign Sin Sinh Size Slice
    Softmax Softplus Softsign SpaceToDepth Split Sqrt Squeeze Sub Sum Tan Tanh ThresholdedRelu Tile TopK Transpose Trilu Unsqueeze Upsample
    Where Xor"""
TAKEN = frozenset(_WORDS.split())
"""Taken by every release from 8.5 on."""

TAKEN_SINCE: dict[str, Release] = {
    "GroupNormalization": (8, 6),
    "IsInf": (8, 6),
    "LayerNormalization": (8, 6),
    "CastLike": (10, 0),
    "Gelu": (10, 0),
    "Hardmax": (10, 0),
    "Mish": (10, 0),
    "DeformConv": (10, 1),
    "BlackmanWindow": (10, 4),
    "HammingWindow": (10, 4),
    "HannWindow": (10, 4),
    "STFT": (10, 5),
    "Attention": (10, 14),
    "RMSNormalization": (10, 15),
    "RotaryEmbedding": (10, 15),
    "TensorScatter": (10, 15),
    "Swish": (11, 0),
    "DFT": (11, 2),
}
"""Taken from that release on (10.0 also where the 9.x release that brought it is not known)."""

INSTEAD = {
    "DynamicQuantizeLinear": "scales must be constants: calibrate and store them",
    "QLinearConv": "write it as DequantizeLinear, Conv, QuantizeLinear",
    "QLinearMatMul": "write it as DequantizeLinear, MatMul, QuantizeLinear",
    "ConvInteger": "write it as DequantizeLinear, Conv",
    "MatMulInteger": "write it as DequantizeLinear, MatMul",
    "MaxUnpool": "scatter by hand or use Resize",
    "Unique": "its output shape depends on data: compute it outside",
    "Compress": "its output shape depends on data: use Where or Gather",
    "AffineGrid": "compute the grid with MatMul",
    "Attention": "write it as MatMul, Softmax, MatMul",
    "RMSNormalization": "write it as ReduceMean, Sqrt, Div, Mul",
    "LayerNormalization": "write it as ReduceMean, Sub, Sqrt, Div",
    "Gelu": "write it with Erf",
    "Swish": "write it as Sigmoid, Mul",
}
"""What to do instead of some that are not taken."""

AT_A_PRICE = {
    "NonZero": "its output shape depends on data, so the engine cannot be captured as a CUDA graph and sizes its output anew each time",
    "NonMaxSuppression": "its output shape depends on data, so the engine cannot be captured as a CUDA graph; decode without suppression",
    "If": "control flow keeps the engine from being captured as a CUDA graph; compute both branches and choose with Where",
    "Loop": "control flow keeps the engine from being captured as a CUDA graph; unroll it",
    "Scan": "control flow keeps the engine from being captured as a CUDA graph; unroll it",
}
"""Taken since 8.5, but nobody wants them in a graph that has a deadline."""

LAST_OPSET: dict[str, int] = {"tensorrt8.6": 17, "tensorrt10": 22, "tensorrt11": 24}
"""10.0 begins at 20 and 10.15 reaches 24; 11.5 reaches 25."""
