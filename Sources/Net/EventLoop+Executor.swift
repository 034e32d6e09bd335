/// An actor whose `unownedExecutor` is a loop runs on it, and may use everything that belongs to
/// it: control-plane code is then written with async and await, without locks and without hops.
extension EventLoop: SerialExecutor {
    /// Runs a job on the loop. A job that comes after ``shutdown()`` never runs.
    public func enqueue(_ job: consuming ExecutorJob) {
        let job = UnownedJob(job)
        execute { job.runSynchronously(on: self.asUnownedSerialExecutor()) }
    }

    /// Stops the process if the calling thread is not the loop's; lets the loop's callbacks use
    /// `assumeIsolated`.
    public func checkIsolated() {
        preconditionInLoop()
    }
}
