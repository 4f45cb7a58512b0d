// Facts about the engine in use.
internal import CTorch

public enum Engine {
    /// LibTorch's version, such as "2.13.0".
    public static var version: String { String(cString: ct_version()) }
    /// LibTorch's own account of how it was built.
    public static var buildInformation: String { String(cString: ct_build_information()) }
    /// The instruction set LibTorch's kernels dispatch to: "AVX512", "AVX2", "DEFAULT".
    public static var cpuCapability: String { String(cString: ct_cpu_capability()) }
    public static var hasCUDA: Bool { ct_cuda_available() }
    /// Threads that one operation may use. Results are bit-identical only at an equal number.
    public static var threads: Int {
        get { Int(ct_threads()) }
        set { ct_set_threads(Int32(newValue)) }
    }
    /// Tensor handles alive in the process: for leak tests.
    public static var liveHandles: Int { Int(ct_live_handles()) }
}
