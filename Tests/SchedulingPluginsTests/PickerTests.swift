import Scheduling
import SchedulingPlugins
import Testing

@Suite struct PickerTests {
    private func counts(_ picker: some Picker, _ scores: [Double], rounds: Int = 10_000) -> [Int] {
        var random = RandomSource(seed: 7)
        var counts = scores.map { _ in 0 }
        for _ in 0..<rounds {
            var candidates = scores.enumerated().map { ScoredCandidate(index: $0, score: $1) }
            picker.pick(&candidates, random: &random)
            counts[candidates[0].index] += 1
        }
        return counts
    }

    @Test func maxScoreTakesTheBestAndIsFairToEquals() throws {
        let picker = try plugin("max-score-picker", as: MaxScorePicker.self)
        let counts = counts(picker, [0.5, 2, 0.1, 2, 2])
        #expect(counts[0] == 0 && counts[2] == 0)
        for index in [1, 3, 4] { #expect((3133...3533).contains(counts[index])) }
    }

    @Test func maxScoreRanksFallbacks() throws {
        let picker = try plugin(
            "max-score-picker", "{maxNumOfEndpoints: 3}", as: MaxScorePicker.self)
        var random = RandomSource(seed: 1)
        var candidates = [0.1, 0.9, 0.5, 0.7].enumerated().map {
            ScoredCandidate(index: $0, score: $1)
        }
        picker.pick(&candidates, random: &random)
        #expect(candidates.map(\.index) == [1, 3, 2])
        var few = [ScoredCandidate(index: 4, score: 0)]
        picker.pick(&few, random: &random)
        #expect(few.map(\.index) == [4])
    }

    @Test func randomIgnoresScores() throws {
        let counts = counts(try plugin("random-picker", as: RandomPicker.self), [0, 5, 1, 9])
        for count in counts { #expect((2300...2700).contains(count)) }
    }

    @Test func weightedRandomFollowsScores() throws {
        let picker = try plugin("weighted-random-picker", as: WeightedRandomPicker.self)
        let counts = counts(picker, [1, 3, 0, 6])
        #expect((850...1150).contains(counts[0]))
        #expect((2800...3200).contains(counts[1]))
        #expect(counts[2] == 0)
        let zeros = self.counts(picker, [0, 0])
        #expect((4700...5300).contains(zeros[0]))
    }

    @Test func roundRobinTakesTurns() throws {
        let picker = try plugin(
            "round-robin-picker", "{maxNumOfEndpoints: 2}", as: RoundRobinPicker.self)
        var random = RandomSource(seed: 1)
        var picks: [[Int]] = []
        for _ in 0..<4 {
            var candidates = (0..<3).map { ScoredCandidate(index: $0, score: 0) }
            picker.pick(&candidates, random: &random)
            picks.append(candidates.map(\.index))
        }
        #expect(picks == [[0, 1], [1, 2], [2, 0], [0, 1]])
    }

    @Test(arguments: ["{maxNumOfEndpoints: 0}", "{maxNumEndpoints: 1}"])
    func refusesWrongLimits(parameters: String) {
        #expect(throws: (any Error).self) {
            try plugin("max-score-picker", parameters, as: MaxScorePicker.self)
        }
    }
}
