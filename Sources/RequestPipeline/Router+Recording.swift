import Core
import Replay
import Scheduling

extension Router {
    /// Has the scheduler decide, and the decision recorded if it is one that is.
    func schedule(
        _ cycle: inout SchedulingCycle
    ) throws(SchedulingFailure) -> SchedulingResult {
        cycle.scoreRecords = configuration.recordsScores ? [] : nil
        cycle.filterRecords = nil
        guard let recorder, recorder.takesNext() else { return try scheduler.schedule(&cycle) }
        let draft = DecisionDraft(&cycle)
        do throws(SchedulingFailure) {
            let result = try scheduler.schedule(&cycle)
            recorder.record(draft.record(.picked(result), cycle))
            return result
        } catch {
            recorder.record(draft.record(.failed(error.summary), cycle))
            throw error
        }
    }
}
