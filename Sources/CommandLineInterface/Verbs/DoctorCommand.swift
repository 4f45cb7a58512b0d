// needletail doctor
public import ArgumentParser
internal import Diagnostics
internal import RunLog

/// Reports the machine and what the program was built with: the part without LibTorch here, the rest by the engine.
public struct DoctorCommand: EngineCommand {
    public static let configuration = CommandConfiguration(
        commandName: "doctor",
        abstract: "Report the machine, the toolchain and the engine.",
        discussion: """
            Example:
              needletail doctor
            """
    )

    public init() {}

    public func prepareInFront() throws {
        var lines = DoctorReport()
        lines.add("needletail", programVersion)
        lines.add("program", try programFolder())
        lines.add("system", Machine.system)
        lines.add("compiler", Machine.compiler)
        lines.add("processor", Machine.processor)
        lines.add("processors", "\(Machine.processors), this process may use \(Machine.allowedProcessors)")
        lines.add("memory", Machine.memory)
        try StandardOutput.write(lines.text)
    }
}

/// Lines of `name` and value in two columns, as `doctor` prints them; the engine's part uses it too.
public struct DoctorReport {
    public private(set) var text = ""

    public init() {}

    public mutating func add(_ name: String, _ value: String) {
        text += name + String(repeating: " ", count: max(1, 22 - name.utf8.count)) + value + "\n"
    }
}
