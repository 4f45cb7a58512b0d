// 32-bit floats to blocks, bit-equal to the references: Q8_0 and Q4_0 to the `gguf` package (and ggml), the K types to
// ggml's `quantize_row_*_ref`, which is what llama.cpp uses without an importance matrix. Sums run in the same order, each
// operation rounded to 32 bits, so that nothing here may be reassociated or fused.

extension GGMLType {
    /// Types that `quantize` writes.
    public static let writable: [GGMLType] = [.f32, .f16, .bf16, .q8_0, .q4_0, .q4_K, .q5_K, .q6_K]

    /// Bytes that `count` elements take.
    ///
    /// - Precondition: whole blocks.
    public func byteCount(of count: Int) -> Int {
        precondition(count % block.elements == 0, "\(count) elements are not whole \(name) blocks")
        return count / block.elements * block.bytes
    }

    /// The blocks of `values`, which must be finite for types of blocks: a scale of infinity would lose the block.
    ///
    /// - Parameter destination: room for `byteCount(of: values.count)` bytes.
    /// - Precondition: one of `writable`; whole blocks.
    public func quantize(_ values: UnsafeBufferPointer<Float>, into destination: UnsafeMutableRawPointer) {
        guard let source = values.baseAddress else { return }
        let out = destination.assumingMemoryBound(to: UInt8.self), bytes = byteCount(of: values.count)
        switch self {
        case .f32: destination.copyMemory(from: source, byteCount: bytes)
        case .f16: convertF32ToF16(source, destination, count: values.count)
        case .bf16: convertF32ToBF16(source, destination, count: values.count)
        case .q8_0: eachBlock(source, values.count, out, encodeQ8_0)
        case .q4_0: eachBlock(source, values.count, out, encodeQ4_0)
        case .q4_K: eachBlock(source, values.count, out, encodeQ4_K)
        case .q5_K: eachBlock(source, values.count, out, encodeQ5_K)
        case .q6_K: eachBlock(source, values.count, out, encodeQ6_K)
        default: preconditionFailure("\(name) is not written")
        }
    }

    /// What `quantize` keeps of `values`.
    ///
    /// - Precondition: as for `quantize`; as many elements in `destination`.
    public func round(_ values: UnsafeBufferPointer<Float>, into destination: UnsafeMutableBufferPointer<Float>) {
        precondition(values.count == destination.count)
        let atOnce = 4096  // whole blocks of every type
        withUnsafeTemporaryAllocation(byteCount: byteCount(of: min(atOnce, values.count)), alignment: 64) { blocks in
            for start in stride(from: 0, to: values.count, by: atOnce) {
                let part = UnsafeBufferPointer(rebasing: values[start..<min(start + atOnce, values.count)])
                quantize(part, into: blocks.baseAddress!)
                dequantizeBlocks(
                    self, blocks.baseAddress!, count: part.count / block.elements, destination.baseAddress! + start)
            }
        }
    }

    @inline(__always)
    private func eachBlock(
        _ source: UnsafePointer<Float>, _ count: Int, _ out: UnsafeMutablePointer<UInt8>,
        _ encode: (UnsafePointer<Float>, UnsafeMutablePointer<UInt8>) -> Void
    ) {
        let (elements, bytes) = block
        for i in 0..<count / elements { encode(source + i * elements, out + i * bytes) }
    }
}

private typealias Values = UnsafePointer<Float>
private typealias Bytes = UnsafeMutablePointer<UInt8>

private func storeHalf(_ value: Float, _ out: Bytes, _ offset: Int) {
    UnsafeMutableRawPointer(out).storeBytes(of: f16FromFloat(value), toByteOffset: offset, as: UInt16.self)
}

/// The nearest integer, ties to even, of a number below 2²² in size.
@inline(__always)
private func nearest(_ value: Float) -> Int32 {
    // Adding 1.5 · 2²³ leaves no bits for fractions.
    Int32(bitPattern: (value + 12_582_912).bitPattern & 0x7F_FFFF) - 0x40_0000
}

@inline(__always)
private func nearest(_ value: Float, in range: ClosedRange<Int32>) -> Int32 {
    max(range.lowerBound, min(range.upperBound, nearest(value)))
}

// MARK: Blocks of 32

/// d = max |x| / 127, q = x / d to the nearest, halves away from zero.
private func encodeQ8_0(_ x: Values, _ out: Bytes) {
    var largest: Float = 0
    for i in 0..<32 { largest = max(largest, abs(x[i])) }
    let d = largest / 127, inverse = d == 0 ? 0 : 1 / d
    storeHalf(d, out, 0)
    for i in 0..<32 {
        let q = (x[i] * inverse).rounded(.toNearestOrAwayFromZero)
        // A denormal d has an infinite inverse. C leaves open what byte infinity is; on x86-64 it is 0, in the package, too.
        out[2 + i] = UInt8(bitPattern: Int8(q.isFinite ? max(-127, min(127, q)) : 0))
    }
}

/// d = -x / 8 for the x largest in size, which so is -8; q = x / d + 8 to the nearest, 15 at most.
private func encodeQ4_0(_ x: Values, _ out: Bytes) {
    var largest: Float = 0, size: Float = 0
    for i in 0..<32 where abs(x[i]) > size { (size, largest) = (abs(x[i]), x[i]) }
    let d = largest / -8, inverse = d == 0 ? 0 : 1 / d
    storeHalf(d, out, 0)
    func code(_ value: Float) -> UInt8 {
        let q = value * inverse + 8.5
        return q.isFinite ? UInt8(max(0, min(15, q))) : 0  // without its fraction; infinity as in Q8_0
    }
    for i in 0..<16 { out[2 + i] = code(x[i]) | code(x[i + 16]) << 4 }
}

// MARK: Blocks of 256 with scale and minimum: Q4_K, Q5_K

/// x ≈ scale q - minimum for 32 numbers, q from 0 to `top`: first from the extremes, then the best of `steps + 1` trials in
/// which the q of one more scale give scale and minimum by weighted least squares.
///
/// - Returns: q are in `q`.
@inline(__always)
private func fitWithMinimum(
    _ x: Values, top: Int32, weights: Values, from: Float, steps: Int, _ q: UnsafeMutablePointer<UInt8>,
    _ trial: UnsafeMutablePointer<UInt8>
) -> (scale: Float, minimum: Float) {
    var lowest = x[0], highest = x[0], sumW = weights[0], sumX = weights[0] * x[0]
    for i in 1..<32 {
        if x[i] < lowest { lowest = x[i] }
        if x[i] > highest { highest = x[i] }
        sumW += weights[i]
        sumX += weights[i] * x[i]
    }
    if lowest > 0 { lowest = 0 }
    if highest == lowest {
        q.update(repeating: 0, count: 32)
        return (0, -lowest)
    }
    let n = Float(top), range = highest - lowest
    var minimum = lowest, inverse = n / range
    var scale = 1 / inverse, least: Float = 0
    for i in 0..<32 {
        q[i] = UInt8(nearest(inverse * (x[i] - lowest), in: 0...top))
        let off = scale * Float(q[i]) + minimum - x[i]
        least += weights[i] * (off * off)
    }
    for step in 0...steps {
        // The trials start from the minimum found so far, over the range from it.
        inverse = (from + 0.1 * Float(step) + n) / (highest - minimum)
        var sumQ: Float = 0, sumQQ: Float = 0, sumXQ: Float = 0
        for i in 0..<32 {
            let code = nearest(inverse * (x[i] - minimum), in: 0...top)
            trial[i] = UInt8(code)
            let l = Float(code), weighted = weights[i] * l
            sumQ += weighted
            sumQQ += weighted * l
            sumXQ += weighted * x[i]
        }
        let determinant = sumW * sumQQ - sumQ * sumQ
        guard determinant > 0 else { continue }
        var newScale = (sumW * sumXQ - sumX * sumQ) / determinant
        var newMinimum = (sumQQ * sumX - sumQ * sumXQ) / determinant
        if newMinimum > 0 { (newMinimum, newScale) = (0, sumXQ / sumQQ) }
        var error: Float = 0
        for i in 0..<32 {
            let off = newScale * Float(trial[i]) + newMinimum - x[i]
            error += weights[i] * (off * off)
        }
        if error < least {
            q.update(from: trial, count: 32)
            (least, scale, minimum) = (error, newScale, newMinimum)
        }
    }
    return (scale, -minimum)
}

/// The q of 256 numbers, and d, dmin and the packed 6-bit scales and minima at the block's beginning.
@inline(__always)
private func encodeWithMinima(
    _ x: Values, top: Int32, from: Float, steps: Int, _ out: Bytes, _ q: UnsafeMutablePointer<UInt8>
) {
    withUnsafeTemporaryAllocation(of: Float.self, capacity: 48) { room in
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 32) { trial in
            let weights = room.baseAddress!, scales = weights + 32, minima = weights + 40
            for group in 0..<8 {
                let x = x + 32 * group
                var squares: Float = 0
                for i in 0..<32 { squares += x[i] * x[i] }
                let mean = (squares / 32).squareRoot()
                for i in 0..<32 { weights[i] = mean + abs(x[i]) }
                (scales[group], minima[group]) = fitWithMinimum(
                    x, top: top, weights: weights, from: from, steps: steps, q + 32 * group, trial.baseAddress!)
            }
            var largestScale: Float = 0, largestMinimum: Float = 0
            for group in 0..<8 {
                if scales[group] > largestScale { largestScale = scales[group] }
                if minima[group] > largestMinimum { largestMinimum = minima[group] }
            }
            let inverseScale = largestScale > 0 ? 63 / largestScale : 0
            let inverseMinimum = largestMinimum > 0 ? 63 / largestMinimum : 0
            let packed = out + 4
            for group in 0..<8 {
                let scale = min(63, UInt8(truncatingIfNeeded: nearest(inverseScale * scales[group])))
                let minimum = min(63, UInt8(truncatingIfNeeded: nearest(inverseMinimum * minima[group])))
                if group < 4 {
                    (packed[group], packed[group + 4]) = (scale, minimum)
                } else {
                    packed[group + 4] = scale & 0xF | minimum << 4
                    packed[group - 4] |= (scale >> 4) << 6
                    packed[group] |= (minimum >> 4) << 6
                }
            }
            storeHalf(largestScale / 63, out, 0)
            storeHalf(largestMinimum / 63, out, 2)
            // With the scales as they are now stored, each number takes its nearest code.
            let d = halfScale(out, 0), dmin = halfScale(out, 2)
            for group in 0..<8 {
                let (scale, minimum) = packedScale(packed, group)
                let step = d * scale, offset = dmin * minimum
                if step == 0 { continue }
                for i in 32 * group..<32 * group + 32 { q[i] = UInt8(nearest((x[i] + offset) / step, in: 0...top)) }
            }
        }
    }
}

private func encodeQ4_K(_ x: Values, _ out: Bytes) {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) { codes in
        let q = codes.baseAddress!
        encodeWithMinima(x, top: 15, from: -1, steps: 20, out, q)
        for pair in 0..<4 {
            for i in 0..<32 { out[16 + 32 * pair + i] = q[64 * pair + i] | q[64 * pair + 32 + i] << 4 }
        }
    }
}

private func encodeQ5_K(_ x: Values, _ out: Bytes) {
    withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) { codes in
        let q = codes.baseAddress!
        encodeWithMinima(x, top: 31, from: -0.5, steps: 15, out, q)
        let high = out + 16, low = out + 48
        for i in 0..<32 {
            high[i] = (0..<8).reduce(0) { $0 | (q[32 * $1 + i] >> 4) << UInt8($1) }
            for pair in 0..<4 { low[32 * pair + i] = q[64 * pair + i] & 0xF | q[64 * pair + 32 + i] << 4 }
        }
    }
}

// MARK: Blocks of 256 without minima: Q6_K

/// x ≈ scale q for 16 numbers, q from -32 to 31, each off weighed by x²: the best of 19 scales around the one that makes the
/// number largest in size -32.
///
/// - Returns: q + 32 are in `codes`.
@inline(__always)
private func fitAroundZero(_ x: Values, _ codes: UnsafeMutablePointer<UInt8>) -> Float {
    var largest: Float = 0, size: Float = 0
    for i in 0..<16 where abs(x[i]) > size { (size, largest) = (abs(x[i]), x[i]) }
    if size < 1e-15 {
        codes.update(repeating: 0, count: 16)
        return 0
    }
    var scale: Float = 0, best: Float = 0
    for step in [0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9] as [Float] {
        let inverse = -(32 + 0.1 * step) / largest
        var sumXQ: Float = 0, sumQQ: Float = 0
        for i in 0..<16 {
            let q = Float(nearest(inverse * x[i], in: -32...31)), weight = x[i] * x[i]
            sumXQ += weight * x[i] * q
            sumQQ += weight * q * q
        }
        guard step == 0 || sumQQ > 0 && sumXQ * sumXQ > best * sumQQ else { continue }
        scale = sumQQ != 0 ? sumXQ / sumQQ : 0
        best = scale * sumXQ
        for i in 0..<16 { codes[i] = UInt8(nearest(inverse * x[i], in: -32...31) + 32) }
    }
    return scale
}

private func encodeQ6_K(_ x: Values, _ out: Bytes) {
    withUnsafeTemporaryAllocation(of: Float.self, capacity: 16) { scales in
        withUnsafeTemporaryAllocation(of: UInt8.self, capacity: 256) { q in
            var largest: Float = 0
            for group in 0..<16 {
                scales[group] = fitAroundZero(x + 16 * group, q.baseAddress! + 16 * group)
                if abs(scales[group]) > abs(largest) { largest = scales[group] }
            }
            if abs(largest) < 1e-15 { return out.update(repeating: 0, count: 210) }
            let inverse = -128 / largest
            storeHalf(1 / inverse, out, 208)
            let d = halfScale(out, 208)
            for group in 0..<16 {
                let scale = Int8(truncatingIfNeeded: min(127, nearest(inverse * scales[group])))
                out[192 + group] = UInt8(bitPattern: scale)
                let step = d * Float(scale)
                if step == 0 { continue }
                for i in 16 * group..<16 * group + 16 { q[i] = UInt8(nearest(x[i] / step, in: -32...31) + 32) }
            }
            for half in 0..<2 {
                let q = q.baseAddress! + 128 * half, low = out + 64 * half, high = out + 128 + 32 * half
                for i in 0..<32 {
                    low[i] = q[i] & 0xF | q[i + 64] << 4
                    low[i + 32] = q[i + 32] & 0xF | q[i + 96] << 4
                    high[i] = q[i] >> 4 | (q[i + 32] >> 4) << 2 | (q[i + 64] >> 4) << 4 | (q[i + 96] >> 4) << 6
                }
            }
        }
    }
}
