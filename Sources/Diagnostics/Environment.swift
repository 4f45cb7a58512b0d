// What the person's environment says.
internal import Glibc

/// An environment variable that is set to something.
public func environmentVariable(_ name: String) -> String? {
    getenv(name).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
}
