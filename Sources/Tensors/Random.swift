// Tensors of random numbers, and dropout.
internal import CTorch
internal import Glibc
public import RandomStreams

extension RandomStream {
    /// Uniform in [low, high), fp32.
    public func uniform(_ shape: [Int], _ low: Float, _ high: Float) -> Tensor {
        Tensor(uniform(shape.reduce(1, *)).map { low + (high - low) * $0 }, shape)
    }

    /// Normal with the given mean and standard deviation, fp32 (Box and Muller 1958, both of each pair used).
    public func normal(_ shape: [Int], mean: Double = 0, deviation: Double = 1) -> Tensor {
        let count = shape.reduce(1, *)
        let words = words(count + count % 2)
        var values = [Float](repeating: 0, count: count)
        for i in stride(from: 0, to: count, by: 2) {
            let radius = log((Double(words[i]) + 0.5) * 0x1p-32).magnitude * 2
            let angle = 2 * Double.pi * Double(words[i + 1]) * 0x1p-32
            values[i] = Float(mean + deviation * radius.squareRoot() * cos(angle))
            if i + 1 < count { values[i + 1] = Float(mean + deviation * radius.squareRoot() * sin(angle)) }
        }
        return Tensor(values, shape)
    }
}

/// Sets elements to zero and divides the others by `1 - p` (Srivastava et al. 2014,
/// jmlr.org/papers/v15/srivastava14a.html). Number i in row-major order is dropped where number i of
/// `stream.uniform` is below p.
public struct Dropout: Sendable, Equatable {
    public let stream: RandomStream
    /// p, 0 ..< 1.
    public let probability: Double

    public init(_ stream: RandomStream, probability: Double) {
        (self.stream, self.probability) = (stream, probability)
    }
}

extension Dropout? {
    var options: ct_dropout {
        ct_dropout(seed: self?.stream.seed ?? 0, stream: self?.stream.stream ?? 0, probability: self?.probability ?? 0)
    }
}
