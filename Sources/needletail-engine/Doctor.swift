// doctor: the engine's part of the report.
import CommandLineInterface
import Tensors

func doctor() throws {
    var report = DoctorReport()
    report.add("libtorch", Engine.version)
    report.add("instruction set", "\(Engine.cpuCapability) in LibTorch, \(Engine.kernelCapability) in our kernels")
    report.add(
        "bf16 products",
        Engine.prefersBFloat16(on: .cpu) ? "in hardware: dtype auto is bf16" : "not in hardware: dtype auto is fp32")
    report.add("threads", "\(Engine.threads)")
    report.add("cuda", Engine.hasCUDA ? "available" : "not available")
    report.add("process groups", Engine.processGroups.joined(separator: ", "))
    try StandardOutput.write(report.text)
}
