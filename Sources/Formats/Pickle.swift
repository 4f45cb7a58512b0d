// Pickle files run code when they are opened; they are recognised here and never read.
import Diagnostics

/// True for the extensions under which pickled weights travel.
public func hasPickleExtension(_ path: String) -> Bool {
    let name = path.utf8.split(separator: UInt8(ascii: "/")).last.map { String($0)! } ?? path
    let lower = name.lowercased()
    return [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"].contains { lower.hasSuffix($0) }
}

/// True when the first bytes are those of a pickle (protocol 2 or later) or of a zip archive with a pickle in it, which
/// is what `torch.save` writes. Nothing is interpreted. (A safetensors header length can begin with the same bytes.)
public func looksLikePickle(_ beginning: UnsafeRawBufferPointer) -> Bool {
    if beginning.count >= 4, beginning[0] == 0x50, beginning[1] == 0x4B, beginning[2] == 0x03, beginning[3] == 0x04 {
        return containsDataPickle(beginning)
    }
    guard beginning.count >= 2, beginning[0] == 0x80, (2...5).contains(beginning[1]) else { return false }
    return !SafetensorsHeader.isPlausible(beginning)
}

/// The name of the pickle in the first kilobytes of the archive: PyTorch writes it first.
private func containsDataPickle(_ archive: UnsafeRawBufferPointer) -> Bool {
    let window = archive.prefix(4096), name = Array("data.pkl".utf8)
    guard window.count >= name.count else { return false }
    return (0...window.count - name.count).contains { window[$0..<$0 + name.count].elementsEqual(name) }
}

/// What to do about a file that would have to be unpickled.
func pickleRefusal(_ path: String) -> UserError {
    UserError(
        "\(printable(path)): pickle files are never read, since opening one can run code; convert it to safetensors "
            + "where you trust it (Python: `safetensors.torch.save_file(torch.load(\"FILE\", weights_only=True), "
            + "\"model.safetensors\")`, or `save_pretrained` of transformers) and name the new file")
}

/// Throws `pickleRefusal` for a path with a pickle's extension or a file that begins like one.
public func refusePickle(path: String, beginning: UnsafeRawBufferPointer) throws {
    if hasPickleExtension(path) || looksLikePickle(beginning) { throw pickleRefusal(path) }
}
