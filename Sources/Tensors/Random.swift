// Tensors of random numbers.
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

    /// A mask `[shape]` of the given dtype for dropout: `1 / (1 - p)` where an element is kept, else 0.
    public func dropoutMask(_ shape: [Int], probability p: Double, _ dtype: DType) -> Tensor {
        let scale = Float(1 / (1 - p)), threshold = Float(p)
        return Tensor(uniform(shape.reduce(1, *)).map { $0 < threshold ? 0 : scale }, shape).to(dtype)
    }
}
