// What a model was: a hash over the files that decide what it computes.
internal import Formats
internal import RunLog

extension ModelReference {
    /// SHA-256 over the names and hashes of the base's configuration and weights.
    public func baseHash() throws -> String {
        let names = try listFolder(baseFolder).filter { $0 == "config.json" || $0.hasSuffix(".safetensors") }
        let lines = try names.map { "\($0) \(try sha256(ofFile: joinPath(baseFolder, $0)))\n" }
        return sha256(ofBytes: Array(lines.joined().utf8))
    }
}
