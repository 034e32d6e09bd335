/// What is wrong with a configuration, and where.
public struct ConfigError: Error, Equatable, Sendable, CustomStringConvertible {
    /// The file as the user named it.
    public var file: String
    /// Counted from 1; nil if no line can be named, as for a missing file.
    public var line: Int?
    /// What is wrong, for people.
    public var problem: String

    /// Makes an error.
    public init(file: String, line: Int?, problem: String) {
        self.file = file
        self.line = line
        self.problem = problem
    }

    /// `file:line: problem`, the form that editors jump to.
    public var description: String {
        line.map { "\(file):\($0): \(problem)" } ?? "\(file): \(problem)"
    }
}

/// The end of a sentence about an unknown name: the nearest valid one, or all if none is near.
public func suggestion(for name: String, among valid: some Sequence<String>) -> String {
    let ranked = valid.map { (name: $0, distance: editDistance(name, $0)) }
        .sorted { ($0.distance, $0.name) < ($1.distance, $1.name) }
    guard let nearest = ranked.first else { return "none is valid here" }
    if nearest.distance <= max(2, name.count / 3) { return "did you mean '\(nearest.name)'?" }
    return "valid are " + ranked.map(\.name).sorted().joined(separator: ", ")
}

/// Insertions, deletions and replacements that lead from one text to the other (Levenshtein).
private func editDistance(_ left: String, _ right: String) -> Int {
    let left = Array(left.utf8)
    let right = Array(right.utf8)
    var row = Array(0...right.count)
    for (i, a) in left.enumerated() {
        var diagonal = row[0]
        row[0] = i + 1
        for (j, b) in right.enumerated() {
            let replaced = diagonal + (a == b ? 0 : 1)
            diagonal = row[j + 1]
            row[j + 1] = min(replaced, row[j] + 1, diagonal + 1)
        }
    }
    return row[right.count]
}
