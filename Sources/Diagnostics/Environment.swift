// What the person's environment says.
internal import Glibc

/// An environment variable that is set to something.
public func environmentVariable(_ name: String) -> String? {
    getenv(name).map { String(cString: $0) }.flatMap { $0.isEmpty ? nil : $0 }
}

/// Whether people see `descriptor` on a screen that takes escape codes, and do not refuse them (no-color.org).
public func takesEscapeCodes(_ descriptor: Int32) -> Bool {
    isatty(descriptor) == 1 && environmentVariable("NO_COLOR") == nil
        && environmentVariable("TERM").map { $0 != "dumb" } ?? false
}
