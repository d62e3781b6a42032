"""The types of a GGUF file's weights.

Source: ggml/include/ggml.h of the llama.cpp that llama-cpp-python 0.3.36 vendors.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class TensorType:
    """How a tensor stores numbers: a block of `elements` numbers takes `nbytes` bytes.

    scales: offsets of the F16 scales within a block.
    """

    name: str
    elements: int
    nbytes: int
    scales: tuple[int, ...] = ()


# By enum ggml_type. The scales of IQ1_M are spread over bits, those of MXFP4 are powers of two.
TENSOR_TYPES = {
    number: TensorType(name, elements, nbytes, scales)
    for number, name, elements, nbytes, scales in (
        (0, "F32", 1, 4, ()),
        (1, "F16", 1, 2, ()),
        (2, "Q4_0", 32, 18, (0,)),
        (3, "Q4_1", 32, 20, (0, 2)),
        (6, "Q5_0", 32, 22, (0,)),
        (7, "Q5_1", 32, 24, (0, 2)),
        (8, "Q8_0", 32, 34, (0,)),
        (10, "Q2_K", 256, 84, (80, 82)),
        (11, "Q3_K", 256, 110, (108,)),
        (12, "Q4_K", 256, 144, (0, 2)),
        (13, "Q5_K", 256, 176, (0, 2)),
        (14, "Q6_K", 256, 210, (208,)),
        (16, "IQ2_XXS", 256, 66, (0,)),
        (17, "IQ2_XS", 256, 74, (0,)),
        (18, "IQ3_XXS", 256, 98, (0,)),
        (19, "IQ1_S", 256, 50, (0,)),
        (20, "IQ4_NL", 32, 18, (0,)),
        (21, "IQ3_S", 256, 110, (0,)),
        (22, "IQ2_S", 256, 82, (0,)),
        (23, "IQ4_XS", 256, 136, (0,)),
        (29, "IQ1_M", 256, 56, ()),
        (30, "BF16", 1, 2, ()),
        (34, "TQ1_0", 256, 54, (52,)),
        (35, "TQ2_0", 256, 66, (64,)),
        (39, "MXFP4", 32, 17, ()),
    )
}
