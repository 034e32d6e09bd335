import Core
import Scheduling
import SchedulingPlugins
import Testing

@Suite struct FilterTests {
    private static let roles: [String?] = [
        "prefill", "decode", "both", "prefill-decode", "encode", "encode-prefill",
        "encode-prefill-decode", nil, "nonsense",
    ]
    private var pool: SchedulingContext {
        context(
            count: Self.roles.count,
            labels: Self.roles.map { role in role.map { ["llm-d.ai/role": $0] } ?? [:] })
    }

    @Test func prefillFilter() throws {
        #expect(
            try plugin("prefill-filter", as: PrefillFilter.self).kept(in: pool) == [0, 2, 3, 5, 6])
    }

    @Test func decodeFilterTakesUnlabelledServersToo() throws {
        #expect(
            try plugin("decode-filter", as: DecodeFilter.self).kept(in: pool) == [1, 2, 3, 6, 7])
    }

    @Test(arguments: [
        ("{}", [0, 1, 2]),
        ("{matchLabels: {a: x}}", [0, 1]),
        ("{matchLabels: {a: x, b: '1'}}", [1]),
        ("{matchExpressions: [{key: a, operator: In, values: [x, y]}]}", [0, 1]),
        ("{matchExpressions: [{key: b, operator: NotIn, values: ['1']}]}", [0, 2]),
        ("{matchExpressions: [{key: b, operator: Exists}]}", [1]),
        ("{matchExpressions: [{key: a, operator: DoesNotExist}]}", [2]),
    ])
    func labelSelector(parameters: String, kept: [Int]) throws {
        let pool = context(count: 3, labels: [["a": "x"], ["a": "x", "b": "1"], [:]])
        let filter = try plugin("label-selector-filter", parameters, as: LabelSelectorFilter.self)
        #expect(filter.kept(in: pool) == kept)
    }

    @Test(arguments: [
        "{matchExpressions: [{key: a, operator: In}]}",
        "{matchExpressions: [{key: a, operator: Exists, values: [x]}]}",
        "{matchExpressions: [{key: a, operator: Inn, values: [x]}]}",
    ])
    func labelSelectorRefuses(parameters: String) {
        #expect(throws: (any Error).self) {
            try plugin("label-selector-filter", parameters, as: LabelSelectorFilter.self)
        }
    }
}
