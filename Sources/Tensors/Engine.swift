// Facts about the engine in use.
internal import CTorch
internal import Kernels

public enum Engine {
    /// LibTorch's version, such as "2.13.0".
    public static var version: String { String(cString: ct_version()) }
    /// LibTorch's own account of how it was built.
    public static var buildInformation: String { String(cString: ct_build_information()) }
    /// The newest instruction set that our kernels use here.
    public static var kernelCapability: String {
        ["scalar", "AVX2", "AVX512", "AVX512-BF16", "AMX-BF16"][Int(nt_isa_level())]
    }

    /// The instruction set LibTorch's kernels dispatch to: "AVX512", "AVX2", "DEFAULT".
    public static var cpuCapability: String { String(cString: ct_cpu_capability()) }
    /// Whether products in bfloat16 are faster than in fp32: in hardware on CUDA, with AVX512-BF16 or AMX on a CPU.
    public static func prefersBFloat16(on device: Device) -> Bool { device == .cpu ? nt_cpu_has_bf16() != 0 : true }
    public static var hasCUDA: Bool { ct_cuda_available() }
    /// Lets a step's tensors take the memory of the step before instead of the system's, and bounds what is kept of products
    /// prepared for a shape. Before the first operation.
    public static func prepareForTraining() { ct_prepare_for_training() }
    /// Gives the pages of freed memory back, which otherwise stay for the tensors of the next step: after work that needed more
    /// than what follows.
    public static func releaseFreeMemory() { ct_release_free_memory() }
    /// Threads that one operation may use. Results are bit-identical only at an equal number.
    public static var threads: Int {
        get { Int(ct_threads()) }
        set { ct_set_threads(Int32(newValue)) }
    }
    /// Calls `body` with 0 ..< count on as many threads as an operation may use; returns when all calls have.
    ///
    /// - Parameter grain: calls that are worth waking a thread for.
    static func inParallel(_ count: Int, grain: Int, _ body: @escaping @Sendable (Int) -> Void) {
        withUnsafePointer(to: Loop(body: body)) { loop in
            ct_parallel_for(
                Int64(count), Int64(grain),
                { context, begin, end in
                    let loop = context!.assumingMemoryBound(to: Loop.self)
                    for i in begin..<end { loop.pointee.body(Int(i)) }
                }, UnsafeMutableRawPointer(mutating: loop))
        }
    }
    /// Back ends of process groups that this build of LibTorch has.
    public static var processGroups: [String] {
        [("gloo", ct_has_gloo()), ("nccl", ct_has_nccl()), ("mpi", ct_has_mpi())].filter(\.1).map(\.0)
    }
    /// Records the operations of `body`, backward passes included, with their shapes and times.
    ///
    /// - Parameter path: a file for chrome://tracing or ui.perfetto.dev (Kineto's JSON), written when body has ended.
    /// - Returns: false when no such file was written.
    public static func trace(to path: String, _ body: () -> Void) -> Bool {
        guard ct_trace_start() == CT_OK else { return false }
        body()
        return ct_trace_stop(path) == CT_OK
    }
    /// Calls of operations with a fused kernel that took it, and that took LibTorch's operations instead: for tests.
    public static var fusedCalls: (fused: Int, fallback: Int) { (Int(ct_fused_calls()), Int(ct_fallback_calls())) }
    /// Whether operations take fused kernels at all, else LibTorch's own; the process's, for tests that compare the two.
    public static func setKernels(_ enabled: Bool) { _ = ct_set_kernels(enabled) }
    /// Bytes that the process's heap has taken from the system, and those of them in use: for tests.
    public static var heap: (taken: Int, used: Int) {
        var taken: Int64 = 0, used: Int64 = 0
        ct_heap_bytes(&taken, &used)
        return (Int(taken), Int(used))
    }
    /// Tensor handles alive in the process: for leak tests.
    public static var liveHandles: Int { Int(ct_live_handles()) }
}

/// What a C loop carries.
private struct Loop {
    let body: @Sendable (Int) -> Void
}
