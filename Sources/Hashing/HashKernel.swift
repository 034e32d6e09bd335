import CHashing

/// The code that computes SHA-256 on this CPU.
public enum HashKernel {
    /// The kernel in use, for logs: `sha-ni`, `armv8`, `openssl` or `portable`.
    public static var name: String { String(cString: ch_kernel_name()) }

    /// Changes the kernel of the whole process, for tests and measurements; nil picks the best.
    /// False, and no change, if there is none of that name or this CPU cannot run it.
    package static func select(_ name: String?) -> Bool { ch_kernel_select(name) == CH_OK }
}
