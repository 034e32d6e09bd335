import Core
import KVIndexIO
import Testing

@Suite struct PodEntryTests {
    private func text(_ entry: PodEntry) -> String {
        String(decoding: entry.encoded, as: UTF8.self)
    }

    @Test func fieldsAreThoseOfGo() {
        #expect(
            text(PodEntry(pod: "10.0.0.1:8000", tier: .gpu, group: 0))
                == #"{"PodIdentifier":"10.0.0.1:8000","DeviceTier":"gpu","Speculative":false,"#
                + #""HasGroup":true,"GroupIdx":0}"#)
        #expect(
            text(PodEntry(pod: "[fd00::7]:8000", tier: .disk, group: nil))
                == #"{"PodIdentifier":"[fd00::7]:8000","DeviceTier":"storage","#
                + #""Speculative":false,"HasGroup":false,"GroupIdx":0}"#)
    }

    @Test func goEscapesMoreThanJSONMust() {
        let encoded = text(PodEntry(pod: "a<b>&\"\\\u{2028}\u{2029}é‐", tier: .cpu, group: 12))
        #expect(
            encoded
                == #"{"PodIdentifier":"a\u003cb\u003e\u0026\"\\\u2028\u2029é‐","#
                + #""DeviceTier":"cpu","Speculative":false,"HasGroup":true,"GroupIdx":12}"#)
    }

    @Test(arguments: Tier.allCases, [nil, 0, 7]) func fieldsReadBack(tier: Tier, group: Int?) {
        let entry = PodEntry(pod: "a<b>&\u{2029}:1", tier: tier, group: group)
        #expect(PodEntry(entry.encoded) == entry)
    }

    @Test(arguments: [
        ("gpu", Tier.gpu), ("", .gpu), ("cpu", .cpu), ("cpu_pinned", .cpu), ("storage", .disk),
        ("disk", .disk), ("fs", .disk), ("shared_storage", .disk), ("remote", .remote),
        ("external", .remote), ("floppy", .remote),
    ]) func tiersOfAllEnginesAreKnown(name: String, tier: Tier) {
        let field = #"{"PodIdentifier":"p","DeviceTier":"\#(name)"}"#
        #expect(PodEntry(Array(field.utf8))?.tier == tier)
    }

    @Test func membersMayBeMissingOrNew() throws {
        let read = try #require(
            PodEntry(Array(#"{"GroupIdx":4,"retrievalSpan":2,"PodIdentifier":"p"}"#.utf8)))
        #expect(read == PodEntry(pod: "p", tier: .gpu, group: nil))
    }
}
