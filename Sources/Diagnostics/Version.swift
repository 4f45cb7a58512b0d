// The version of the program, written once.

/// Semantic version of Needletail; `needletail --version` prints it and every run folder records it.
public let programVersion = "0.1.0"
