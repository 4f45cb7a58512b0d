// Made by verify/packed_goldens.py with scipy 1.17.1, numpy 2.4.6, gguf 0.19.0.

enum PackedGoldens {
    static let nf4Quantiles: [Double] = [
        -1.0, -0.696192805632343, -0.5250729594465005, -0.3949174259199071, -0.28444130892108205,
        -0.1847734028004556, -0.09104997598578049, 0.0, 0.07958031495840909, 0.1609301443802907, 0.2461122513474594,
        0.3379151367131279, 0.44070973186421625, 0.5626168879699849, 0.7229566441594734, 1.0,
    ]
    /// FNV-1a of 600 blocks' codes, and of the bits of the numbers after double quantisation.
    static let nf4Codes: UInt64 = 14531739749199851073
    static let nf4Decoded: UInt64 = 726689006980953670
    /// FNV-1a of the bytes of 7 rows of 96 numbers in Q8_0.
    static let q8_0Bytes: UInt64 = 9669045991080307425
    /// FNV-1a of the bits of three rows of 512 numbers read from random blocks.
    static let decoded: [String: UInt64] = [
        "Q4_0": 15902896316312366885,
        "Q4_1": 9786465674775715980,
        "Q5_0": 15100401914419484453,
        "Q5_1": 15625030691842239335,
        "Q8_0": 8481992095286165669,
        "Q2_K": 11883456304592215845,
        "Q3_K": 5314074475777490853,
        "Q4_K": 13112083928974520287,
        "Q5_K": 4395286270303604863,
        "Q6_K": 6143144165184942529,
        "F16": 1877596226881084197,
        "BF16": 6448985619567123237,
    ]
}
