extension Trace {
    /// A block that so many different ones follow is taken for a template that sessions share,
    /// such as a system prompt or a document.
    static let templateFollowerCount = 8

    /// For each request the session that it belongs to, as its client would name it. A trace does
    /// not say; requests count as one session if their prompts agree beyond the last template
    /// block, that is, in the first block that is the dialogue's own.
    package var sessions: [Int] {
        var followers: [Int: Set<Int>] = [:]
        for request in requests {
            for (block, next) in zip(request.hashIDs, request.hashIDs.dropFirst())
            where followers[block, default: []].count < Self.templateFollowerCount {
                followers[block, default: []].insert(next)
            }
        }
        var numbers: [Int: Int] = [:]
        var count = 0
        return requests.map { request in
            let template = request.hashIDs.lastIndex {
                followers[$0, default: []].count == Self.templateFollowerCount
            }
            let own = request.hashIDs.dropFirst(template.map { $0 + 1 } ?? 0).first
            if let own, let known = numbers[own] { return known }
            defer { count += 1 }
            if let own { numbers[own] = count }
            return count
        }
    }
}
