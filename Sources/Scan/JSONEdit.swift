/// A list of changes to the members of an object, made in one copy of its text.
///
/// What is not changed keeps its bytes. Where a changed key stands more than once, only the last
/// place stays, so that no reader can see an older value.
public struct JSONEdit {
    private let document: JSONDocument
    private var changes = Changes()

    /// Starts with no change.
    ///
    /// - Throws: ``ScanError`` of reason `kind` if the document is not an object.
    public init(_ document: JSONDocument) throws(ScanError) {
        guard document.root.kind == .object else {
            throw ScanError(offset: document.root.byteRange.lowerBound, reason: .kind)
        }
        self.document = document
    }

    /// Gives a member a value, at the end of its object if it is new.
    ///
    /// `path` is a key, or the keys of the objects on the way and then the member's. An object on
    /// the way that is missing, or is another kind of value, is made new.
    public mutating func set(_ path: String..., to fragment: JSONFragment) {
        changes.add(.replace(fragment), at: path[...])
    }

    /// Removes a member if it is there; `path` as for ``set(_:to:)``.
    public mutating func remove(_ path: String...) {
        changes.add(.remove, at: path[...])
    }

    /// The text with the changes.
    public func apply() -> [UInt8] {
        var writer = JSONWriter(capacity: document.bytes.count + 512)
        changes.write(document.root, to: &writer)
        return writer.bytes
    }
}

/// A value to put into a text.
public enum JSONFragment: Sendable {
    case null
    case bool(Bool)
    case int(Int)
    case string(String)
    /// A value of any document, copied as it stands.
    case value(JSONValue)
    /// JSON text.
    case raw([UInt8])

    fileprivate func write(key: String, to writer: inout JSONWriter) {
        writer.key(key)
        switch self {
        case .null: writer.null()
        case .bool(let value): writer.bool(value)
        case .int(let value): writer.int(value)
        case .string(let value): writer.string(value)
        case .value(let value): writer.raw(value.rawBytes)
        case .raw(let json): writer.raw(json)
        }
    }
}

private enum Change {
    case replace(JSONFragment)
    case remove
    case inside(Changes)
}

/// The changes to the members of one object; few, so a list.
private struct Changes {
    private var list: [(key: String, change: Change)] = []

    mutating func add(_ change: Change, at path: ArraySlice<String>) {
        guard let key = path.first else { return }
        let old = list.firstIndex { $0.key == key }
        var change = change
        if path.count > 1 {
            var inside = Changes()
            if let old, case .inside(let earlier) = list[old].change { inside = earlier }
            inside.add(change, at: path.dropFirst())
            change = .inside(inside)
        }
        if let old {
            list[old].change = change
        } else {
            list.append((key, change))
        }
    }

    private var addsMembers: Bool {
        list.contains { _, change in
            switch change {
            case .replace: true
            case .remove: false
            case .inside(let changes): changes.addsMembers
            }
        }
    }

    /// Writes `object` with the changes; nil stands for one with no members.
    func write(_ object: JSONValue?, to writer: inout JSONWriter) {
        writer.beginObject()
        if let object { writeMembers(of: object, to: &writer) }
        for (key, change) in list where object?[key] == nil {
            write(change, of: nil, key: key, to: &writer)
        }
        writer.endObject()
    }

    /// Neighbours without a change are written as one piece, their commas included.
    private func writeMembers(of object: JSONValue, to writer: inout JSONWriter) {
        var unchanged: Range<Int>?
        var members = object.members
        while let member = members.nextTokens() {
            let range = member.key.byteRange.lowerBound..<member.value.byteRange.upperBound
            guard let (key, change) = list.first(where: { member.key.equals($0.key) }) else {
                unchanged = (unchanged?.lowerBound ?? range.lowerBound)..<range.upperBound
                continue
            }
            if let run = unchanged { writer.raw(object.document.bytes[run]) }
            unchanged = nil
            if object[key]?.index == member.value.index {
                write(change, of: member.value, key: key, to: &writer)
            }
        }
        if let run = unchanged { writer.raw(object.document.bytes[run]) }
    }

    private func write(
        _ change: Change, of old: JSONValue?, key: String, to writer: inout JSONWriter
    ) {
        switch change {
        case .remove: return
        case .replace(let fragment):
            fragment.write(key: key, to: &writer)
        case .inside(let changes):
            let object = old?.kind == .object ? old : nil
            guard object != nil || changes.addsMembers else {
                // Nothing to remove from; what is there stays.
                if let old { JSONFragment.value(old).write(key: key, to: &writer) }
                return
            }
            writer.key(key)
            changes.write(object, to: &writer)
        }
    }
}
