import Core
import KVIndex
import Testing

/// Tables of inputs and of what the tracker must answer.
@Suite struct SequenceTrackerTests {
    private enum Step {
        case connected([SequenceTracker.Command])
        case disconnected([SequenceTracker.Command])
        case live(UInt64, SequenceTracker.Disposition, [SequenceTracker.Command] = [])
        case released(UInt64, SequenceTracker.Disposition, [SequenceTracker.Command] = [])
        case replayed(UInt64, SequenceTracker.Disposition, [SequenceTracker.Command] = [])
        /// A batch of another process under the same number.
        case alien(UInt64, SequenceTracker.Disposition, [SequenceTracker.Command] = [])
        case ended([SequenceTracker.Command])
        case failed([SequenceTracker.Command])
        /// Time passes up to the deadline.
        case deadline([SequenceTracker.Command])
        case later(Duration)
    }

    @discardableResult
    private func run(
        canReplay: Bool = true, _ steps: [Step], _ location: SourceLocation = #_sourceLocation
    ) -> SequenceTracker {
        var policy = SequenceTracker.Policy()
        policy.canReplay = canReplay
        var tracker = SequenceTracker(policy: policy)
        var now = MonotonicTime(nanoseconds: 1_000_000_000)
        for (index, step) in steps.enumerated() {
            let note = Comment("step \(index): \(step)")
            func expect(
                _ decision: SequenceTracker.Decision, _ disposition: SequenceTracker.Disposition,
                _ commands: [SequenceTracker.Command]
            ) {
                #expect(decision.commands == commands, note, sourceLocation: location)
                #expect(decision.disposition == disposition, note, sourceLocation: location)
            }
            func expect(
                _ actual: [SequenceTracker.Command], _ commands: [SequenceTracker.Command]
            ) {
                #expect(actual == commands, note, sourceLocation: location)
            }
            switch step {
            case .connected(let commands): expect(tracker.connected(at: now), commands)
            case .disconnected(let commands): expect(tracker.disconnected(), commands)
            case .live(let sequence, let disposition, let commands):
                expect(
                    tracker.live(sequence, fingerprint: sequence, at: now), disposition, commands)
            case .released(let sequence, let disposition, let commands):
                expect(
                    tracker.released(sequence, fingerprint: sequence, at: now), disposition,
                    commands)
            case .replayed(let sequence, let disposition, let commands):
                expect(
                    tracker.replayed(sequence, fingerprint: sequence, at: now), disposition,
                    commands)
            case .alien(let sequence, let disposition, let commands):
                expect(
                    tracker.replayed(sequence, fingerprint: ~sequence, at: now), disposition,
                    commands)
            case .ended(let commands): expect(tracker.replayEnded(at: now), commands)
            case .failed(let commands): expect(tracker.replayFailed(at: now), commands)
            case .deadline(let commands):
                if let deadline = tracker.deadline {
                    let early = MonotonicTime(nanoseconds: deadline.nanoseconds - 1)
                    expect(tracker.tick(early), [])
                    now = deadline
                }
                expect(tracker.tick(now), commands)
            case .later(let duration): now = now + duration
            }
        }
        return tracker
    }

    /// The engine had sent nothing when it was asked, and then its first batches were lost.
    @Test func firstBatchesThatAreMissingAreAskedFor() {
        let tracker = run([
            .connected([.startReplay(from: 0)]),
            .ended([.releaseHeld]),
            .live(2, .hold, [.startReplay(from: 0)]),
            .replayed(0, .apply),
            .replayed(1, .apply),
            .replayed(2, .apply),
            .ended([.releaseHeld]),
            .released(2, .discard),
            .live(3, .apply),
        ])
        #expect(tracker.counters.gapCount == 1)
        #expect(tracker.counters.lostCount == 0)
    }

    @Test func firstConnectionReplaysFromTheStart() {
        let tracker = run([
            .connected([.startReplay(from: 0)]),
            .live(3, .hold),
            .replayed(0, .apply), .replayed(1, .apply), .replayed(2, .apply), .replayed(3, .apply),
            .live(4, .hold),
            .ended([.releaseHeld]),
            .released(3, .discard), .released(4, .apply),
            .live(5, .apply),
        ])
        #expect(tracker.counters.lastSequence == 5)
        #expect(tracker.counters.gapCount == 0)
        #expect(tracker.deadline == nil)
    }

    @Test func startOfABufferThatWrappedIsAccepted() {
        run([
            .connected([.startReplay(from: 0)]),
            .replayed(100, .apply), .replayed(101, .apply),
            .ended([.releaseHeld]),
            .live(102, .apply),
        ])
    }

    @Test func batchBeforeTheNewsOfTheConnectionCountsAsIt() {
        run([
            .live(7, .hold, [.startReplay(from: 0)]),
            .replayed(0, .apply),
        ])
    }

    @Test func gapIsReplayedFromTheLastBatchApplied() {
        let tracker = run([
            .connected([.startReplay(from: 0)]), .ended([.releaseHeld]),
            .live(0, .apply), .live(1, .apply),
            .live(4, .hold, [.startReplay(from: 1)]),
            .live(5, .hold),
            .replayed(1, .discard), .replayed(2, .apply), .replayed(3, .apply),
            .replayed(4, .apply),
            .ended([.releaseHeld]),
            .released(4, .discard), .released(5, .apply),
            .live(6, .apply),
        ])
        #expect(tracker.counters.gapCount == 1)
        #expect(tracker.counters.lostCount == 0)
        #expect(tracker.counters.replayCount == 2)
    }

    @Test func sequenceGoingBackIsARestart() {
        let tracker = run([
            .connected([.startReplay(from: 0)]), .ended([.releaseHeld]),
            .live(0, .apply), .live(1, .apply), .live(2, .apply),
            .live(0, .hold, [.dropHeld, .clear, .startReplay(from: 0)]),
            .replayed(0, .apply), .ended([.releaseHeld]),
            .released(0, .discard), .live(1, .apply),
        ])
        #expect(tracker.counters.restartCount == 1)
    }

    @Test func restartDuringAReplayCancelsIt() {
        run([
            .connected([.startReplay(from: 0)]), .live(5, .hold), .replayed(0, .apply),
            .live(1, .hold, [.stopReplay, .dropHeld, .clear, .startReplay(from: 0)]),
            .replayed(0, .apply), .replayed(1, .apply),
        ])
    }

    /// The new process has overtaken the old one's numbers: only the replay shows it.
    @Test func otherBatchUnderTheLastNumberIsARestart() {
        let tracker = run([
            .connected([.startReplay(from: 0)]), .ended([.releaseHeld]),
            .live(0, .apply), .live(1, .apply),
            .disconnected([.dropHeld]),
            .connected([.startReplay(from: 1)]),
            .alien(1, .discard, [.stopReplay, .dropHeld, .clear, .startReplay(from: 0)]),
            .alien(0, .apply), .alien(1, .apply), .ended([.releaseHeld]),
            .live(2, .apply),
        ])
        #expect(tracker.counters.restartCount == 1)
    }

    /// The new process has published nothing yet, or less.
    @Test func replayWithoutTheLastBatchIsARestart() {
        let tracker = run([
            .connected([.startReplay(from: 0)]), .ended([.releaseHeld]), .live(0, .apply),
            .disconnected([.dropHeld]), .connected([.startReplay(from: 0)]),
            .ended([.stopReplay, .dropHeld, .clear, .startReplay(from: 0)]),
            .ended([.releaseHeld]),
            .live(0, .apply),
        ])
        #expect(tracker.counters.restartCount == 1)
    }

    @Test func reconnectionOfTheSameProcessKeepsItsBlocks() {
        let tracker = run([
            .connected([.startReplay(from: 0)]), .ended([.releaseHeld]), .live(0, .apply),
            .disconnected([.dropHeld]), .connected([.startReplay(from: 0)]),
            .replayed(0, .discard), .replayed(1, .apply), .ended([.releaseHeld]),
            .live(2, .apply),
        ])
        #expect(tracker.counters.restartCount == 0)
    }

    @Test func replayThatLostItsBeginningClears() {
        let tracker = run([
            .connected([.startReplay(from: 0)]), .ended([.releaseHeld]), .live(0, .apply),
            .live(50, .hold, [.startReplay(from: 0)]),
            .replayed(40, .apply, [.clear]), .replayed(41, .apply),
        ])
        #expect(tracker.counters.lostCount == 39)
    }

    @Test func replayCutInTheMiddleIsTakenUpAgain() {
        run([
            .connected([.startReplay(from: 0)]),
            .replayed(0, .apply), .replayed(1, .apply),
            .replayed(5, .discard, [.stopReplay]),
            .deadline([.startReplay(from: 1)]),
            .replayed(1, .discard), .replayed(2, .apply),
        ])
    }

    @Test func deadReplayEndpointIsGivenUpAndTriedAgainLater() {
        let tracker = run([
            .connected([.startReplay(from: 0)]), .failed([]),
            .deadline([.startReplay(from: 0)]), .failed([]),
            .live(3, .hold),
            .deadline([.startReplay(from: 0)]), .failed([.releaseHeld]),
            .released(3, .apply),
            // Gaps are accepted while it cools down.
            .live(5, .apply),
            .later(.seconds(29)), .live(7, .apply),
            .later(.seconds(2)), .live(9, .hold, [.startReplay(from: 7)]),
        ])
        #expect(tracker.counters.failedReplayCount == 1)
        #expect(tracker.counters.lostCount == 2)
    }

    /// An engine that answers but does not have what is missing.
    @Test func uselessReplaysEnd() {
        var steps: [Step] = [
            .connected([.startReplay(from: 0)]), .ended([.releaseHeld]), .live(0, .apply),
            .live(2, .hold, [.startReplay(from: 0)]),
        ]
        steps += [
            .replayed(0, .discard), .ended([.releaseHeld]),
            .released(2, .hold, [.startReplay(from: 0)]),
            .replayed(0, .discard), .ended([.releaseHeld]), .released(2, .apply),
            .live(3, .apply),
        ]
        let tracker = run(steps)
        #expect(tracker.counters.lostCount == 1)
    }

    @Test func slowReplayEndsAtTheTotalTime() {
        run([
            .connected([.startReplay(from: 0)]), .replayed(0, .apply),
            .deadline([.stopReplay, .releaseHeld]),
            .live(9, .apply),
        ])
    }

    @Test func connectionLostDuringAReplay() {
        run([
            .connected([.startReplay(from: 0)]), .live(3, .hold), .replayed(0, .apply),
            .disconnected([.stopReplay, .dropHeld]),
            .replayed(1, .discard),
            .connected([.startReplay(from: 0)]),
        ])
    }

    @Test func withoutReplayGapsAreCountedAndRestartsClear() {
        let tracker = run(
            canReplay: false,
            [
                .connected([.releaseHeld]),
                .live(5, .apply), .live(6, .apply), .live(9, .apply),
                .live(2, .apply, [.dropHeld, .clear, .releaseHeld]),
                .live(3, .apply),
            ])
        #expect(tracker.counters.gapCount == 1)
        #expect(tracker.counters.lostCount == 2)
        #expect(tracker.counters.restartCount == 1)
        #expect(tracker.counters.replayCount == 0)
    }

    /// The numbers are what an engine claims; their sum is more than a number holds.
    @Test func absurdNumbersDoNotOverflow() {
        var tracker = run(
            canReplay: false,
            [
                .connected([.releaseHeld]),
                .live(0, .apply), .live(.max, .apply),
                .live(0, .apply, [.dropHeld, .clear, .releaseHeld]), .live(.max, .apply),
            ])
        #expect(tracker.counters.lostCount == .max)
        tracker.couldNotRead()
        #expect(tracker.counters.lostCount == .max)
    }
}
