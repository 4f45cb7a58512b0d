// Pickle files run code when they are opened; they are recognised here and never read.
import Diagnostics

private let pickleExtensions = [".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill"]

/// True for the extensions under which pickled weights travel.
public func hasPickleExtension(_ path: String) -> Bool {
    let name = path.utf8.split(separator: UInt8(ascii: "/")).last.map { String($0)! } ?? path
    let lower = name.lowercased()
    return pickleExtensions.contains { lower.hasSuffix($0) }
}

/// True when the first bytes are those of a pickle, of a zip archive with one in it, which is what `torch.save` and
/// TorchScript write, or of numpy's file of objects. Nothing is interpreted. (A safetensors header length can begin with
/// the same bytes.)
public func looksLikePickle(_ beginning: UnsafeRawBufferPointer) -> Bool {
    if beginning.count >= 4, beginning[0] == 0x50, beginning[1] == 0x4B, beginning[2] == 0x03, beginning[3] == 0x04 {
        // PyTorch writes the pickle first; one in an archive in an archive has one of the other names.
        return pickleExtensions.contains { contains($0, in: beginning.prefix(4096)) }
    }
    if beginning.starts(with: [0x93] + Array("NUMPY".utf8)) { return contains("|O", in: beginning.prefix(128)) }
    let isNew = beginning.count >= 2 && beginning[0] == 0x80 && (2...5).contains(beginning[1])
    return (isNew || beginsWithGlobal(beginning)) && !SafetensorsHeader.isPlausible(beginning)
}

private func contains(_ text: String, in bytes: Slice<UnsafeRawBufferPointer>) -> Bool {
    let text = Array(text.utf8)
    return bytes.indices.dropLast(text.count - 1).contains { bytes[$0..<$0 + text.count].elementsEqual(text) }
}

/// Protocols 0 and 1 have no magic number, but one that runs code begins by naming it: `cposix\nsystem\n`.
private func beginsWithGlobal(_ bytes: UnsafeRawBufferPointer) -> Bool {
    guard bytes.first == UInt8(ascii: "c") else { return false }
    let names = bytes.dropFirst().prefix(256).split(separator: 0x0A, maxSplits: 2, omittingEmptySubsequences: false)
    return names.count == 3
        && names.prefix(2).allSatisfy { name in !name.isEmpty && name.allSatisfy(isNameByte) }
}

private func isNameByte(_ byte: UInt8) -> Bool {
    switch byte {
    case 0x30...0x39, 0x41...0x5A, 0x61...0x7A, UInt8(ascii: "."), UInt8(ascii: "_"): true
    default: false
    }
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
