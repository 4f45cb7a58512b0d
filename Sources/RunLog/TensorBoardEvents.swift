// TensorBoard's event file: TFRecord frames around the protocol buffer `Event`, written by hand because scalars need
// five fields of it.
//
// Frame: length (8 bytes, little-endian), masked CRC-32C of the length, data, masked CRC-32C of the data.
// Event: 1 wall_time double, 2 step int64, 3 file_version string, 5 summary; Summary: 1 value (repeated);
// Summary.Value: 1 tag string, 2 simple_value float (tensorflow/core/util/event.proto, framework/summary.proto).

package enum TensorBoardEvents {
    /// The record every file begins with.
    package static func header(time: Double) -> [UInt8] {
        framed(event(time: time, step: 0, field: 3, Array("brain.Event:2".utf8)))
    }

    /// One record with the scalars of a step; `values` are written as fp32.
    package static func scalars(_ values: [(tag: String, value: Double)], step: Int, time: Double) -> [UInt8] {
        let summary = values.flatMap { tag, value in
            let float = withUnsafeBytes(of: Float(value).bitPattern.littleEndian) { Array($0) }
            return bytes(field: 1, bytes(field: 1, Array(tag.utf8)) + [2 << 3 | 5] + float)
        }
        return framed(event(time: time, step: step, field: 5, summary))
    }

    private static func event(time: Double, step: Int, field: UInt8, _ content: [UInt8]) -> [UInt8] {
        var out: [UInt8] = [1 << 3 | 1]
        withUnsafeBytes(of: time.bitPattern.littleEndian) { out += $0 }
        if step != 0 { out += [2 << 3 | 0] + varint(UInt64(bitPattern: Int64(step))) }
        return out + bytes(field: field, content)
    }

    private static func bytes(field: UInt8, _ content: [UInt8]) -> [UInt8] {
        [field << 3 | 2] + varint(UInt64(content.count)) + content
    }

    private static func varint(_ value: UInt64) -> [UInt8] {
        var rest = value, out: [UInt8] = []
        while rest >= 0x80 {
            out.append(UInt8(truncatingIfNeeded: rest) | 0x80)
            rest >>= 7
        }
        return out + [UInt8(rest)]
    }

    private static func framed(_ data: [UInt8]) -> [UInt8] {
        let length = withUnsafeBytes(of: UInt64(data.count).littleEndian) { Array($0) }
        return length + littleEndian(CRC32C.masked(length)) + data + littleEndian(CRC32C.masked(data))
    }

    private static func littleEndian(_ value: UInt32) -> [UInt8] {
        withUnsafeBytes(of: value.littleEndian) { Array($0) }
    }
}
