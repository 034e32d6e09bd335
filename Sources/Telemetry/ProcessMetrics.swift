import Glibc

extension MetricsRegistry {
    /// Registers the metrics of the process itself under the names that all Prometheus clients
    /// share. Linux only: they are read from `/proc`.
    public func registerProcessMetrics() {
        counter("process_cpu_seconds_total", "Total user and system CPU time spent in seconds.") {
            cpuSeconds()
        }
        gauge("process_resident_memory_bytes", "Resident memory size in bytes.") {
            memoryBytes(field: 1)
        }
        gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.") {
            memoryBytes(field: 0)
        }
        gauge("process_open_fds", "Number of open file descriptors.") { openFileCount() }
        gauge("process_max_fds", "Maximum number of open file descriptors.") { openFileLimit() }
        let started = startSeconds()
        gauge(
            "process_start_time_seconds",
            "Start time of the process since unix epoch in seconds."
        ) { started }
    }
}

private func cpuSeconds() -> Double {
    var usage = rusage()
    // Cannot fail: `usage` is ours and the flag is known.
    getrusage(__rusage_who_t(RUSAGE_SELF.rawValue), &usage)
    return seconds(usage.ru_utime) + seconds(usage.ru_stime)
}

private func seconds(_ time: timeval) -> Double {
    Double(time.tv_sec) + Double(time.tv_usec) / 1e6
}

/// Field 0 of `/proc/self/statm` is the virtual size in pages, field 1 the resident part.
private func memoryBytes(field: Int) -> Double {
    let fields = procFile("/proc/self/statm").split(separator: " ")
    guard fields.count > field, let pages = Double(fields[field]) else { return .nan }
    return pages * Double(sysconf(Int32(_SC_PAGESIZE)))
}

private func openFileCount() -> Double {
    guard let folder = opendir("/proc/self/fd") else { return .nan }
    defer { closedir(folder) }
    var count = 0
    while readdir(folder) != nil { count += 1 }
    // Not counted: "." and "..", and the descriptor that reads the folder.
    return Double(count - 3)
}

private func openFileLimit() -> Double {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return .nan }
    return limit.rlim_cur == rlim_t.max ? .infinity : Double(limit.rlim_cur)
}

/// Boot time plus the start of the process after boot (proc(5): field 22 of `stat`, in ticks).
private func startSeconds() -> Double {
    let stat = procFile("/proc/self/stat")
    // The command name, field 2, may hold spaces and brackets; the last bracket ends it.
    guard let command = stat.lastIndex(of: ")") else { return .nan }
    let fields = stat[command...].split(separator: " ")
    let boot = procFile("/proc/stat").split(separator: "\n").first { $0.hasPrefix("btime ") }
    guard fields.count > 20, let ticks = Double(fields[20]),
        let bootSeconds = boot.flatMap({ Double($0.dropFirst(6)) })
    else { return .nan }
    return bootSeconds + ticks / Double(sysconf(Int32(_SC_CLK_TCK)))
}

/// The text of a file in `/proc`, whose size cannot be known beforehand; empty if unreadable.
private func procFile(_ path: String) -> String {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { return "" }
    defer { close(descriptor) }
    var text: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 16384)
    while true {
        let count = read(descriptor, &chunk, chunk.count)
        guard count > 0 else { return String(decoding: text, as: UTF8.self) }
        text.append(contentsOf: chunk[..<count])
    }
}
